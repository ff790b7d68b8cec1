package finalize

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"spool/storage/batch"
)

// mixedFields are the members of an engine's record on which its answers depend, in the order in which they are told. How long it
// took to load and where it listens are not among them.
func mixedFields() []string {
	return []string{"version", "model", "revision", "model_digest", "template_digest", "models", "dtype", "args", "gpus", "driver", "image"}
}

// mixed tells in what the engines of a batch differed. What a runner could not know, such as the arguments of a server that it did
// not start, differs from nothing.
func mixed(runners []batch.Runner) []batch.Difference {
	values := map[string]map[string][]string{} // field, value, runners
	for i := range runners {
		for field, found := range environment(&runners[i]) {
			if values[field] == nil {
				values[field] = map[string][]string{}
			}
			for _, v := range found {
				values[field][v] = append(values[field][v], runners[i].Runner)
			}
		}
	}
	all := []batch.Difference{}
	for _, field := range mixedFields() {
		if len(values[field]) > 1 {
			all = append(all, difference(field, values[field]))
		}
	}
	return all
}

// difference lists the values, the most frequent first.
func difference(field string, values map[string][]string) batch.Difference {
	d := batch.Difference{Field: field}
	for v, names := range values {
		slices.Sort(names)
		d.Values = append(d.Values, batch.Variant{
			Value: cut(v, batch.MaxVariantValue), Count: len(names), Runners: names[:min(len(names), batch.MaxVariantRunners)],
		})
	}
	slices.SortFunc(d.Values, func(a, b batch.Variant) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value), slices.Compare(a.Runners, b.Runners))
	})
	d.Values = d.Values[:min(len(d.Values), batch.MaxVariants)]
	return d
}

// environment gives, by field, the distinct values that the engines of a runner had.
func environment(r *batch.Runner) map[string][]string {
	found := map[string][]string{}
	for _, e := range r.Engines() {
		for field, v := range properties(e, r) {
			if !slices.Contains(found[field], v) {
				found[field] = append(found[field], v)
			}
		}
	}
	return found
}

// properties are those of one engine. One that the runner started has a record, in which what is absent was looked for and not
// found; but for what older versions of spool did not look for. Of another one, what the server told is known.
func properties(engine batch.EngineFacts, r *batch.Runner) map[string]string {
	found := map[string]string{}
	for _, field := range mixedFields() {
		value := engine.Members[field]
		if value == nil && field == "gpus" {
			value = watched(r.GPUs)
		}
		switch v := plainValue(value); {
		case v != "":
			found[field] = v
		case engine.Own && field != "dtype" && field != "model_digest":
			found[field] = ""
		}
	}
	return found
}

// watched are the names of the GPUs that the runner watched, as JSON; nil of none.
func watched(samples json.RawMessage) json.RawMessage {
	var gpus []struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(samples, &gpus) != nil || len(gpus) == 0 {
		return nil
	}
	names := make([]string, len(gpus))
	for i, g := range gpus {
		names[i] = g.Name
	}
	text, err := json.Marshal(names)
	if err != nil { // a list of strings always marshals
		return nil
	}
	return text
}

// plainValue writes a value so that equal ones are equal: a text as it is, a list of texts with spaces between, all else as
// JSON with sorted members. It gives "" for what is absent, null or empty.
func plainValue(text json.RawMessage) string {
	var s string
	var list []string
	var value any
	switch {
	case len(text) == 0 || bytes.Equal(text, []byte("null")):
		return ""
	case json.Unmarshal(text, &s) == nil:
		return s
	case json.Unmarshal(text, &list) == nil:
		return strings.Join(list, " ")
	case json.Unmarshal(text, &value) != nil:
		return ""
	}
	sorted, err := json.Marshal(value)
	if err != nil { // it came from JSON
		return ""
	}
	return string(sorted)
}
