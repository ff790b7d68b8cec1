package monitoring

// Bounds of buckets. Those of times of requests are OpenTelemetry's for calls of models (gen_ai.client.operation.duration,
// 0.01 s to 81.92 s), and further to 44 min, since a line in a full window waits long.
func requestSeconds() []float64 { return doubling(0.01, 19) }

// storeSeconds suits calls of S3 and SQS.
func storeSeconds() []float64 { return doubling(0.001, 15) }

// jobSeconds suits what takes from a second to a day.
func jobSeconds() []float64 { return doubling(1, 17) }

// tokenCounts are powers of four, as OpenTelemetry has them (gen_ai.client.token.usage).
func tokenCounts() []float64 {
	return []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}
}

func doubling(first float64, n int) []float64 {
	list := make([]float64, n)
	for i := range list {
		list[i] = first * float64(int(1)<<i)
	}
	return list
}

func byRunner() []string  { return []string{ByRunner} }
func byWatcher() []string { return []string{ByWatcher} }
func byBoth() []string    { return []string{ByRunner, ByWatcher} }

func processMetrics() []Metric {
	return []Metric{
		{Name: "spool_runner_info", Type: Gauge, By: byRunner(), Labels: []string{"version", "pool", "engine_version", "gpu_name"},
			Help: "1, with what the runner is and works with."},
		{Name: "spool_runner_up", Type: Gauge, By: byRunner(), Help: "1 while the runner works, 0 once it has ended in order."},
		{Name: "spool_runner_start_timestamp_seconds", Type: Gauge, By: byRunner(), Help: "When the runner started."},
		{Name: "spool_runner_end_timestamp_seconds", Type: Gauge, By: byRunner(), Labels: []string{"reason"},
			Help: "When the runner ended in order, and why: idle, interrupted or error."},
		{Name: "spool_runner_last_progress_timestamp_seconds", Type: Gauge, By: byRunner(), Live: true,
			Help: "When the runner last got a result, or took up work after it had none, or an engine came up, or it finalised a batch."},
		{Name: "spool_runner_phase_seconds_total", Type: Counter, By: byRunner(), Labels: []string{"phase"},
			Help: "Time of the runner by what it did: idle, engine (none was up), generate, store, drain. They add up to its life."},
		{Name: "spool_runner_idle_gpu_seconds_total", Type: Counter, By: byRunner(), Labels: []string{"gpu"},
			Help: "Time in which the GPU did nothing: that observed less utilisation x time."},
		{Name: "spool_watcher_up", Type: Gauge, By: byWatcher(), Help: "1 while the watcher works, 0 once it has ended in order."},
		{Name: "spool_watcher_start_timestamp_seconds", Type: Gauge, By: byWatcher(), Help: "When the watcher started."},
	}
}

func jobMetrics() []Metric {
	return []Metric{
		{Name: "spool_runner_jobs_in_progress", Type: Gauge, By: byRunner(), Live: true, Help: "Jobs that the runner holds now."},
		{Name: "spool_jobs_total", Type: Counter, By: byRunner(), Labels: []string{"state"},
			Help: "Jobs by what became of them: started, done, done_before, ended, handed_over, elsewhere, leased, lease_lost, failed and rarer ones."},
		{Name: "spool_job_duration_seconds", Type: Histogram, By: byRunner(), Labels: []string{"state"}, Buckets: jobSeconds(),
			Help: "Time from the receipt of a job to its fate."},
		{Name: "spool_job_queue_wait_seconds", Type: Histogram, By: byRunner(), Labels: []string{"queue"}, Buckets: jobSeconds(),
			Help: "Time that a job waited in its queue, fast or pool, before it was first received."},
		{Name: "spool_batch_lines", Type: Gauge, By: byWatcher(), Live: true, Labels: []string{"batch_id", "state"},
			Help: "Lines of open batches, of 50 at most: total, completed, failed."},
		{Name: "spool_batch_eta_seconds", Type: Gauge, By: byWatcher(), Live: true, Labels: []string{"batch_id"},
			Help: "Time that an open batch that is not stopped will still take: until its last runner ends, at the rate of a runner while it asks."},
		{Name: "spool_lines_total", Type: Counter, By: byRunner(), Labels: []string{"status"},
			Help: "Lines in chunks that this runner committed, ok or error: over all runners, the lines of the output."},
		{Name: "spool_chunks_total", Type: Counter, By: byRunner(), Labels: []string{"state"},
			Help: "Chunks that were committed by this runner, adopted because another one was faster, or failed to be stored."},
		{Name: "spool_chunk_duration_seconds", Type: Histogram, By: byRunner(), Buckets: jobSeconds(),
			Help: "Time from the first line of a chunk in the window to its commit."},
		{Name: "spool_chunk_start_timestamp_seconds", Type: Gauge, By: byRunner(), Live: true,
			Help: "When the oldest open chunk was begun; absent if there is none."},
		{Name: "spool_segments_total", Type: Counter, By: byRunner(), Labels: []string{"outcome"},
			Help: "Attempts to save finished lines of open chunks: written or failed."},
	}
}

func requestMetrics() []Metric {
	return []Metric{
		{Name: "spool_requests_total", Type: Counter, By: byRunner(), Labels: []string{"model", "operation", "status"},
			Help: "Lines that got a result, ok or error, and requests that are to be made again: retried."},
		{Name: "spool_request_errors_total", Type: Counter, By: byRunner(), Labels: []string{"model", "error_type"},
			Help: "Requests that failed, tries that are made again too, by what was wrong."},
		{Name: "spool_requests_in_flight", Type: Gauge, By: byRunner(), Live: true, Help: "Requests at the engines now."},
		{Name: "spool_window_size", Type: Gauge, By: byRunner(), Live: true, Help: "Requests that the runner keeps in flight."},
		{Name: "spool_request_duration_seconds", Type: Histogram, By: byRunner(), Labels: []string{"model", "operation"},
			Buckets: requestSeconds(), Help: "Time of requests that got a result, from sending to the whole answer."},
		{Name: "spool_request_time_to_first_token_seconds", Type: Histogram, By: byRunner(), Buckets: requestSeconds(),
			Help: "Time from an engine's beginning with a request to its first token, if it tells (vLLM with --enable-per-request-metrics)."},
		{Name: "spool_request_engine_queue_seconds", Type: Histogram, By: byRunner(), Buckets: requestSeconds(),
			Help: "Time that a request waited in an engine, if it tells."},
		{Name: "spool_request_decode_seconds", Type: Histogram, By: byRunner(), Buckets: requestSeconds(),
			Help: "Time from a request's first token to its last, if the engine tells."},
		{Name: "spool_tokens_total", Type: Counter, By: byRunner(), Labels: []string{"model", "type"},
			Help: "Tokens of results: input, cached (a part of input) and output."},
		{Name: "spool_request_tokens", Type: Histogram, By: byRunner(), Labels: []string{"model", "type"}, Buckets: tokenCounts(),
			Help: "Tokens of one result: input and output."},
		{Name: "spool_engine_answers_total", Type: Counter, By: byRunner(), Labels: []string{"outcome"},
			Help: "Answers of engines, the failed ones too, by what they mean to the runner."},
	}
}

func engineMetrics() []Metric {
	return []Metric{
		{Name: "spool_engine_ready", Type: Gauge, By: byRunner(), Live: true, Help: "1 if an engine of the runner is up, else 0."},
		{Name: "spool_engine_starts_total", Type: Counter, By: byRunner(), Help: "How often an engine came up: all beyond the first of each are restarts."},
		{Name: "spool_engine_load_start_timestamp_seconds", Type: Gauge, By: byRunner(), Live: true,
			Help: "Since when the runner waits for an engine; absent while one is up or none is wanted."},
		{Name: "spool_engine_load_duration_seconds", Type: Gauge, By: byRunner(),
			Help: "Time that the last start of the runner's own engine took, model and all."},
		{Name: "spool_engine_tokens_total", Type: Counter, By: byRunner(), Labels: []string{"type"},
			Help: "Tokens as the engines count them: prompt and generation, also of requests that were lost."},
		{Name: "spool_engine_preemptions_total", Type: Counter, By: byRunner(), Help: "Sequences that an engine threw out for want of memory (vllm:num_preemptions_total)."},
		{Name: "spool_engine_prefix_cache_tokens_total", Type: Counter, By: byRunner(), Labels: []string{"result"},
			Help: "Tokens that were looked for (queried) and found (hit) in the prefix cache."},
		{Name: "spool_engine_sequences", Type: Gauge, By: byRunner(), Live: true, Labels: []string{"state"}, Help: "Sequences in the engines: running and waiting."},
		{Name: "spool_engine_kv_cache_usage_ratio", Type: Gauge, By: byRunner(), Live: true, Help: "Used part of the KV cache of the fullest engine, 0 to 1."},
	}
}

func gpuMetrics() []Metric {
	gauge := func(name, help string) Metric {
		return Metric{Name: name, Type: Gauge, By: byRunner(), Live: true, Labels: []string{"gpu"}, Help: help}
	}
	return []Metric{
		gauge("spool_gpu_utilization_ratio", "Part of the last second in which a kernel ran, 0 to 1."),
		gauge("spool_gpu_memory_used_bytes", "Memory that is allocated."),
		gauge("spool_gpu_memory_total_bytes", "Memory of the GPU."),
		gauge("spool_gpu_memory_used_max_bytes", "Most memory that was allocated since the runner started."),
		gauge("spool_gpu_temperature_celsius", "Temperature."),
		gauge("spool_gpu_temperature_max_celsius", "Highest temperature since the runner started."),
		{Name: "spool_gpu_energy_joules_total", Type: Counter, By: byRunner(), Labels: []string{"gpu"}, Help: "Energy used; its rate is the power in watts."},
		{Name: "spool_gpu_clock_throttle_seconds_total", Type: Counter, By: byRunner(), Labels: []string{"gpu", "reason"}, Help: "Time with lower clocks than possible, by reason."},
		{Name: "spool_gpu_xid_errors_total", Type: Counter, By: byRunner(), Labels: []string{"gpu", "xid"}, Help: "Errors that the driver reported, by their number."},
		{Name: "spool_gpu_ecc_errors_total", Type: Counter, By: byRunner(), Labels: []string{"gpu", "type"}, Help: "Errors of memory: corrected and uncorrected."},
	}
}

func hostMetrics() []Metric {
	return []Metric{
		{Name: "spool_host_memory_used_bytes", Type: Gauge, By: byRunner(), Live: true, Help: "Memory of the runner's machine that programs cannot get any more."},
		{Name: "spool_host_memory_available_bytes", Type: Gauge, By: byRunner(), Live: true,
			Help: "Memory of the runner's machine that programs can still get; the limit of a container is not in it."},
		{Name: "spool_host_disk_free_bytes", Type: Gauge, By: byRunner(), Live: true, Help: "Free room where the runner's scratch folder is."},
		{Name: "spool_host_cpu_seconds_total", Type: Counter, By: byRunner(),
			Help: "Time that all processors of the machine worked, for whomever, since it started: its rate is how many are busy."},
	}
}

func storageMetrics() []Metric {
	return []Metric{
		{Name: "spool_storage_operation_duration_seconds", Type: Histogram, By: byBoth(), Labels: []string{"operation"}, Buckets: storeSeconds(),
			Help: "Time of calls of the store with their retries: get (to the first byte), head, put, list, upload, delete."},
		{Name: "spool_storage_errors_total", Type: Counter, By: byBoth(), Labels: []string{"operation", "error_type"},
			Help: "Calls of the store that failed after their retries. That an object is not there, or there already, is no failure."},
		{Name: "spool_bytes_total", Type: Counter, By: byBoth(), Labels: []string{"direction", "kind"},
			Help: "Bytes read from and written to the bucket: input, result, work, log, other."},
		{Name: "spool_files_total", Type: Counter, By: byBoth(), Labels: []string{"direction", "kind"}, Help: "Objects read from and written to the bucket."},
	}
}

func queueMetrics() []Metric {
	return []Metric{
		{Name: "spool_queue_messages", Type: Gauge, By: byWatcher(), Live: true, Labels: []string{"pool", "queue", "queue_role", "state"},
			Help: "Messages as SQS counts them: visible, in_flight, delayed; of role jobs or dlq."},
		{Name: "spool_queue_oldest_message_age_seconds", Type: Gauge, By: byWatcher(), Live: true, Labels: []string{"pool", "queue", "queue_role"},
			Help: "How long the oldest job that nobody works on waits, since it was last sent or a runner left it; 0 if there is none."},
		{Name: "spool_queue_receives_total", Type: Counter, By: byRunner(), Labels: []string{"queue", "outcome"},
			Help: "Receives by the runner: message, empty or failed."},
	}
}

func watcherMetrics() []Metric {
	counter := func(name, help string, labels ...string) Metric {
		return Metric{Name: "spool_watcher_" + name, Type: Counter, By: byWatcher(), Labels: labels, Help: help}
	}
	return []Metric{
		counter("scans_total", "Scans that saw all inputs and open batches."),
		{Name: "spool_watcher_scan_seconds", Type: Histogram, By: byWatcher(), Buckets: requestSeconds(), Help: "Time of a scan, without validation and finalising."},
		{Name: "spool_watcher_last_scan_timestamp_seconds", Type: Gauge, By: byWatcher(), Live: true, Help: "When the last scan that saw everything ended."},
		counter("plans_total", "Plans of this watcher that stand, by verdict.", "verdict"),
		counter("batches_total", "Batches that this watcher was the first to see end, by outcome: over all watchers, those that ended.", "outcome"),
		counter("lines_validated_total", "Lines that were checked, bad ones too."),
		counter("bad_lines_total", "Bad lines in plans of this watcher."),
		counter("validated_bytes_total", "Bytes of input files as stored that were validated."),
		{Name: "spool_watcher_validation_seconds", Type: Histogram, By: byWatcher(), Buckets: requestSeconds(), Help: "Time of the first pass over a file: read, check, cut, compress."},
		counter("jobs_sent_total", "Messages sent, repetitions too.", "pool"),
		counter("jobs_resent_total", "Messages sent again because too few were found in the queues.", "pool"),
		counter("dead_jobs_total", "Messages taken from the dead-letter queue.", "pool"),
		counter("events_total", "Messages of the event queue, by what they were.", "kind"),
		counter("collected_objects_total", "Objects deleted after their time."),
		counter("errors_total", "Failures after which the watcher went on, by what failed.", "what"),
		{Name: "spool_last_success_timestamp_seconds", Type: Gauge, By: byWatcher(), Labels: []string{"pool"}, Help: "When a batch of the pool last ended completed."},
		{Name: "spool_last_completion_timestamp_seconds", Type: Gauge, By: byWatcher(), Labels: []string{"pool"}, Help: "When a batch of the pool last ended, however."},
		{Name: "spool_last_run_duration_seconds", Type: Gauge, By: byWatcher(), Labels: []string{"pool"}, Help: "Time from the upload to the end of the batch that last ended."},
	}
}

func telemetryMetrics() []Metric {
	return []Metric{
		{Name: "spool_telemetry_failures_total", Type: Counter, By: byBoth(), Labels: []string{"sink"}, Help: "Telemetry that could not be delivered, by sink."},
		{Name: "spool_log_lines_total", Type: Counter, By: byBoth(), Labels: []string{"level", "outcome"}, Help: "Log lines by level and what became of them in the bucket."},
		{Name: "spool_log_oldest_unflushed_age_seconds", Type: Gauge, By: byBoth(), Live: true, Help: "How long the oldest log line waits for its way into the bucket."},
		{Name: "spool_pushgateway_groups_deleted_total", Type: Counter, By: byWatcher(), Help: "Groups of processes that are gone, deleted from the Pushgateway."},
	}
}
