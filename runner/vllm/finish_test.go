package vllm

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAnswerTellsWhyItEndedAndItsTimes(t *testing.T) {
	ms := time.Millisecond
	for body, want := range map[string]Answer{
		`{"choices":[{"finish_reason":"stop"},{"finish_reason":"length"}],"metrics":null}`: {Finish: 1},
		`{"choices":[{"finish_reason":null},{"finish_reason":"length"}]}`:                  {Finish: 2},
		`{"choices":[{"finish_reason":"a new one"}]}`:                                      {Finish: Finishes - 1},
		`{"choices":[{}],"metrics":[1]}`:                                                   {},
		`{"status":"incomplete","output":[{"status":"completed"}]}`:                        {Finish: 10},
		`[{"status":"stop"}]`: {},
		`{"choices":[{"finish_reason":"tool_calls"}],"metrics":{"time_to_first_token_ms":12.5,"generation_time_ms":40,"queue_time_ms":0,
			"mean_itl_ms":null,"tokens_per_second":9.1,"speculative_decoding":null}}`: {Finish: 3, Timing: &Timing{0, 12500 * time.Microsecond, 40 * ms, -1}},
		`{"metrics":{"queue_time_ms":-1,"mean_itl_ms":1e300,"generation_time_ms":"4","time_to_first_token_ms":0.25}}`: {Timing: &Timing{-1, 250 * time.Microsecond, -1, -1}},
	} {
		got := classify(&http.Response{StatusCode: 200}, []byte(body))
		if diff := cmp.Diff(want, Answer{Finish: got.Finish, Timing: got.Timing}); diff != "" || got.Outcome != OK {
			t.Errorf("%s: outcome %v, %s", body, got.Outcome, diff)
		}
	}
	if a := classify(&http.Response{StatusCode: 200}, []byte(`{"choices":[{"finish_reason":"abort"}]}`)); a.Outcome != Aborted {
		t.Errorf("an abort is %v", a.Outcome)
	}
	for f := range Finish(Finishes) {
		if got := finishOf([]byte(`"` + f.String() + `"`)); got != f && f > 0 {
			t.Errorf("%q is read as %q", f, got)
		}
	}
}
