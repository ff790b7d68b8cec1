package finalize

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spool/storage/batch"
	"spool/storage/memstore"
)

// own is the record of a runner whose engine it started, with some members of the engine's record changed.
func own(name string, change map[string]any) batch.Runner {
	record := map[string]any{
		"version": "0.32.0", "model": "Qwen/Qwen3-8B", "revision": "abc", "model_digest": "d1", "template_digest": "t1",
		"models": map[string]int{"Qwen/Qwen3-8B": 40960, "default": 40960}, "args": []string{"serve", "Qwen/Qwen3-8B", "--max-num-seqs", "256"},
		"dtype": "auto", "driver": "570.1", "gpus": []string{"H100"}, "image": "spool@sha256:1", "load_seconds": float64(len(name)),
	}
	for member, v := range change {
		if record[member] = v; v == nil {
			delete(record, member)
		}
	}
	text, err := json.Marshal([]map[string]any{{"url": "unix:///" + name, "version": "0.32.0", "record": record}})
	if err != nil {
		panic(err)
	}
	return batch.Runner{V: 1, Batch: testID, Runner: name, Engine: text}
}

func TestWhatChangesAnswersIsToldIfRunnersDifferInIt(t *testing.T) {
	for member, v := range map[string]any{
		"version": "0.31.0", "model": "/models/other", "revision": "def", "model_digest": "d2", "template_digest": "t2", "dtype": "bfloat16",
		"driver": "580.2", "image": "spool@sha256:2",
	} {
		same := own("r-1", nil)
		var record map[string]any
		if err := json.Unmarshal(same.Engine[1:len(same.Engine)-1], &record); err != nil {
			t.Fatal(err)
		}
		was := record["record"].(map[string]any)[member].(string)
		got := mixed([]batch.Runner{same, own("r-2", map[string]any{member: v}), own("r-3", nil)})
		want := []batch.Difference{{Field: member, Values: []batch.Variant{
			{Value: was, Count: 2, Runners: []string{"r-1", "r-3"}}, {Value: v.(string), Count: 1, Runners: []string{"r-2"}},
		}}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", member, diff)
		}
	}
}

func TestListsAndModelsAreComparedAsWholes(t *testing.T) {
	got := mixed([]batch.Runner{own("r-1", nil), own("r-2", map[string]any{
		"args": []string{"serve", "Qwen/Qwen3-8B", "--max-num-seqs", "128"}, "gpus": []string{"A100", "A100"}, "models": map[string]int{"Qwen/Qwen3-8B": 8192},
	})})
	want := []batch.Difference{
		{Field: "models", Values: []batch.Variant{
			{Value: `{"Qwen/Qwen3-8B":40960,"default":40960}`, Count: 1, Runners: []string{"r-1"}}, {Value: `{"Qwen/Qwen3-8B":8192}`, Count: 1, Runners: []string{"r-2"}},
		}},
		{Field: "args", Values: []batch.Variant{
			{Value: "serve Qwen/Qwen3-8B --max-num-seqs 128", Count: 1, Runners: []string{"r-2"}},
			{Value: "serve Qwen/Qwen3-8B --max-num-seqs 256", Count: 1, Runners: []string{"r-1"}},
		}},
		{Field: "gpus", Values: []batch.Variant{
			{Value: "A100 A100", Count: 1, Runners: []string{"r-2"}}, {Value: "H100", Count: 1, Runners: []string{"r-1"}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEqualEnvironmentsAndUnknownOnesAreNotMixed(t *testing.T) {
	served := func(name, version string) batch.Runner {
		return batch.Runner{Runner: name, Engine: fmt.Appendf(nil, `[{"url":"http://%s","version":%q}]`, name, version)}
	}
	for name, runners := range map[string][]batch.Runner{
		"none":                  nil,
		"alike":                 {own("r-1", nil), own("r-22", nil)},
		"not recorded":          {own("r-1", nil), {Runner: "r-2"}, {Runner: "r-3", Engine: json.RawMessage(`"?"`)}},
		"an older spool":        {own("r-1", nil), own("r-2", map[string]any{"dtype": nil})},
		"a server of others":    {own("r-1", nil), served("r-2", "0.32.0")},
		"two of these, alike":   {served("r-1", "0.32.0"), served("r-2", "0.32.0")},
		"a runner of two alike": {{Runner: "r-1", Engine: json.RawMessage(`[{"version":"1"},{"version":"1"}]`)}},
	} {
		if diff := cmp.Diff([]batch.Difference{}, mixed(runners)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A GPU and a CPU answer differently, and so do two servers that one runner asks.
func TestAbsenceAndTwoEnginesOfOneRunnerAreDifferences(t *testing.T) {
	bare := own("r-2", map[string]any{"gpus": nil, "driver": nil})
	fields := func(all []batch.Difference) (names []string) {
		for _, d := range all {
			names = append(names, d.Field)
		}
		return names
	}
	if diff := cmp.Diff([]string{"gpus", "driver"}, fields(mixed([]batch.Runner{own("r-1", nil), bare}))); diff != "" {
		t.Error(diff)
	}
	bare.GPUs = json.RawMessage(`[{"index":0,"name":"H100"}]`) // the sampler saw what /proc did not tell
	if diff := cmp.Diff([]string{"driver"}, fields(mixed([]batch.Runner{own("r-1", nil), bare}))); diff != "" {
		t.Error(diff)
	}
	two := batch.Runner{Runner: "r-1", Engine: json.RawMessage(`[{"version":"1"},{"version":"2"}]`)}
	want := []batch.Difference{{Field: "version", Values: []batch.Variant{{Value: "1", Count: 1, Runners: []string{"r-1"}}, {Value: "2", Count: 1, Runners: []string{"r-1"}}}}}
	if diff := cmp.Diff(want, mixed([]batch.Runner{two})); diff != "" {
		t.Error(diff)
	}
}

func TestMixedIsBounded(t *testing.T) {
	var runners []batch.Runner
	for n := range maxRunners {
		runners = append(runners, own(fmt.Sprintf("r-%04d", n), map[string]any{"image": strings.Repeat("é", 1000) + fmt.Sprint(n/2), "version": fmt.Sprint(n % 2)}))
	}
	got := mixed(runners)
	if len(got) != 2 || got[0].Field != "version" || got[1].Field != "image" {
		t.Fatalf("%d fields, want version and image", len(got))
	}
	v, image := got[0].Values, got[1].Values
	if len(v) != 2 || v[0].Count != maxRunners/2 || len(v[0].Runners) != batch.MaxVariantRunners || v[0].Runners[1] != "r-0002" {
		t.Errorf("versions %+v", v)
	}
	if len(image) != batch.MaxVariants || len(image[0].Value) != batch.MaxVariantValue || image[0].Count != 2 {
		t.Errorf("%d images, the first cut to %d bytes, of %d runners", len(image), len(image[0].Value), image[0].Count)
	}
}

func TestSummaryFlagsMixedEnvironments(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		putJSON(t, s, batch.RunnerKey(testID, "r-1"), own("r-1", nil))
		putJSON(t, s, batch.RunnerKey(testID, "r-2"), own("r-2", map[string]any{"revision": "def"}))
		w.finishAll(t, s)
		try(t, s, w)
		want := []batch.Difference{{Field: "revision", Values: []batch.Variant{
			{Value: "abc", Count: 1, Runners: []string{"r-1"}}, {Value: "def", Count: 1, Runners: []string{"r-2"}},
		}}}
		if diff := cmp.Diff(want, getJSON[batch.Summary](t, s, testDir+batch.SummaryName).Mixed); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEnginesThatAreNothingAreNotMixed(t *testing.T) {
	gpus := json.RawMessage(`[{"name":"H100"}]`)
	for _, engines := range []string{`[null]`, `null`, `[]`, `7`, ``} {
		got := mixed([]batch.Runner{{Runner: "r-1", Engine: json.RawMessage(engines), GPUs: gpus}, own("r-2", map[string]any{"gpus": []string{"A100"}})})
		if len(got) != 0 {
			t.Errorf("%s: %+v", engines, got)
		}
	}
}
