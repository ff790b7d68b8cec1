package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"spool/runner/vllm"
	"spool/storage/batch"
)

// A file of the prefix cache's bench: many long beginnings with a few questions each, of which the engine's cache
// holds a third.
const (
	prefixes     = 150
	prefixLines  = 6
	prefixTokens = 1200 // the tokens of the model tiny are bytes
	prefixSlots  = 16
	prefixCache  = "16M" // 65,536 tokens
)

// prefix compares the two orders of a batch that matter to it, on the real engine and for a file whose lines are
// shuffled: how many prompt tokens its prefix cache knew, and lines/s. Each turn has other texts, which no turn before
// it left in the cache.
func (b *bench) prefix(t *testing.T) {
	dir := os.Getenv("SPOOL_VLLM_DIR")
	if dir == "" {
		t.Skip("SPOOL_VLLM_DIR is not set")
	}
	const n, rounds = prefixes * prefixLines, 3
	r := &realEngine{parts: newParts(t), dir: dir, slots: prefixSlots, cache: prefixCache, n: n}
	r.serve()
	p := r.runner(r.engine, "--slots", strconv.Itoa(prefixSlots), "--idle", "2h")
	defer p.signal(syscall.SIGTERM)
	shuffled := rand.New(rand.NewPCG(1, 2)).Perm(n)
	var speed, hits [2]series
	for turn := range 2 * rounds {
		which := turn % 2
		r.lines = prefixFile(turn, shuffled)
		r.lines.order = []string{batch.OrderFile, batch.OrderPrefix}[which]
		before := r.engine.counters()
		speed[which] = append(speed[which], r.spool(fmt.Sprintf("in/prefix/%d.jsonl", turn))/answerTokens)
		after := r.engine.counters()
		hits[which] = append(hits[which], (after.PrefixHits-before.PrefixHits)/(after.PrefixQueries-before.PrefixQueries))
	}
	const limit = 1 - 1.0/prefixLines
	b.add("real vLLM, order=file: prompt tokens out of the prefix cache", hits[0].median(), "of 1", limit,
		"%d beginnings of %d tokens with %d lines each, shuffled; the cache holds a third", prefixes, prefixTokens, prefixLines)
	b.add("real vLLM, order=prefix: prompt tokens out of the prefix cache", hits[1].median(), "of 1", limit, "the same file")
	b.add("real vLLM: lines/s order=prefix / order=file", speed[1].median()/speed[0].median(), "x", 0, "%s and %s", speed[1], speed[0])
}

// answerTokens is how long each answer is.
const answerTokens = 8

// prefixFile has, as line i, question order[i].
func prefixFile(turn int, order []int) *lines {
	texts := make([]string, len(order))
	for i, question := range order {
		random := rand.New(rand.NewPCG(uint64(turn), uint64(question/prefixLines)))
		var text strings.Builder
		for text.Len() < prefixTokens {
			fmt.Fprintf(&text, "%x ", random.Uint64())
		}
		texts[i] = fmt.Sprintf(`[{"role":"user","content":"%sQuestion %d?"}]`, text.String(), question)
	}
	return &lines{prompts: texts, fixed: true, maxTokens: func(int) int { return answerTokens }}
}

// counters are the totals of the engine's own metrics.
func (e *engine) counters() vllm.Counters {
	e.s.t.Helper()
	client, err := vllm.NewClient(e.url, vllm.Options{})
	if err != nil {
		e.s.t.Fatal(err)
	}
	defer client.Close()
	counters, _, err := client.Metrics(e.s.t.Context())
	if err != nil {
		e.s.t.Fatal(err)
	}
	return counters
}
