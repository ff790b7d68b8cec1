package dashboards

func batchProcessing() Board {
	return Board{UID: "spool-batch", Title: "spool / Batch Processing", About: "What is done, how fast, and what waits.", Rows: []Row{
		{"Now", batchNow()}, {"Batches", batchBatches()}, {"Requests", batchRequests()},
		{"Chunks and jobs", batchChunks()}, {"Queues", batchQueues()}, {"Time and bytes", batchTime()},
	}}
}

func batchNow() []Panel {
	return []Panel{
		one(Stat, "Lines done", count, "Lines in stored chunks, in the range of time: of all runners together, exact.",
			"sum by (status) "+inRange("spool_lines_total{§R}"), "{{status}}"),
		one(Stat, "Batches ended", count, "Batches by outcome, as the watchers saw them end in the range.",
			"sum by (outcome) "+inRange("spool_watcher_batches_total"), "{{outcome}}"),
		one(Stat, "Error ratio", ratio, "Lines that ended as errors, of all that ended in the range.",
			"(sum"+inRange(`spool_requests_total{status="error", §M}`)+" or vector(0)) / (sum"+inRange(`spool_requests_total{status=~"ok|error", §M}`)+" > 0)", "errors").red(0.02),
		one(Stat, "Output tokens a second", perSecond, "Tokens of results.",
			`sum(rate(spool_tokens_total{type="output", §M}§W))`, "tokens/s"),
		one(Stat, "Live runners", count, "Runners that pushed in the last minute and have not ended.", "count("+liveRunners+") or vector(0)", "runners"),
		one(Stat, "Oldest job", seconds, "How long the oldest job waits that nobody works on.",
			"max(spool_queue_oldest_message_age_seconds{§P}§WATCHES)", "age").red(1800),
	}
}

func batchBatches() []Panel {
	return []Panel{
		one(Bars, "Progress", ratio, "Lines with a result, of the open batches (50 at most).",
			`sum by (batch_id) (max by (batch_id, state) (spool_batch_lines{state=~"completed|failed"}§WATCHES)) / sum by (batch_id) (max by (batch_id, state) (spool_batch_lines{state="total"}§WATCHES))`, "{{batch_id}}"),
		one(Bars, "Time left", seconds, "Of the runner that will end last, at the rate of a runner while it asks; as in `spool status`.", "max by (batch_id) (spool_batch_eta_seconds§WATCHES)", "{{batch_id}}"),
		one(Stat, "Last batch took", seconds, "The one that ended last, from the upload to batch.json; one that was refused, too.",
			`max by (pool) (last_over_time(spool_last_run_duration_seconds{§P}§T) and on (job, instance, pool)
  last_over_time(spool_last_completion_timestamp_seconds{§P}§T) == on (pool) group_left () max by (pool) (last_over_time(spool_last_completion_timestamp_seconds{§P}§T)))`, "{{pool}}"),
		one(Stat, "Last success", seconds, "Since a batch of the pool last ended completed.", "time() - max by (pool) (max_over_time(spool_last_success_timestamp_seconds{§P}§T))", "{{pool}}").red(2 * 86400),
		one(Stat, "Last end", seconds, "Since a batch of the pool last ended, however.", "time() - max by (pool) (max_over_time(spool_last_completion_timestamp_seconds{§P}§T))", "{{pool}}"),
		one(Stat, "Plans", count, "Files that were accepted or rejected, in the range.", "sum by (verdict) "+inRange("spool_watcher_plans_total"), "{{verdict}}"),
		one(Stat, "Bad lines", count, "Bad lines of files that were planned, in the range.", "sum"+inRange("spool_watcher_bad_lines_total"), "bad").yellow(1),
		one(Lines, "Lines validated", perSecond, "Lines a second that watchers check; bad ones are counted, too.",
			"sum(rate(spool_watcher_lines_validated_total§W))", "lines/s"),
		one(Lines, "Bytes validated", "Bps", "Bytes of input files as stored.", "sum(rate(spool_watcher_validated_bytes_total§W))", "bytes/s"),
		{Title: "Validation", About: "Time of the first pass over a file.", Unit: seconds, Queries: quantiles("spool_watcher_validation_seconds", "")},
	}
}

func batchRequests() []Panel {
	return []Panel{
		one(Lines, "Results a second", perSecond, "Lines that got a result, by model and status; retried are requests that are made again.",
			"sum by (model, status) (rate(spool_requests_total{§M}§W))", "{{model}} {{status}}"),
		one(Lines, "Tokens a second", perSecond, "Cached tokens are a part of the input.", "sum by (type) (rate(spool_tokens_total{§M}§W))", "{{type}}"),
		one(Stacked, "Error types", perSecond, "The ten most frequent failures of requests, tries that are made again too.",
			"topk(10, sum by (error_type) (rate(spool_request_errors_total{§M}§W)) > 0)", "{{error_type}}").needs(NeedsTrouble),
		one(Bars, "Failures", count, "The same in the range: all of them, also the first of its type, which no rate shows.",
			"topk(10, sum by (error_type) "+inRange("spool_request_errors_total{§M}")+" > 0)", "{{error_type}}").yellow(1),
		{Title: "Latency", About: "Time of requests that got a result. Points are single ones, by their trace.", Unit: seconds, Queries: quantiles("spool_request_duration_seconds", "§M"), Exemplars: true},
		{Title: "Times in the engine", About: "Before a sequence begins, to its first token, and from there to its last.", Unit: seconds, Needs: NeedsTold, Queries: []Query{
			q(quantile("0.5", "", "spool_request_engine_queue_seconds", "§R"), "queue p50"),
			q(quantile("0.95", "", "spool_request_engine_queue_seconds", "§R"), "queue p95"),
			q(quantile("0.5", "", "spool_request_time_to_first_token_seconds", "§R"), "first token p50"),
			q(quantile("0.95", "", "spool_request_time_to_first_token_seconds", "§R"), "first token p95"),
			q(quantile("0.5", "", "spool_request_decode_seconds", "§R"), "decode p50"),
			q(quantile("0.95", "", "spool_request_decode_seconds", "§R"), "decode p95"),
		}},
		{Title: "Latencies", About: "How many requests took how long.", Unit: seconds, Kind: Heat, Exemplars: true, Queries: []Query{
			q("sum by (le) (rate(spool_request_duration_seconds_bucket{§M}§W))", "{{le}}"),
		}},
		{Title: "Tokens of a result", About: "Half and nearly all of the results have at most so many.", Unit: count, Queries: []Query{
			q(quantile("0.5", "type", "spool_request_tokens", "§M"), "{{type}} p50"),
			q(quantile("0.95", "type", "spool_request_tokens", "§M"), "{{type}} p95"),
		}},
		{Title: "Window", About: "Requests at the engines, and how many there may be.", Unit: count, Queries: []Query{
			q("sum(spool_requests_in_flight{§R}§RUNS)", "in flight"), q("sum(spool_window_size{§R}§RUNS)", "window"),
		}},
	}
}

func batchChunks() []Panel {
	return []Panel{
		{Title: "Chunk duration", About: "From the first line in the window to the commit.", Unit: seconds, Queries: quantiles("spool_chunk_duration_seconds", "§R")},
		one(Stacked, "Chunks", perSecond, "Adopted: another runner was faster, its chunk stands.", "sum by (state) (rate(spool_chunks_total{§R}§W)) > 0", "{{state}}"),
		one(Lines, "Oldest open chunk", seconds, "A straggler holds its batch up.", "time() - spool_chunk_start_timestamp_seconds{§R}§RUNS", "{{instance}}"),
		one(Stacked, "Segments", perSecond, "Attempts to save finished lines of open chunks. If they fail, a crash loses work.",
			"sum by (outcome) (rate(spool_segments_total{§R}§W)) > 0", "{{outcome}}"),
		one(Stat, "Jobs", count, "What became of jobs, in the range.", "sum by (state) "+inRange("spool_jobs_total{§R}")+" > 0", "{{state}}"),
		one(Lines, "Jobs in progress", count, "Shards that runners hold.", "sum by (instance) (spool_runner_jobs_in_progress{§R}§RUNS)", "{{instance}}"),
		{Title: "Job duration", About: "From the receipt of a job to its fate.", Unit: seconds, Queries: quantiles("spool_job_duration_seconds", "§R")},
		{Title: "Waiting in the queue", About: "Of jobs when they are first received.", Unit: seconds, Queries: quantiles("spool_job_queue_wait_seconds", "§R")},
	}
}

func batchQueues() []Panel {
	return []Panel{
		one(Stacked, "Messages", count, "As SQS counts them.", `max by (queue, state) (spool_queue_messages{queue_role="jobs", §P}§WATCHES)`, "{{queue}} {{state}}"),
		one(Lines, "Age of the oldest job", seconds, "Of those that nobody works on.", "max by (queue) (spool_queue_oldest_message_age_seconds{§P}§WATCHES)", "{{queue}}").red(1800),
		one(Lines, "Dead letters", count, "Seen before the watcher takes them.", `max by (queue) (spool_queue_messages{queue_role="dlq", §P}§WATCHES)`, "{{queue}}").red(1),
		one(Lines, "Jobs sent", perSecond, "Messages that watchers send.", "sum by (pool) (rate(spool_watcher_jobs_sent_total{§P}§W))", "{{pool}}"),
		one(Lines, "Jobs sent again", perSecond, "Because too few messages were found.", "sum by (pool) (rate(spool_watcher_jobs_resent_total{§P}§W))", "{{pool}}").needs(NeedsTrouble),
		one(Lines, "Dead jobs taken", perSecond, "Messages taken from the dead-letter queue.", "sum by (pool) (rate(spool_watcher_dead_jobs_total{§P}§W))", "{{pool}}").needs(NeedsTrouble),
	}
}

func batchTime() []Panel {
	return []Panel{
		one(Stacked, "What runners do", ratio, "Share of their time: idle is without a job, engine without an engine, store without a request in flight.",
			"sum by (phase) (rate(spool_runner_phase_seconds_total{§R}§W)) / ignoring (phase) group_left () sum(rate(spool_runner_phase_seconds_total{§R}§W))", "{{phase}}"),
		one(Lines, "Bytes", "Bps", "Read from and written to the bucket, by what the objects are.", "sum by (direction, kind) (rate(spool_bytes_total§W))", "{{direction}} {{kind}}"),
		one(Lines, "Objects", perSecond, "Read from and written to the bucket.", "sum by (direction, kind) (rate(spool_files_total§W))", "{{direction}} {{kind}}"),
	}
}
