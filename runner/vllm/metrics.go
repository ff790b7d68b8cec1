package vllm

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Counters are totals of vLLM's own metrics (vllm/v1/metrics/loggers.py), over all its engines.
type Counters struct {
	PromptTokens, GenerationTokens float64
	Preemptions                    float64
	PrefixQueries, PrefixHits      float64 // tokens that were looked for, and found, in the prefix cache
}

// Plus adds each of the totals.
func (c Counters) Plus(d Counters) Counters {
	return Counters{
		PromptTokens: c.PromptTokens + d.PromptTokens, GenerationTokens: c.GenerationTokens + d.GenerationTokens,
		Preemptions:   c.Preemptions + d.Preemptions,
		PrefixQueries: c.PrefixQueries + d.PrefixQueries, PrefixHits: c.PrefixHits + d.PrefixHits,
	}
}

// Below reports whether any total is lower than that of d. Totals only rise, so c is of a process that began after d.
func (c Counters) Below(d Counters) bool {
	return c.PromptTokens < d.PromptTokens || c.GenerationTokens < d.GenerationTokens || c.Preemptions < d.Preemptions ||
		c.PrefixQueries < d.PrefixQueries || c.PrefixHits < d.PrefixHits
}

// Load is what vLLM works on, over all its engines, as its metrics last told it.
type Load struct {
	Running, Waiting float64 // sequences
	KVCache          float64 // used part of the KV cache, 0 to 1; of the fullest engine
}

// Metrics asks GET /metrics.
func (c *Client) Metrics(ctx context.Context) (Counters, Load, error) {
	status, body, err := c.get(ctx, "/metrics")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return Counters{}, Load{}, fmt.Errorf("ask %s/metrics: %w", c.name, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return Counters{}, Load{}, fmt.Errorf("ask %s/metrics: %w", c.name, err)
	}
	total := func(name string) float64 { return sum(families["vllm:"+name]) }
	counters := Counters{
		PromptTokens: total("prompt_tokens_total"), GenerationTokens: total("generation_tokens_total"),
		Preemptions:   total("num_preemptions_total"),
		PrefixQueries: total("prefix_cache_queries_total"), PrefixHits: total("prefix_cache_hits_total"),
	}
	load := Load{Running: total("num_requests_running"), Waiting: total("num_requests_waiting")}
	for _, m := range families["vllm:kv_cache_usage_perc"].GetMetric() {
		load.KVCache = max(load.KVCache, m.GetGauge().GetValue())
	}
	return counters, load, nil
}

func sum(f *dto.MetricFamily) float64 {
	var s float64
	for _, m := range f.GetMetric() {
		s += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
	}
	return s
}
