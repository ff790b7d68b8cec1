package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spool/storage/batch"
)

// engine is a kind of engine: what its answers depend on. Runners with engines of one kind answer alike.
type engine struct {
	Facts   []fact
	Runners int
}

// fact is a name and what is known of it.
type fact struct{ Name, Value string }

// engineNames are the members of an engine's record that are shown, in their order, and what they are called. The url and the
// time of loading differ from runner to runner and make no other kind.
var engineNames = []struct{ member, name string }{ //nolint:gochecknoglobals // a constant table
	{"version", "Engine version"}, {"model", "Model"}, {"models", "Models served"}, {"revision", "Revision"},
	{"model_digest", "Model digest"}, {"template_digest", "Chat template digest"}, {"dtype", "Data type"}, {"args", "Arguments"},
	{"driver", "GPU driver"}, {"gpus", "GPUs"}, {"image", "Image"},
}

// engines tells the kinds of engines apart, the most frequent first.
func engines(runners []batch.Runner) []engine {
	kinds := map[string]*engine{}
	for _, r := range runners {
		seen := map[string]bool{}
		for _, e := range r.Engines() {
			facts := engineFacts(e.Members)
			id := fmt.Sprint(facts)
			if len(facts) == 0 || seen[id] {
				continue
			}
			seen[id] = true
			if kinds[id] == nil {
				kinds[id] = &engine{Facts: facts}
			}
			kinds[id].Runners++
		}
	}
	ids := slices.SortedFunc(maps.Keys(kinds), func(a, b string) int {
		return cmp.Or(cmp.Compare(kinds[b].Runners, kinds[a].Runners), cmp.Compare(a, b))
	})
	var list []engine
	for _, id := range ids {
		list = append(list, *kinds[id])
	}
	return list
}

// mixedRow is a value of something in which engines differed; Field is empty in all rows of it but the first.
type mixedRow struct{ Field, Value, Runners string }

// mixedRows has the fields one after another, at most maxMixed values of them.
func mixedRows(s *batch.Summary) (rows []mixedRow, more int) {
	for _, d := range s.Mixed {
		name := mixedName(d.Field)
		for _, v := range d.Values {
			if len(rows) == maxMixed {
				more++
				continue
			}
			who := make([]string, 0, maxWho)
			for _, r := range v.Runners[:min(len(v.Runners), maxWho)] {
				who = append(who, plain(r, 60))
			}
			if n := v.Count - len(who); n > 0 {
				who = append(who, "and "+count(int64(n))+" more")
			}
			rows = append(rows, mixedRow{name, cmp.Or(plain(v.Value, maxText), "none"), strings.Join(who, ", ")})
			name = ""
		}
	}
	return rows, more
}

// mixedNames are the fields that differed, for a sentence; "" if none did.
func mixedNames(s *batch.Summary) string {
	var names []string
	for _, d := range s.Mixed[:min(len(s.Mixed), len(engineNames))] {
		names = append(names, mixedName(d.Field))
	}
	return strings.Join(names, ", ")
}

func mixedName(field string) string {
	for _, n := range engineNames {
		if n.member == field {
			return n.name
		}
	}
	return plain(field, 60)
}

// engineFacts takes what the report shows of an engine.
func engineFacts(members map[string]json.RawMessage) []fact {
	var facts []fact
	for _, n := range engineNames {
		if text := words(members[n.member]); text != "" {
			facts = append(facts, fact{n.name, plain(text, 2*maxText)})
		}
	}
	return facts
}

// words writes a JSON value for people: a text as it is, a list with spaces between, an object as name (value).
func words(text json.RawMessage) string {
	var list []json.RawMessage
	var members map[string]json.RawMessage
	var s string
	var parts []string
	switch {
	case len(text) == 0 || bytes.Equal(text, []byte("null")):
		return ""
	case json.Unmarshal(text, &s) == nil:
		return s
	case json.Unmarshal(text, &list) == nil:
		for _, e := range list {
			parts = append(parts, words(e))
		}
		return strings.Join(parts, " ")
	case json.Unmarshal(text, &members) == nil:
		for _, name := range slices.Sorted(maps.Keys(members)) {
			parts = append(parts, name+" ("+string(members[name])+")")
		}
		return strings.Join(parts, ", ")
	}
	return string(text)
}

// gpu is what a runner recorded of a GPU, as runner/gpu has it. What the GPU does not say is nil.
type gpu struct {
	Index       int            `json:"index"`
	Name        string         `json:"name"`
	Unfit       string         `json:"unfit"`
	Observed    float64        `json:"observed_seconds"`
	Busy        *float64       `json:"busy_seconds"`
	MemoryMax   *float64       `json:"memory_used_max_bytes"`
	MemoryTotal *float64       `json:"memory_total_bytes"`
	Temperature *float64       `json:"temperature_max_celsius"`
	Energy      *float64       `json:"energy_joules"`
	XIDs        map[string]int `json:"xids"`
}

// gpus reads the samples; nil if there are none, or if they are of another kind.
func gpus(r *batch.Runner) []gpu {
	var list []gpu
	if len(r.GPUs) == 0 || json.Unmarshal(r.GPUs, &list) != nil {
		return nil
	}
	return list
}

// gpuRow is a GPU in the table.
type gpuRow struct{ Runner, GPU, Busy, Idle, Memory, Temperature, Energy, Trouble string }

// gpuTotals sums over the GPUs of all runners.
type gpuTotals struct {
	n                      int
	observed, busy, joules float64
	busyOf                 float64 // the observed seconds of those that say how busy they were
	energies               int     // how many of them say it
}

// gpuTable has a row for each GPU, those with trouble first.
func gpuTable(runners []batch.Runner) (rows []gpuRow, all gpuTotals) {
	for i := range runners {
		r := &runners[i]
		for _, g := range gpus(r) {
			all.add(g)
			rows = append(rows, g.row(r.Runner))
		}
	}
	slices.SortStableFunc(rows, func(a, b gpuRow) int { return cmp.Compare(b.trouble(), a.trouble()) })
	return rows, all
}

// trouble is 1 of a GPU that had any: these are shown first.
func (r gpuRow) trouble() int {
	if r.Trouble == noTrouble {
		return 0
	}
	return 1
}

const noTrouble = "none"

func (t *gpuTotals) add(g gpu) {
	t.n++
	t.observed += max(0, g.Observed)
	if g.Busy != nil {
		t.busy += max(0, *g.Busy)
		t.busyOf += max(0, g.Observed)
	}
	if g.Energy != nil {
		t.joules += max(0, *g.Energy)
		t.energies++
	}
}

func (g gpu) row(runner string) gpuRow {
	r := gpuRow{Runner: plain(runner, 60), GPU: plain(strings.TrimSpace(fmt.Sprintf("%d %s", g.Index, g.Name)), 60),
		Busy: notRecorded, Idle: notRecorded, Memory: notRecorded, Temperature: notRecorded, Energy: notRecorded, Trouble: noTrouble}
	if g.Busy != nil && g.Observed > 0 {
		r.Busy, r.Idle = percent(*g.Busy, g.Observed), span(g.Observed-*g.Busy)
	}
	if g.MemoryMax != nil {
		r.Memory = size(*g.MemoryMax)
		if g.MemoryTotal != nil {
			r.Memory += " of " + size(*g.MemoryTotal)
		}
	}
	if g.Temperature != nil {
		r.Temperature = decimal(*g.Temperature) + " °C"
	}
	if g.Energy != nil {
		r.Energy = decimal(*g.Energy/3600) + " Wh"
	}
	var trouble []string
	for _, xid := range slices.Sorted(maps.Keys(g.XIDs)) {
		trouble = append(trouble, fmt.Sprintf("XID %s × %d", xid, g.XIDs[xid]))
	}
	if g.Unfit != "" {
		trouble = append(trouble, g.Unfit)
	}
	if len(trouble) > 0 {
		r.Trouble = plain(strings.Join(trouble, ", "), maxText)
	}
	return r
}
