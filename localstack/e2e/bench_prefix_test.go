package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

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
		before := r.engine.prefixCache()
		speed[which] = append(speed[which], r.spool(fmt.Sprintf("in/prefix/%d.jsonl", turn))/answerTokens)
		after := r.engine.prefixCache()
		hits[which] = append(hits[which], (after.hits-before.hits)/(after.queries-before.queries))
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

// cacheTokens are the prompt tokens that were looked for in the prefix cache, and found.
type cacheTokens struct{ queries, hits float64 }

func (e *engine) prefixCache() cacheTokens {
	e.s.t.Helper()
	client := socketClient(e.url, 1)
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://engine/metrics")
	if err != nil {
		e.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		e.s.t.Fatalf("%s: %v", resp.Status, err)
	}
	total := func(name string) (sum float64) {
		for _, m := range families["vllm:"+name].GetMetric() {
			sum += m.GetCounter().GetValue()
		}
		return sum
	}
	return cacheTokens{total("prefix_cache_queries_total"), total("prefix_cache_hits_total")}
}
