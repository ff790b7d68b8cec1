package dashboards

func gpuMonitoring() Board {
	return Board{UID: "spool-gpu", Title: "spool / GPU Monitoring", About: "What the GPUs and the engines on them do.", Rows: []Row{
		{"Now", gpuNow()}, {"GPUs", gpuGPUs()}, {"Engines", gpuEngines()},
	}}
}

func gpuNow() []Panel {
	return []Panel{
		{Title: "GPUs", About: "At work are those with a utilisation of 10 % or more.", Unit: count, Kind: Stat, Queries: []Query{
			q("count(spool_gpu_utilization_ratio{§R} >= 0.1§RUNS) or vector(0)", "at work"), q("count(spool_gpu_utilization_ratio{§R} < 0.1§RUNS) or vector(0)", "without work"),
		}},
		one(Stat, "Utilisation", ratio, "Mean of all GPUs.", "avg(spool_gpu_utilization_ratio{§R}§RUNS)", "mean").needs(NeedsGPU),
		one(Stat, "Hottest", "celsius", "Highest temperature of any GPU now.", "max(spool_gpu_temperature_celsius{§R}§RUNS)", "now").needs(NeedsGPU).red(85),
		one(Stat, "Memory", ratio, "Allocated part.", "sum(spool_gpu_memory_used_bytes{§R}§RUNS) / sum(spool_gpu_memory_total_bytes{§R}§RUNS)", "used").needs(NeedsGPU),
		one(Stat, "Power", "watt", "Of all GPUs.", "sum(rate(spool_gpu_energy_joules_total{§R}§W))", "watts").needs(NeedsGPU),
		one(Stat, "XIDs", count, "Errors that the driver reported, in the range.", "sum"+inRange("spool_gpu_xid_errors_total{§R}")+" or vector(0)", "errors").red(1),
	}
}

func gpuGPUs() []Panel {
	gpus := []Panel{
		one(Lines, "Utilisation of each", ratio, "Part of the last second in which a kernel ran.", "spool_gpu_utilization_ratio{§R}§RUNS", "{{instance}} {{gpu}}"),
		{Title: "Memory of each", About: "Used, and the most that was used since the runner started.", Unit: "bytes", Queries: []Query{
			q("spool_gpu_memory_used_bytes{§R}§RUNS", "{{instance}} {{gpu}}"), q("spool_gpu_memory_used_max_bytes{§R}§RUNS", "{{instance}} {{gpu}} most"),
			q("spool_gpu_memory_total_bytes{§R}§RUNS", "{{instance}} {{gpu}} total"),
		}},
		{Title: "Temperature", About: "And the highest since the runner started. From 85 °C on there is an alert.", Unit: "celsius", Queries: []Query{
			q("spool_gpu_temperature_celsius{§R}§RUNS", "{{instance}} {{gpu}}"), q("spool_gpu_temperature_max_celsius{§R}§RUNS", "{{instance}} {{gpu}} highest"),
		}, Levels: []Level{{85, "red"}}},
		one(Lines, "Power of each", "watt", "Mean over the interval.", "rate(spool_gpu_energy_joules_total{§R}§W)", "{{instance}} {{gpu}}"),
		one(Lines, "Energy a thousand tokens", "joule", "Of output tokens, over all runners.",
			`1000 * sum(rate(spool_gpu_energy_joules_total{§R}§W)) / sum(rate(spool_tokens_total{type="output", §R}§W))`, "J/1k tokens"),
		one(Lines, "Clock throttling", ratio, "Part of the time with lower clocks than possible; sw_power_cap alone is usual under load.",
			"sum by (instance, gpu, reason) (rate(spool_gpu_clock_throttle_seconds_total{§R}§W))", "{{instance}} {{gpu}} {{reason}}"),
		one(Table, "XID errors", count, "By number, in the range.", "sum by (instance, gpu, xid) "+inRange("spool_gpu_xid_errors_total{§R}")+" > 0", "errors"),
		one(Table, "ECC errors", count, "Of memory, in the range.", "sum by (instance, gpu, type) "+inRange("spool_gpu_ecc_errors_total{§R}"), "errors"),
		one(Lines, "Idle GPUs", count, "GPU seconds a second in which nothing ran: how many GPUs are paid for nothing.",
			"sum(rate(spool_runner_idle_gpu_seconds_total{§R}§W))", "GPUs"),
	}
	for i := range gpus {
		gpus[i].Needs = NeedsGPU
	}
	return gpus
}

func gpuEngines() []Panel {
	return []Panel{
		one(Lines, "KV cache", ratio, "Used part, of the fullest engine of each runner.", "spool_engine_kv_cache_usage_ratio{§R}§RUNS", "{{instance}}"),
		one(Lines, "Sequences in the engines", count, "Waiting ones have no room yet.", "sum by (state) (spool_engine_sequences{§R}§RUNS)", "{{state}}"),
		one(Lines, "Preemptions", perSecond, "Sequences that were thrown out for want of memory, and begin anew.", "sum by (instance) (rate(spool_engine_preemptions_total{§R}§W))", "{{instance}}"),
		one(Lines, "Prefix cache", ratio, "Tokens that were found, of those looked for.",
			`sum(rate(spool_engine_prefix_cache_tokens_total{result="hit", §R}§W)) / sum(rate(spool_engine_prefix_cache_tokens_total{result="queried", §R}§W))`, "hits").needs(NeedsCache),
		one(Lines, "Tokens in the engines", perSecond, "As the engines count them, with requests that were lost.", "sum by (type) (rate(spool_engine_tokens_total{§R}§W))", "{{type}}"),
		one(Timeline, "Engine up", count, "1 while an engine of the runner is up.", "spool_engine_ready{§R}§RUNS", "{{instance}}"),
		one(Lines, "Engine starts", count, "All beyond one for each engine are restarts.", "max by (instance) (spool_engine_starts_total{§R})", "{{instance}}"),
		one(Lines, "Model load time", seconds, "Of the last start of a runner's own engine.", "max by (instance) (spool_engine_load_duration_seconds{§R})", "{{instance}}").needs(NeedsOwn),
		one(Lines, "Waiting for an engine", seconds, "Of runners that have work and no engine.", "time() - spool_engine_load_start_timestamp_seconds{§R}§RUNS", "{{instance}}").needs(NeedsTrouble).red(900),
	}
}
