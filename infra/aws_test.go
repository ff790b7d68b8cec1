package infra_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spool/storage/batch"
	"spool/storage/queue"
)

const (
	id     = "bpicclhpxbn2qqhb5uxmxo6zjly"
	input  = "in/math/gsm8k.jsonl"
	runner = "r-host-1"
)

// Keys of logs.
var (
	logPart    = batch.LogDir(input, id) + runner + "/" + batch.LogPart(1, 9)
	joinedLogs = batch.JoinedLogKey(batch.LogDir(input, id), "7")
)

func TestUserWritesInputsAndReadsResults(t *testing.T) {
	w := newWorld(t)
	out := batch.OutDir(input, id)
	w.mustAllow(t, "user",
		put(input, unconditional), put(input, ifAbsent), upload(input, unconditional), upload(input, ifAbsent),
		put(input+batch.CancelSuffix, unconditional),
		get(input), get(out+batch.OutputName), get(out+batch.ObjectName), get(batch.StatusKey(input, id)),
		get(logPart), get(joinedLogs),
		listing("in/"), listing("in/math/"), listing(input), listing(out), listing(batch.LogDir(input, id)),
	)
	w.mustDeny(t, "user",
		get(batch.PlanKey(id)), get(batch.PieceKey(id, "f", 0)), get(batch.ChunkKey(id, 0, 0)),
		listing(""), listing("sys/"), listing(batch.Dir(id)),
		put(out+batch.OutputName, ifAbsent), put(batch.StatusKey(input, id), unconditional), upload(batch.ChunkKey(id, 0, 0), ifAbsent),
		remove(input), remove(out+batch.OutputName), remove(batch.PlanKey(id)), put(logPart, unconditional), remove(logPart),
		onQueue(queue.PoolQueue(pool), "SendMessage", "ReceiveMessage", "DeleteMessage", "PurgeQueue"),
		onQueue(queue.EventsQueue, "SendMessage"),
	)
}

func TestWatcherDoesItsWorkAndLeavesInputsAlone(t *testing.T) {
	w := newWorld(t)
	probe := batch.SysPrefix + "probe/0/x"
	w.mustAllow(t, "watcher",
		listing(batch.InPrefix), listing(batch.OpenPrefix), listing(batch.EndedPrefix), listing(batch.DonePrefix(id)), listing(batch.Dir(id)),
		getAbsent(input), getAbsent(input+batch.CancelSuffix), getAbsent(batch.PlanKey(id)), getAbsent(batch.ResultKey(id)),
		getAbsent(batch.LeaseKey(id, 0)), getAbsent(batch.SentKey(id)), getAbsent(batch.OutDir(input, id)+batch.ObjectName),
		getAbsent(batch.ChunkKey(id, 0, 0)), getAbsent(batch.RunnerKey(id, runner)),
		put(probe, unconditional), put(probe, ifAbsent), put(probe, ifMatch), upload(probe, ifAbsent), remove(probe),
		put(batch.SysPrefix+"collected", unconditional), getAbsent(batch.SysPrefix+"collected"),
		remove(batch.OpenKey(id)), remove(batch.PieceKey(id, "f", 0)), remove(batch.BadKey(id, "f")),
		remove(batch.ChunkKey(id, 0, 0)), remove(batch.LeaseKey(id, 0)), remove(batch.SegmentKey(id, 0, runner, 1)),
		listing(batch.LogsPrefix), getAbsent(logPart), getAbsent(joinedLogs), upload(joinedLogs, unconditional),
		remove(logPart), remove(joinedLogs), remove(batch.OtherLogDir("runner", runner)+batch.LogPart(1, 9)),
		onQueue(queue.PoolQueue(pool), "GetQueueUrl", "GetQueueAttributes", "SendMessage"),
		onQueue(queue.FastQueue(pool), "GetQueueUrl", "GetQueueAttributes", "SendMessage"),
		onQueue(queue.DeadQueue(pool), "GetQueueUrl", "ReceiveMessage", "DeleteMessage"),
		onQueue(queue.EventsQueue, "GetQueueUrl", "ReceiveMessage", "DeleteMessage"),
	)
	w.mustDeny(t, "watcher",
		put(input, ifAbsent), upload(input, ifAbsent), put(input+batch.CancelSuffix, unconditional), remove(input),
		remove(batch.PlanKey(id)), remove(batch.ManifestKey(id)), remove(batch.ResultKey(id)), remove(batch.StopKey(id)),
		remove(batch.DoneKey(id, 0)), remove(batch.SentKey(id)),
		remove(batch.EndedKey(input, "etag", time.Unix(0, 0))), remove(batch.RunnerKey(id, runner)),
		remove(batch.OutDir(input, id)+batch.OutputName), remove(batch.OutDir(input, id)+batch.ObjectName),
		remove(batch.LogsPrefix+"notes.txt"),
		onQueue(queue.PoolQueue(pool), "ReceiveMessage", "DeleteMessage", "PurgeQueue", "SetQueueAttributes"),
		onQueue("other", "SendMessage"),
	)
}

func TestRunnerDoesItsWorkAndDeletesNothing(t *testing.T) {
	w := newWorld(t)
	w.mustAllow(t, "runner",
		getAbsent(batch.PlanKey(id)), getAbsent(batch.StopKey(id)), getAbsent(batch.ResultKey(id)), getAbsent(batch.LeaseKey(id, 0)),
		get(batch.PieceKey(id, "f", 0)), get(batch.BadKey(id, "f")), getAbsent(batch.ChunkKey(id, 0, 0)), get(batch.SegmentKey(id, 0, runner, 1)),
		getAbsent(batch.OutDir(input, id)+batch.OutputName), getAbsent(batch.OutDir(input, id)+batch.ObjectName),
		listing(batch.ChunkPrefix(id, 0)), listing(batch.SegmentPrefix(id, 0)), listing(batch.DonePrefix(id)), listing(batch.RunnersPrefix(id)),
		onQueue(queue.PoolQueue(pool), "GetQueueUrl", "ReceiveMessage", "ChangeMessageVisibility", "SendMessage", "DeleteMessage"),
		onQueue(queue.FastQueue(pool), "GetQueueUrl", "ReceiveMessage", "ChangeMessageVisibility", "SendMessage", "DeleteMessage"),
	)
	for _, key := range slices.Concat(sampleKeys(), []string{input}) {
		w.mustDeny(t, "runner", remove(key))
	}
	w.mustDeny(t, "runner",
		get(input), put(input, ifAbsent), get(logPart), put(joinedLogs, unconditional),
		put(batch.StatusKey(input, id), unconditional), put(batch.OpenKey(id), ifAbsent),
		onQueue(queue.PoolQueue("big"), "ReceiveMessage", "SendMessage", "DeleteMessage"),
		onQueue(queue.EventsQueue, "ReceiveMessage", "SendMessage"),
		onQueue(queue.DeadQueue(pool), "ReceiveMessage", "DeleteMessage"),
		call{"list all buckets", []request{{action: "s3:ListAllMyBuckets", resource: "arn:aws:s3:::*", context: overTLS(nil)}}},
		call{"change the bucket policy", []request{{action: "s3:PutBucketPolicy", resource: "arn:aws:s3:::" + bucket, context: overTLS(nil)}}},
	)
}

// sampleKeys are keys of every kind that spool makes.
func sampleKeys() []string {
	out := batch.OutDir(input, id)
	return []string{
		batch.PlanKey(id), batch.StopKey(id), batch.SentKey(id), batch.ManifestKey(id), batch.ResultKey(id), batch.OpenKey(id),
		batch.DoneKey(id, 0), batch.PieceKey(id, "f", 0), batch.BadKey(id, "f"), batch.LeaseKey(id, 0), batch.ChunkKey(id, 0, 0),
		batch.SegmentKey(id, 0, runner, 1), batch.RunnerKey(id, runner), batch.EndedKey(input, "etag", time.Unix(0, 0)),
		out + batch.OutputName, out + batch.ErrorsName, out + batch.InvalidName, out + batch.SummaryName, out + batch.ReportName,
		out + batch.ObjectName, batch.StatusKey(input, id), logPart, joinedLogs, batch.OtherLogDir("runner", runner) + batch.LogPart(1, 9),
	}
}

func TestNobodyComesWithoutTLS(t *testing.T) {
	w := newWorld(t)
	for role, c := range map[string]call{
		"user": put(input, unconditional), "watcher": get(batch.PlanKey(id)), "runner": put(batch.ChunkKey(id, 0, 0), ifAbsent),
	} {
		w.mustAllow(t, role, c)
		c.requests[0].context["aws:SecureTransport"] = "false"
		w.mustDeny(t, role, c)
	}
}

func TestOnlyS3ForThisBucketSendsEvents(t *testing.T) {
	w := newWorld(t)
	send := func(service, source, sourceAccount string) request {
		return request{
			service: service, action: "sqs:SendMessage", resource: queueARN(queue.EventsQueue),
			context: map[string]string{"aws:SourceArn": source, "aws:SourceAccount": sourceAccount},
		}
	}
	const s3, arn = "s3.amazonaws.com", "arn:aws:s3:::" + bucket
	tests := []struct {
		name string
		r    request
		want bool
	}{
		{"the bucket", send(s3, arn, account), true},
		{"another bucket", send(s3, arn+"2", account), false},
		{"a bucket of that name in another account", send(s3, arn, "999999999999"), false},
		{"another service", send("sns.amazonaws.com", arn, account), false},
		{"an anonymous caller", send("", arn, account), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, why, err := evaluate(tt.r, nil, []policy{w.events})
			if got != tt.want || err != nil {
				t.Errorf("allowed = %t (%s), %v; want %t", got, why, err, tt.want)
			}
		})
	}
}

func TestNotificationSendsNewInputsToTheEventsQueue(t *testing.T) {
	type rule struct{ Name, Value string }
	var n struct {
		QueueConfigurations []struct {
			ID       string `json:"Id"`
			QueueARN string `json:"QueueArn"`
			Events   []string
			Filter   struct{ Key struct{ FilterRules []rule } }
		}
	}
	if err := strict(readTemplate(t, "bucket-notification.json"), &n); err != nil {
		t.Fatal(err)
	}
	if len(n.QueueConfigurations) != 1 {
		t.Fatalf("%d configurations, want 1", len(n.QueueConfigurations))
	}
	q := n.QueueConfigurations[0]
	if q.QueueARN != queueARN(queue.EventsQueue) || !slices.Equal(q.Events, []string{"s3:ObjectCreated:*"}) {
		t.Errorf("sends %q to %q", q.Events, q.QueueARN)
	}
	if !slices.Equal(q.Filter.Key.FilterRules, []rule{{"prefix", batch.InPrefix}}) {
		t.Errorf("filter is %v, want the prefix %q", q.Filter.Key.FilterRules, batch.InPrefix)
	}
}

// lifecycle is the part of a lifecycle configuration that is used; decoding refuses the rest.
type lifecycle struct {
	Rules []struct {
		ID, Status                     string
		Filter                         struct{ Prefix string }
		AbortIncompleteMultipartUpload struct{ DaysAfterInitiation int }
		NoncurrentVersionExpiration    struct{ NoncurrentDays int }
		Expiration                     struct {
			Days                      int
			ExpiredObjectDeleteMarker bool
		}
	}
}

// A lifecycle rule cannot know whether a batch has its result, and its prefixes know no wildcards: what belongs to a
// batch is deleted by the watcher, and by nobody else.
func TestLifecycleExpiresNothingThatABatchNeeds(t *testing.T) {
	var l lifecycle
	if err := strict(readTemplate(t, "lifecycle.json"), &l); err != nil {
		t.Fatal(err)
	}
	aborts := false
	for _, r := range l.Rules {
		if r.Status != "Enabled" {
			t.Errorf("rule %q is %s", r.ID, r.Status)
		}
		aborts = aborts || r.Filter.Prefix == "" && r.AbortIncompleteMultipartUpload.DaysAfterInitiation == 2
		if d := r.NoncurrentVersionExpiration.NoncurrentDays; d != 0 && !strings.HasPrefix(r.Filter.Prefix, batch.SysPrefix) {
			t.Errorf("rule %q drops old versions of what users wrote or read", r.ID)
		}
		for _, key := range slices.Concat(sampleKeys(), []string{input}) {
			if r.Expiration.Days != 0 && strings.HasPrefix(key, r.Filter.Prefix) {
				t.Errorf("rule %q expires %s", r.ID, key)
			}
		}
	}
	if !aborts {
		t.Error("no rule aborts uploads that nobody completes, anywhere, after 2 days")
	}
}

func TestPoliciesAreWellFormed(t *testing.T) {
	names, err := filepath.Glob("aws/*.json")
	if err != nil || len(names) != 7 {
		t.Fatalf("found %q, %v; want 7 files", names, err)
	}
	for _, name := range names {
		var raw struct{ Version string }
		body, err := os.ReadFile(name)
		if err != nil || json.Unmarshal(body, &raw) != nil {
			t.Errorf("%s: %v", name, err)
		}
		if raw.Version == "" {
			continue // no policy
		}
		sids := map[string]bool{}
		for _, s := range readPolicy(t, filepath.Base(name)).Statement {
			if raw.Version != "2012-10-17" || s.Sid == "" || sids[s.Sid] || s.Effect != "Allow" && s.Effect != "Deny" {
				t.Errorf("%s: version %q, statement %q, effect %q", name, raw.Version, s.Sid, s.Effect)
			}
			sids[s.Sid] = true
			if s.Effect == "Allow" && slices.ContainsFunc(s.Action, func(a string) bool { return strings.Contains(a, "*") }) {
				t.Errorf("%s: statement %q allows a wildcard of actions: %q", name, s.Sid, s.Action)
			}
		}
	}
}
