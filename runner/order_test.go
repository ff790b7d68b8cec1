package runner

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
)

// Order decides when a line is asked, over the chunks of a shard, and never what comes out.
func TestOrder(t *testing.T) {
	tests := map[string][]int{
		"":                {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
		batch.OrderPrefix: {1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 2, 20, 3, 4, 5, 6, 7, 8, 9, 21, 22}, // the second shard has 21 and 22
		// By max_tokens: 22 of line 13, 21 of line 3, down to 1 of line 10; then 16 of line 22 and 9 of line 21.
		batch.OrderLongest: {13, 3, 16, 6, 19, 9, 12, 2, 15, 5, 18, 8, 11, 1, 14, 4, 17, 7, 20, 10, 22, 21},
	}
	for order, want := range tests {
		t.Run("order "+order, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world, e *wired) {
				plan := w.planned(inputKey, 22, 10, 1)
				plan.Order = order
				w.putJSON(batch.PlanKey(plan.Batch), plan)
				w.send(plan)
				cfg := w.defaults(e)
				cfg.Slots, cfg.Window = 1, 1
				if err := w.run(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				var got []int
				for _, a := range e.log() {
					got = append(got, a.line)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("lines asked (-want +got):\n%s", diff)
				}
				w.wantAll(plan, 1, 22)
			})
		})
	}
}

func TestArrange(t *testing.T) {
	bodies := []string{
		`{"model":"b","messages":"same"}`,
		`{"max_tokens":7,"model":"a","messages":"same, and more"}`,
		`{"max_tokens":9,"model":"a","tools":[1],"messages":"other"}`,
		`{"max_tokens":900,"max_completion_tokens":8,"model":"a","prompt":"same"}`,
		`{"max_tokens":"many","model":"a","messages":"same"}`,
		`{"max_tokens":null,"model":"a","input":["same"]}`,
		`{"max_tokens":9.0,"model":"a","messages":"same"}`,
		`{"max_tokens":9,"model":"a","messages":"same"}`,
		`{"max_output_tokens":10,"model":"a","instructions":"!","input":"same"}`,
	}
	tests := map[string][]int{
		"":                 {0, 1, 2, 3, 4, 5, 6, 7, 8},
		batch.OrderLongest: {0, 4, 5, 6, 8, 2, 7, 3, 1}, // no bound that can be read is the longest; 9 and 9 as in the file
		batch.OrderPrefix:  {8, 3, 4, 6, 7, 1, 5, 2, 0}, // instructions before what is asked
	}
	for order, want := range tests {
		var tasks []*task
		for i, body := range bodies {
			tasks = append(tasks, &task{line: int64(i), body: []byte(body)})
		}
		arrange(order, tasks)
		var got []int
		for _, t := range tasks {
			got = append(got, int(t.line))
		}
		if !slices.Equal(got, want) {
			t.Errorf("order %q: %v, want %v", order, got, want)
		}
	}
}

func BenchmarkArrange(b *testing.B) {
	for _, order := range []string{batch.OrderLongest, batch.OrderPrefix} {
		b.Run(order, func(b *testing.B) {
			tasks := make([]*task, 8000)
			for i := range tasks {
				tasks[i] = &task{body: fmt.Appendf(nil, `{"model":"m","messages":[{"role":"user","content":"%02000d"}],"max_tokens":%d}`, i*7919%8000, i*7919%8000)}
			}
			for b.Loop() {
				arrange(order, slices.Clone(tasks))
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/8000, "µs/line")
		})
	}
}
