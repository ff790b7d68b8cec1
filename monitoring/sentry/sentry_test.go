package sentry_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"spool/monitoring"
	"spool/monitoring/sentry"
	"spool/monitoring/sentry/sentrytest"
	"spool/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	batchA = "baaaaaaaaaaaaaaaaaaaaaaaaaa"
	batchB = "bbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// direct is a connection to a server that takes no time, so that it can be in a synctest bubble.
type direct struct{ http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	d.ServeHTTP(rec, req)
	return rec.Result(), nil
}

// hanging is one that never answers.
type hanging struct{}

func (hanging) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

func config(s *sentrytest.Server, transport http.RoundTripper) sentry.Config {
	return sentry.Config{DSN: s.DSN(), Release: "v1.2.3", Environment: "staging", Server: "r-1", Transport: transport,
		Tags: map[string]string{"component": "runner", "runner_id": "r-1", "pool": "default"}}
}

// reporter is a Reporter in a bubble, its server, and a log that tells it what fails.
func reporter(t *testing.T, change func(*sentry.Config)) (*sentry.Reporter, *sentrytest.Server, *zap.Logger) {
	t.Helper()
	server := sentrytest.NewUnstarted(t, "https://sentry.test")
	cfg := config(server, direct{server})
	if change != nil {
		change(&cfg)
	}
	r, err := sentry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	log, closeLog, err := monitoring.NewLogger(monitoring.Options{Component: "runner", Tracker: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeLog() })
	return r, server, log
}

func fail(log *zap.Logger, batch, event string, err error) {
	log.Error("it failed", zap.String("event", event), zap.String("batch_id", batch), zap.Error(err))
}

func TestEventSaysWhatFailed(t *testing.T) {
	server := sentrytest.New(t)
	reg := prometheus.NewRegistry()
	cfg := config(server, nil)
	cfg.Registerer = reg
	r, err := sentry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	log, _, err := monitoring.NewLogger(monitoring.Options{Component: "runner", Tracker: r})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().UTC()
	for i := range 5 {
		log.Named("job").Error("shard failed", zap.String("event", "shard_failed"), zap.String("batch_id", batchA), zap.Int("shard", i),
			zap.String("request_id", fmt.Sprintf("%s-%d", batchA, i+1)), zap.String("model", "tiny"), zap.Error(&storage.Error{Kind: storage.KindDenied, Op: "put"}))
	}
	r.Close()
	r.Close() // once more does no harm
	events := server.Events()
	if len(events) != 1 {
		t.Fatalf("%d events, want 1", len(events))
	}
	e := events[0]
	spool := e.Contexts["spool"]
	if spool.First.Before(before) || spool.Last.Before(spool.First) || time.Since(spool.Last) > time.Minute || !e.Timestamp.Equal(spool.Last) {
		t.Errorf("first %v, last %v, time %v; began at %v", spool.First, spool.Last, e.Timestamp, before)
	}
	got := map[string]any{
		"level": e.Level, "message": e.Message, "logger": e.Logger, "release": e.Release, "environment": e.Environment, "server": e.Server,
		"tags": e.Tags, "fingerprint": e.Fingerprint, "title": e.Exception[0].Type, "text": e.Exception[0].Value,
		"count": spool.Count, "requests": spool.Requests, "log": spool.Log,
	}
	want := map[string]any{
		"level": "error", "message": "shard failed", "logger": "runner.job", "release": "v1.2.3", "environment": "staging", "server": "r-1",
		"tags": map[string]string{"component": "runner", "runner_id": "r-1", "pool": "default", "batch_id": batchA, "model": "tiny",
			"stage": "shard_failed", "error_type": "store_denied"},
		"fingerprint": []string{"runner", "shard_failed", "store_denied", "tiny"},
		"title":       "shard_failed", "text": (&storage.Error{Kind: storage.KindDenied, Op: "put"}).Error(),
		"count": int64(5), "requests": []string{batchA + "-1", batchA + "-2", batchA + "-3"},
		"log": "spool logs " + batchA + " --level error",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(sent("sentry", 0)), "spool_telemetry_failures_total"); err != nil {
		t.Error(err)
	}
}

func sent(sink string, failures int) string {
	return fmt.Sprintf("# HELP spool_telemetry_failures_total Telemetry that could not be delivered, by sink.\n"+
		"# TYPE spool_telemetry_failures_total counter\nspool_telemetry_failures_total{sink=%q} %d\n", sink, failures)
}

func TestOneEventForEachBatchStageAndKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, server, log := reporter(t, nil)
		timeout := fmt.Errorf("ask: %w", &net.DNSError{IsTimeout: true})
		for range 1000 {
			fail(log, batchA, "shard_failed", timeout)
			fail(log, batchA, "shard_failed", errors.New("boom"))
			fail(log, batchB, "shard_failed", timeout)
			fail(log, "", "scan_failed", timeout)
			log.Warn("no error", zap.String("event", "engine_down"), zap.Error(timeout))
			log.Error("a prompt, perhaps", zap.String("event", "engine_output"))
		}
		r.Close()
		want := map[string]int64{
			batchA + " shard_failed timeout": 1000, batchA + " shard_failed other": 1000,
			batchB + " shard_failed timeout": 1000, " scan_failed timeout": 1000,
		}
		if diff := cmp.Diff(want, server.Counts()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEventsComeWhenTheBatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server, log := reporter(t, nil)
		fail(log, batchA, "shard_failed", errors.New("boom"))
		fail(log, batchA, "shard_failed", errors.New("boom"))
		fail(log, batchB, "shard_failed", errors.New("boom"))
		fail(log, "", "engine_died", errors.New("boom"))
		synctest.Wait()
		if got := server.Counts(); len(got) != 0 {
			t.Errorf("sent before the batch ended: %v", got)
		}
		log.Info("batch ended", zap.String("event", "batch_ended"), zap.String("batch_id", batchA))
		synctest.Wait()
		if diff := cmp.Diff(map[string]int64{batchA + " shard_failed other": 2}, server.Counts()); diff != "" {
			t.Error(diff)
		}
	})
}

// A log that has errors only still knows when a batch has ended, and has nothing of it.
func TestEventsComeWhenTheBatchEndsWhateverTheLevel(t *testing.T) {
	for _, level := range []string{"debug", "info", "warn", "error"} {
		t.Run(level, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, server, _ := reporter(t, nil)
				var out bytes.Buffer
				log, _, err := monitoring.NewLogger(monitoring.Options{Component: "runner", Level: level, Tracker: r, Output: zapcore.AddSync(&out)})
				if err != nil {
					t.Fatal(err)
				}
				log = log.With(zap.String("batch_id", batchA))
				fail(log, batchA, "shard_failed", errors.New("boom"))
				log.Info("batch ended", zap.String("event", "batch_ended"))
				synctest.Wait()
				if diff := cmp.Diff(map[string]int64{batchA + " shard_failed other": 1}, server.Counts()); diff != "" {
					t.Error(diff)
				}
				fail(log, batchA, "shard_failed", errors.New("boom"))
				ended, last := strings.Contains(out.String(), "batch_ended"), `"seq":2`
				if want := level == "debug" || level == "info"; want {
					last = `"seq":3`
					if !ended {
						t.Error("the log has no batch_ended")
					}
				} else if ended {
					t.Error("the log has a line below its level")
				}
				if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); !strings.Contains(lines[len(lines)-1], last) {
					t.Errorf("last line %s, want %s", lines[len(lines)-1], last)
				}
			})
		})
	}
}

// A watcher sees many batches: those that have been told make room for others.
func TestManyBatchesFitWhoseFailuresAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		_, server, log := reporter(t, func(c *sentry.Config) { c.Registerer = reg })
		const n = 1000
		for i := range n {
			id := fmt.Sprintf("b%026d", i)
			lines(log, id, "http_400", 1)
			log.Info("batch ended", zap.String("event", "batch_ended"), zap.String("batch_id", id))
			synctest.Wait()
		}
		if got := len(server.Counts()); got != n {
			t.Errorf("%d batches told, want %d", got, n)
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(sent("sentry", 0)), "spool_telemetry_failures_total"); err != nil {
			t.Error(err)
		}
	})
}

// A failure that goes on for a day makes few events, whose counts are all there is.
func TestFailureThatGoesOnIsToldEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, server, log := reporter(t, nil)
		start := time.Now()
		for range 24 * 60 {
			fail(log, "", "scan_failed", errors.New("boom"))
			time.Sleep(time.Minute)
		}
		r.Close()
		var at []time.Duration
		total := int64(0)
		for _, e := range server.Events() {
			at = append(at, e.Timestamp.Sub(start).Round(10*time.Minute))
			total += e.Count()
		}
		want := []time.Duration{10 * time.Minute, 30 * time.Minute, 70 * time.Minute, 150 * time.Minute, 310 * time.Minute, 630 * time.Minute, 1270 * time.Minute, 1440 * time.Minute}
		if diff := cmp.Diff(want, at); diff != "" || total != 24*60 {
			t.Errorf("%d failures told, want %d; %s", total, 24*60, diff)
		}
	})
}

func TestFailureAfterALongQuietTimeIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server, log := reporter(t, nil)
		for n := range 3 {
			fail(log, "", "scan_failed", errors.New("boom"))
			time.Sleep(10*time.Minute + time.Second)
			synctest.Wait()
			if got := len(server.Events()); got != n+1 {
				t.Fatalf("%d events, want %d", got, n+1)
			}
			time.Sleep(20 * time.Minute)
		}
	})
}

// A server that is down for a while gets all counts later, in one event.
func TestWhatIsRefusedIsToldLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		_, server, log := reporter(t, func(c *sentry.Config) { c.Registerer = reg })
		server.Answer(http.StatusServiceUnavailable)
		fail(log, batchA, "shard_failed", errors.New("boom"))
		fail(log, batchA, "shard_failed", errors.New("boom"))
		time.Sleep(11 * time.Minute)
		server.Answer(http.StatusOK)
		fail(log, batchA, "shard_failed", errors.New("boom"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(map[string]int64{batchA + " shard_failed other": 3}, server.Counts()); diff != "" {
			t.Error(diff)
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(sent("sentry", 1)), "spool_telemetry_failures_total"); err != nil {
			t.Error(err)
		}
	})
}

// lines is what the end of a batch says of lines that failed.
func lines(log *zap.Logger, batch, kind string, n int64) {
	log.Error("lines failed", zap.String("event", "lines_failed"), zap.String("batch_id", batch), zap.String("error_type", "lines"), zap.String("code", kind),
		zap.Int64("lines", n), zap.Strings("request_ids", []string{batch + "-3", batch + "-9"}), zap.String("pool", "big"), zap.String("model", "tiny"))
}

// The end of a batch may be written by several processes, and twice by one. Sentry drops an event whose id it has.
func TestLinesThatFailedAreToldOnceABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, server, log := reporter(t, nil)
		two, second, logTwo := reporter(t, nil)
		for _, l := range []*zap.Logger{log, log, logTwo} {
			lines(l, batchA, "http_400", 7)
			lines(l, batchA, "request_timeout", 2)
			lines(l, batchB, "http_400", 1)
		}
		log.Info("batch ended", zap.String("event", "batch_ended"), zap.String("batch_id", batchA))
		synctest.Wait()
		lines(log, batchA, "http_400", 7) // it has been sent
		one.Close()
		two.Close()
		want := map[string]int64{batchA + " lines_failed http_400": 7, batchA + " lines_failed request_timeout": 2, batchB + " lines_failed http_400": 1}
		ids := map[string]string{}
		for _, s := range []*sentrytest.Server{server, second} {
			if diff := cmp.Diff(want, s.Counts()); diff != "" {
				t.Error(diff)
			}
			for _, e := range s.Events() {
				if other, there := ids[e.Key()]; there && other != e.ID {
					t.Errorf("%s has the ids %s and %s", e.Key(), other, e.ID)
				}
				ids[e.Key()] = e.ID
				if e.Tags["pool"] != "big" || e.Tags["model"] != "tiny" || strings.Join(e.Contexts["spool"].Requests, " ") != e.Tags["batch_id"]+"-3 "+e.Tags["batch_id"]+"-9" {
					t.Errorf("event has the tags %v, the requests %v", e.Tags, e.Contexts["spool"].Requests)
				}
			}
		}
		if len(ids) != len(want) || ids[batchA+" lines_failed http_400"] == ids[batchB+" lines_failed http_400"] {
			t.Errorf("ids are %v", ids)
		}
	})
}

func TestHangingServerDelaysNeitherWorkNorExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		r, _, log := reporter(t, func(c *sentry.Config) { c.Transport, c.Registerer, c.CloseIn = hanging{}, reg, 4*time.Second })
		start := time.Now()
		for i := range 1000 {
			fail(log, batchA, fmt.Sprintf("stage_%d", i), errors.New("boom"))
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("logging waited %v", took)
		}
		r.Close()
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("closing took %v, want 4s", took)
		}
		fail(log, batchA, "late", errors.New("boom"))
		// 800 kinds had no room, 200 events found no server, and one failure came too late.
		if err := testutil.GatherAndCompare(reg, strings.NewReader(sent("sentry", 1001)), "spool_telemetry_failures_total"); err != nil {
			t.Error(err)
		}
	})
}

// quoting is an error that repeats what an engine said.
type quoting struct{ error }

func (quoting) Quotes() bool { return true }

// No prompt, body, header or key is in what is sent, wherever in a line it was.
func TestNothingLeavesThatMustNot(t *testing.T) {
	const prompt, key = "the secret plan of my company", "sk-0123456789abcdefABCDEF"
	server := sentrytest.New(t)
	cfg := config(server, nil)
	r, err := sentry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log, _, err := monitoring.NewLogger(monitoring.Options{Component: "runner", Tracker: r, Output: zapcore.AddSync(&out), Secrets: []string{"my+engine/key"}})
	if err != nil {
		t.Fatal(err)
	}
	log.Error("engine", zap.String("event", "engine_output"), zap.String("text", prompt))
	log.Error("shard failed", zap.String("event", "shard_failed"), zap.Error(fmt.Errorf("commit: %w", quoting{errors.New("400: " + prompt)})))
	log.Error("it failed", zap.String("event", "advance_failed"), zap.String("body", prompt), zap.Strings("last_lines", []string{prompt}),
		zap.Any("headers", http.Header{"Authorization": {"Bearer " + key}}),
		zap.Error(errors.New("put https://s3/x?X-Amz-Signature=0a1b2c3d: Authorization: Bearer "+key+" my+engine/key")))
	lines(log, batchA, "http_400", 1)
	r.Close()
	if n := len(server.Events()); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	for _, e := range server.Events() {
		for _, secret := range []string{prompt, key, "0a1b2c3d", "my+engine/key", "eaders", "body"} {
			if strings.Contains(e.Raw, secret) {
				t.Errorf("%s is in %s", secret, e.Raw)
			}
		}
	}
	if !strings.Contains(out.String(), prompt) {
		t.Error("the log lacks the prompt: nothing was planted")
	}
}

func TestSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		r, server, log := reporter(t, func(c *sentry.Config) { c.SampleRate, c.Registerer = 1e-12, reg })
		for i := range 100 {
			fail(log, batchA, fmt.Sprintf("stage_%d", i), errors.New("boom"))
		}
		r.Close()
		if got := server.Counts(); len(got) != 0 {
			t.Errorf("%d events of 100 in 1e14 were sent", len(got))
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(sent("sentry", 0)), "spool_telemetry_failures_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestBadConfigurationIsRefusedWithoutQuotingIt(t *testing.T) {
	for dsn, rate := range map[string]float64{
		"":                            1,
		"not a DSN":                   1,
		"https://sentry.test/1":       1,
		"https://sekret@sentry.test":  1,
		"ftp://sekret@sentry.test/1":  1,
		"https://sekret@sentry.test/": 1,
		"://sekret":                   1,
		"https://sekret@s.test/1":     1.5,
		"https://sekret@t.test/1":     -0.5,
	} {
		r, err := sentry.New(sentry.Config{DSN: dsn, SampleRate: rate})
		if r != nil || err == nil || !strings.HasPrefix(err.Error(), "sentry: ") || strings.Contains(err.Error(), "sekret") {
			t.Errorf("%q, %v: %v, %v", dsn, rate, r, err)
		}
	}
}
