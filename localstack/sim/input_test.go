package sim

import (
	"bytes"
	"compress/gzip"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"spool/storage/batch/jsonl"
)

// input is a file that a user puts, and what is known of it.
type input struct {
	key    string
	etag   string
	stored []byte            // as it is put
	meta   map[string]string // but for rerun
	lines  []line            // that are not blank
	bad    int
	skip   bool // on-invalid=skip
	short  bool // a window of ten minutes
}

// line is one request, or what stands in its place.
type line struct {
	number int64
	id     string // "" if it cannot be known
	body   []byte
	bad    string // why it is bad; "" if it is not
}

// rejected reports whether no line of the file is to be asked.
func (in *input) rejected() bool { return len(in.lines) == 0 || in.bad > 0 && !in.skip }

// makeInput makes the n-th version of a file, by the dice.
func (w *world) makeInput(file, version int) *input {
	d, q := w.dice, fmt.Sprintf("input %d %d", file, version)
	in := &input{key: fmt.Sprintf("in/team %d/f+%d.jsonl", file%2, file), meta: map[string]string{}}
	in.skip = d.roll(q, "skip") < 0.5
	if in.skip {
		in.meta["on-invalid"] = "skip"
	}
	if in.short = d.roll(q, "window") < 0.1; in.short {
		in.meta["window"] = "10m"
	}
	n := d.in(1, 40, q, "few")
	switch p := d.roll(q, "size"); {
	case p < 0.05:
		n = 0
	case p > 0.6:
		n = d.in(1001, 3600, q, "many")
	}
	badness := 0.0
	if d.roll(q, "bad") < 0.35 {
		badness = [...]float64{0.002, 0.05, 1}[d.in(0, 2, q, "how bad")]
	}
	text := in.write(w, n, badness, q)
	in.stored = text
	switch p := d.roll("suffix", file); {
	case p < 0.15:
		in.key += ".gz"
		in.stored = gzipped(text)
	case p < 0.3:
		in.key += ".zst"
		in.stored = zstded(text)
	}
	return in
}

// write makes the text, and fills in the lines.
func (in *input) write(w *world, n int, badness float64, q string) []byte {
	var text bytes.Buffer
	number := int64(0)
	for i := range n {
		for w.dice.roll(q, "blank", i, number) < 0.01 {
			text.WriteString("\r\n")
			number++
		}
		number++
		l := line{number: number, id: fmt.Sprintf("%s/%d", q, i)}
		l.body = fmt.Appendf(nil, `{"model":"m","messages":[{"role":"user","content":"seed %d %s line %d"}]}`, w.dice.seed, q, i)
		spelt := fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":%s}`, l.id, l.body)
		if w.dice.roll(q, "line", i) < badness {
			spelt = in.spoil(&l, w.dice.in(0, 2, q, "spoil", i))
			in.bad++
		}
		in.lines = append(in.lines, l)
		text.WriteString(spelt)
		text.WriteByte('\n')
	}
	return text.Bytes()
}

// spoil makes a line bad: of no use at all, without a body, or with the custom_id of the first good line, which
// the watcher finds out only when the line is staged.
func (in *input) spoil(l *line, how int) string {
	first := -1
	for i := range in.lines {
		if in.lines[i].bad == "" {
			first = i
			break
		}
	}
	switch {
	case how == 0:
		l.id, l.bad = "", string(jsonl.InvalidJSON)
		return fmt.Sprintf(`{"oops %d`, l.number)
	case how == 1 || first < 0:
		l.bad = string(jsonl.MissingBody)
		return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions"}`, l.id)
	}
	l.id, l.bad = in.lines[first].id, string(jsonl.DuplicateCustomID)
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":%s}`, l.id, l.body)
}

func gzipped(text []byte) []byte {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	zw.Write(text)
	zw.Close()
	return buf.Bytes()
}

func zstded(text []byte) []byte {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constants
	}
	return enc.EncodeAll(text, nil)
}
