package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"spool/storage"
	"spool/storage/batch"
)

// lines makes input lines of some 550 bytes of the example's questions.
type lines struct {
	prompts   []string
	maxTokens func(i int) int // 0 leaves the length of the answer to the engine
	fixed     bool            // answers have exactly maxTokens
	order     string          // the batch's option; "" for none
}

// newLines makes lines whose answers all have at most so many tokens; 0 leaves that to the engine.
func newLines(maxTokens int) *lines {
	return &lines{prompts: prompts(), maxTokens: func(int) int { return maxTokens }}
}

var prompts = sync.OnceValue(func() []string {
	text, err := os.ReadFile("../../examples/gsm8k.jsonl")
	if err != nil {
		panic(err)
	}
	var list []string
	for line := range bytes.Lines(text) {
		_, rest, _ := bytes.Cut(line, []byte(`"messages":`))
		messages, _, ok := bytes.Cut(rest, []byte(`, "max_tokens"`))
		if !ok {
			panic(fmt.Sprintf("examples/gsm8k.jsonl has another form: %s", line))
		}
		list = append(list, string(messages))
	}
	return list
})

// append appends line i, with its newline.
func (l *lines) append(dst []byte, i int) []byte {
	dst = fmt.Appendf(dst, `{"custom_id":"bench-%08d","method":"POST","url":"/v1/chat/completions","body":`, i)
	dst = l.body(dst, i)
	return append(dst, "}\n"...)
}

func (l *lines) body(dst []byte, i int) []byte {
	dst = fmt.Appendf(dst, `{"model":"default","messages":%s`, l.prompts[i%len(l.prompts)])
	if n := l.maxTokens(i); n > 0 {
		dst = fmt.Appendf(dst, `,"max_tokens":%d`, n)
	}
	if l.fixed {
		dst = append(dst, `,"ignore_eos":true`...)
	}
	return fmt.Appendf(dst, `,"temperature":0,"user":"%032d"}`, i)
}

// upload streams n lines to a key and tells how many bytes they were.
func (s *stack) upload(key string, n int, l *lines) int64 {
	s.t.Helper()
	r, w := io.Pipe()
	go func() {
		var buf []byte
		for i := range n {
			if buf = l.append(buf, i); len(buf) > 1<<20 || i == n-1 {
				if _, err := w.Write(buf); err != nil {
					return
				}
				buf = buf[:0]
			}
		}
		w.Close()
	}()
	defer r.Close()
	var opt storage.PutOptions
	if l.order != "" {
		opt.Metadata = map[string]string{"order": l.order}
	}
	obj, err := s.bucket.Upload(s.t.Context(), key, r, opt)
	if err != nil {
		s.t.Fatal(err)
	}
	return obj.Size
}

// complete waits for the one batch of an input, and checks that all its lines have answers.
func (s *stack) complete(key string, n int) batch.Object {
	s.t.Helper()
	pause := 20 * time.Millisecond
	if n > 1000 {
		pause = 500 * time.Millisecond // looking costs the store something, too
	}
	var found []batch.Object
	var looked time.Time
	s.within(40*time.Minute, key+" has ended", func() bool {
		if time.Since(looked) < pause {
			return false
		}
		looked = time.Now()
		found = s.batches(key)
		return len(found) > 0
	})
	if c := found[0].RequestCounts; c.Completed != int64(n) || c.Total != int64(n) {
		s.t.Errorf("%s ended with %+v, want %d lines completed", key, c, n)
	}
	return found[0]
}

// heavyTail is a mix of answer lengths like those of chat models: lognormal, with mean 300, sigma 1.1, hence median
// 164 and 99th percentile 2,114, and at most 8,192 tokens. These are its quantiles, so there is nothing random in it.
func heavyTail() []int {
	const n, mean, sigma = 20_000, 300, 1.1
	list := make([]int, n)
	for i := range list {
		normal := math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/n-1)
		list[i] = min(8192, max(1, int(math.Exp(math.Log(mean)-sigma*sigma/2+sigma*normal))))
	}
	return list
}
