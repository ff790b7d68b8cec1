package infra_test

import (
	"maps"
	"slices"
	"testing"
)

// principal is one of the roles, as IAM sees it.
type principal struct {
	name     string
	identity policy
}

// world is everything that decides about a call.
type world struct {
	roles  map[string]principal
	bucket policy
	events policy
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{roles: map[string]principal{}, bucket: readPolicy(t, "bucket-policy.json"), events: readPolicy(t, "events-queue-policy.json")}
	for _, name := range []string{"watcher", "runner", "user"} {
		w.roles[name] = principal{name, readPolicy(t, name+".json")}
	}
	return w
}

// call is an API call as a client sends it, which may need several rights.
type call struct {
	name     string
	requests []request
}

// Conditions of a write, as headers.
const (
	unconditional = ""
	ifAbsent      = "s3:if-none-match"
	ifMatch       = "s3:if-match"
)

func object(key string) string { return "arn:aws:s3:::" + bucket + "/" + key }

func queueARN(name string) string { return "arn:aws:sqs:" + region + ":" + account + ":" + name }

// overTLS is the context of every request that comes over TLS.
func overTLS(more map[string]string) map[string]string {
	c := map[string]string{"aws:SecureTransport": "true"}
	maps.Copy(c, more)
	return c
}

// get is GetObject and HeadObject: both need the same right.
func get(key string) call {
	return call{"get " + key, []request{{action: "s3:GetObject", resource: object(key), context: overTLS(nil)}}}
}

// getAbsent is GetObject or HeadObject of a key that may be absent: S3 says 403 instead of 404 to who may not list
// the bucket, and there is no s3:prefix in such a request.
func getAbsent(key string) call {
	c := get(key)
	return call{c.name + " or learn that it is absent", append(c.requests, request{
		action: "s3:ListBucket", resource: "arn:aws:s3:::" + bucket, context: overTLS(nil),
	})}
}

func listing(prefix string) call {
	return call{"list " + prefix, []request{{
		action: "s3:ListBucket", resource: "arn:aws:s3:::" + bucket, context: overTLS(map[string]string{"s3:prefix": prefix}),
	}}}
}

func remove(key string) call {
	return call{"delete " + key, []request{{action: "s3:DeleteObject", resource: object(key), context: overTLS(nil)}}}
}

// put is PutObject. If-Match needs the right to read, too.
func put(key, condition string) call {
	c := write(key, condition)
	if condition == ifMatch {
		c.requests = append(c.requests, get(key).requests...)
	}
	return c
}

// write is the right to put alone.
func write(key, condition string) call {
	context := overTLS(map[string]string{"s3:ObjectCreationOperation": "true"})
	if condition != unconditional {
		context[condition] = "an etag, or *"
	}
	return call{"put " + key + " " + condition, []request{{action: "s3:PutObject", resource: object(key), context: context}}}
}

// upload is a multipart upload: only its completion creates an object and carries the condition.
func upload(key, condition string) call {
	parts := request{
		action: "s3:PutObject", resource: object(key),
		context: overTLS(map[string]string{"s3:ObjectCreationOperation": "false"}),
	}
	abort := request{action: "s3:AbortMultipartUpload", resource: object(key), context: overTLS(nil)}
	return call{"upload " + key + " " + condition, append(put(key, condition).requests, parts, abort)}
}

// onQueue is a call of SQS; the batch calls need the same rights as the single ones.
func onQueue(name string, actions ...string) call {
	c := call{name: "use " + name}
	for _, a := range actions {
		c.name += " " + a
		c.requests = append(c.requests, request{action: "sqs:" + a, resource: queueARN(name), context: overTLS(nil)})
	}
	return c
}

// may reports whether role may make the call, which takes all its requests.
func (w *world) may(t *testing.T, role string, c call) (allowed bool, why string) {
	t.Helper()
	p, ok := w.roles[role]
	if !ok || len(c.requests) == 0 {
		t.Fatalf("role %q, %d requests", role, len(c.requests))
	}
	for _, r := range c.requests {
		allowed, why, err := evaluate(r, []policy{p.identity}, []policy{w.bucket, w.events})
		if err != nil {
			t.Fatal(err)
		}
		if !allowed {
			return false, r.action + " " + r.resource + " is " + why
		}
	}
	return true, "allowed"
}

func (w *world) mustAllow(t *testing.T, role string, calls ...call) {
	t.Helper()
	for _, c := range calls {
		if ok, why := w.may(t, role, c); !ok {
			t.Errorf("%s cannot %s: %s", role, c.name, why)
		}
	}
}

// mustDeny expects that every single right that the calls need is denied, so that a call is not refused for
// one reason while it would succeed in another form.
func (w *world) mustDeny(t *testing.T, role string, calls ...call) {
	t.Helper()
	for _, c := range calls {
		for _, r := range c.requests {
			if ok, why := w.may(t, role, call{c.name, []request{r}}); ok {
				t.Errorf("%s can %s: %s on %s is %s", role, c.name, r.action, r.resource, why)
			}
		}
	}
}

// others are the roles that are not named.
func (w *world) others(names ...string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.roles)), func(r string) bool { return slices.Contains(names, r) })
}
