package runner

import (
	"io"
	"net/http"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"spool/storage/batch"
)

// What is logged of a request has its id; at info level nothing is, not even of one that is asked again.
func TestRequestsAreLoggedAtDebugOnly(t *testing.T) {
	for level, want := range map[zapcore.Level]int{zap.DebugLevel: 4, zap.InfoLevel: 0} {
		w := newWorld(t)
		w.engine.script = func(w http.ResponseWriter, _ *http.Request, _ string, ask int) bool {
			if ask > 1 {
				return false
			}
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"error":{"message":"it was: prompt"}}`)
			return true
		}
		plan := w.batch(2, 10)
		core, logs := observer.New(level)
		cfg := w.config()
		cfg.Log = zap.New(core)
		if err := w.run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		tries := map[string][]int64{}
		n := 0
		for _, e := range logs.All() {
			fields := e.ContextMap()
			if fields["event"] != "request_answered" {
				if fields["request_id"] != nil {
					t.Errorf("%s is about a request", e.Message)
				}
				continue
			}
			n++
			id := fields["request_id"].(string)
			tries[id] = append(tries[id], fields["attempt"].(int64))
			if fields["batch_id"] != plan.Batch || fields["chunk"] != int64(0) || fields["error"] != nil {
				t.Errorf("line %v", fields)
			}
			status, code := int64(http.StatusOK), ""
			if fields["attempt"] == int64(1) {
				status, code = http.StatusInternalServerError, "http_500"
			}
			if fields["status"] != status || fields["code"] != code {
				t.Errorf("line %v, want status %d and code %q", fields, status, code)
			}
		}
		if n != want {
			t.Errorf("%d requests logged at %s, want %d", n, level, want)
		}
		for line := int64(1); line <= 2 && level == zap.DebugLevel; line++ {
			if got := tries[batch.RequestID(plan.Batch, line)]; len(got) != 2 || got[0] != 1 || got[1] != 2 {
				t.Errorf("line %d has attempts %v, want 1 and 2", line, got)
			}
		}
	}
}
