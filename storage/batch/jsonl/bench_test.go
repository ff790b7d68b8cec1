//go:build linux

package jsonl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The files of the benchmarks: 64 MiB of lines of one kind, written as Python's json.dumps writes
// them. They are larger than the caches, so that the newline scan they are measured against runs at the
// speed of memory, as it would in production.
const benchBytes = 64 << 20

// shortLines have some 400 bytes, ASCII with \uXXXX: a question and its settings.
func shortLines(r *rand.Rand, i int) string {
	return fmt.Sprintf(`{"custom_id": "request-%08d", "method": "POST", "url": "/v1/chat/completions", "body": `+
		`{"model": "default", "messages": [{"role": "system", "content": "Answer in one word."}, `+
		`{"role": "user", "content": "%s"}], "max_tokens": 512, "temperature": 0}}`, i, words(r, 170, `caf\u00e9`))
}

// longLines have some 8 kB: a document in UTF-8 with an escape about every 70 bytes.
func longLines(r *rand.Rand, i int) string {
	return fmt.Sprintf(`{"custom_id": "doc-%08d", "method": "POST", "url": "/v1/chat/completions", "body": `+
		`{"model": "default", "messages": [{"role": "user", "content": "%s"}], "max_tokens": 2048}}`,
		i, words(r, 7900, `\n`, "café", "naïve", `\"so\"`))
}

// toolLines have some 2.5 kB: three rounds of tool calls, with JSON in strings.
func toolLines(r *rand.Rand, i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"custom_id": "tool-%08d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "default", "messages": [`, i)
	for round := range 3 {
		fmt.Fprintf(&b, `{"role": "user", "content": "%s"}, {"role": "assistant", "content": null, "tool_calls": `+
			`[{"id": "call_%d", "type": "function", "function": {"name": "lookup", "arguments": `+
			`"{\"query\": \"%s\", \"limit\": %d, \"exact\": true}"}}]}, {"role": "tool", "tool_call_id": "call_%d", "content": `+
			`"{\"results\": [{\"title\": \"%s\", \"score\": 0.%d}]}"}, `,
			words(r, 200), round, words(r, 80, `\\n`), r.IntN(100), round, words(r, 120, `\\\"it\\\"`), r.IntN(1000))
	}
	fmt.Fprintf(&b, `{"role": "user", "content": "%s"}], "tools": [{"type": "function", "function": {"name": "lookup", `+
		`"parameters": {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}}, `+
		`"required": ["query"]}}}], "temperature": 0.2, "top_p": 1, "seed": %d}}`, words(r, 200), r.IntN(1<<30))
	return b.String()
}

// unicodeLines have some 3 kB of text in UTF-8, little of it ASCII: half Russian, half Japanese.
func unicodeLines(r *rand.Rand, i int) string {
	russian := strings.Fields("сколько поездов прибывает на станцию каждый час если первый идёт быстрее")
	return fmt.Sprintf(`{"custom_id": "u-%08d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "default", `+
		`"messages": [{"role": "system", "content": "%s"}, {"role": "user", "content": "%s"}]}}`,
		i, mixed(r, 1500, " ", russian), mixed(r, 1500, "", []string{"日本語の", "長い", "文章、", "質問です。"}))
}

// mixed is some n bytes of words.
func mixed(r *rand.Rand, n int, space string, words []string) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))] + space)
	}
	return b.String()
}

// words is some n bytes of words, one in ten of which is one of others.
func words(r *rand.Rand, n int, others ...string) string {
	common := strings.Fields("the of and to in is that for it as was with be by on not he his but at are this have from which one model answer question number train speed")
	var b strings.Builder
	for b.Len() < n {
		if len(others) > 0 && r.IntN(10) == 0 {
			b.WriteString(others[r.IntN(len(others))])
		} else {
			b.WriteString(common[r.IntN(len(common))])
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func benchFile(line func(*rand.Rand, int) string) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var some []string
	for i := range 2000 {
		some = append(some, line(r, i))
	}
	b := make([]byte, 0, benchBytes+1<<20)
	for i := 0; len(b) < benchBytes; i++ {
		b = append(append(b, some[i%len(some)]...), '\n')
	}
	return b
}

// cpu is the CPU time that this thread takes for f. Other than the time on the clock it does not tell
// how busy the machine is.
func cpu(f func()) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var before, after syscall.Rusage
	_ = syscall.Getrusage(thread, &before)
	f()
	_ = syscall.Getrusage(thread, &after)
	return time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkCheck measures reading and checking against finding the newlines, and against
// encoding/json, all in the same run. The goals are x_newlines >= 0.05 and x_encoding_json >= 8 of short, long and
// tools; text that is hardly ASCII (unicode) reaches the first, and about 7 times encoding/json.
func BenchmarkCheck(b *testing.B) {
	for _, kind := range []struct {
		name string
		line func(*rand.Rand, int) string
	}{{"short", shortLines}, {"long", longLines}, {"tools", toolLines}, {"unicode", unicodeLines}} {
		b.Run(kind.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			file := benchFile(kind.line)
			few := file[:bytes.LastIndexByte(file[:4<<20], '\n')+1]
			var check, read, newlines, unmarshal []time.Duration
			for range max(b.N, 5) {
				newlines = append(newlines, cpu(func() { scanNewlines(file) }))
				check = append(check, cpu(func() { checkLines(b, file) }))
				read = append(read, cpu(func() { readAndCheck(b, file) }))
				unmarshal = append(unmarshal, cpu(func() { unmarshalLines(b, few) }))
			}
			std := float64(median(unmarshal)) * float64(len(file)) / float64(len(few))
			ours := float64(median(check))
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(len(file))/ours*1e3, "MB/s")
			b.ReportMetric(float64(len(file))/float64(median(read))*1e3, "MB/s_with_Reader")
			b.ReportMetric(float64(median(newlines))/ours, "x_newlines")
			b.ReportMetric(std/ours, "x_encoding_json")
		})
	}
}

func scanNewlines(b []byte) (n int) {
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return n
		}
		b, n = b[i+1:], n+1
	}
}

func checkLines(b *testing.B, file []byte) {
	c, err := NewChecker(Config{})
	if err != nil {
		b.Fatal(err)
	}
	for len(file) > 0 {
		i := bytes.IndexByte(file, '\n')
		if _, p := c.Check(Line{Bytes: file[:i]}); p != nil {
			b.Fatal(p)
		}
		file = file[i+1:]
	}
}

func readAndCheck(b *testing.B, file []byte) {
	c, _ := NewChecker(Config{})
	r, err := NewReader(bytes.NewReader(file), Config{})
	if err != nil {
		b.Fatal(err)
	}
	for {
		l, err := r.Next()
		if err != nil {
			return
		}
		if _, p := c.Check(l); p != nil {
			b.Fatal(p)
		}
	}
}

func unmarshalLines(b *testing.B, file []byte) {
	for line := range bytes.Lines(file) {
		var req struct {
			CustomID string          `json:"custom_id"`
			Method   string          `json:"method"`
			URL      string          `json:"url"`
			Body     json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(line, &req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDups measures the search for duplicates among ten million ids, hashing included, against hashing alone. The
// goals are 80 ns and 32 bytes an id; the bytes are all that is allocated, of which there is never more at once.
func BenchmarkDups(b *testing.B) {
	const n = 10_000_000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var took, ids, hashes []time.Duration
	var before, after runtime.MemStats
	seed := maphash.MakeSeed()
	for range max(b.N, 3) {
		id := []byte("evals/2026-11/gsm8k/question-00000000")
		ids = append(ids, cpu(func() {
			for i := range n {
				number(id, i)
			}
		}))
		hashes = append(hashes, cpu(func() {
			for i := range n {
				number(id, i)
				maphash.Bytes(seed, id)
			}
		}))
		runtime.ReadMemStats(&before)
		took = append(took, cpu(func() {
			d := NewDups()
			for i := range n {
				number(id, i)
				d.Add(id)
			}
			if d.Repeated() != nil {
				b.Fatal("two of ten million hashes were equal")
			}
		}))
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(median(took)-median(ids))/n, "ns/id")
	b.ReportMetric(float64(median(hashes)-median(ids))/n, "ns/id_hash")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/id")
}
