package dashboards

func systemHealth() Board {
	return Board{UID: "spool-health", Title: "spool / System Health", About: "Whether every part does its work.", Rows: []Row{
		{"Processes", healthProcesses()}, {"Machines", healthMachines()}, {"Store and queues", healthStore()}, {"Watchers", healthWatchers()}, {"Telemetry", healthTelemetry()},
		{"Logs", healthLogs()},
	}}
}

func healthProcesses() []Panel {
	return []Panel{
		one(Stat, "Runners ended", count, "In the range, by why.",
			"count by (reason) (max_over_time(spool_runner_end_timestamp_seconds{§R}§T) unless max_over_time(spool_runner_end_timestamp_seconds[1h] offset $__range))", "{{reason}}"),
		one(Stat, "Runners lost", count, "Silent, and did not say that they end.",
			`count((time() - push_time_seconds{job="spool-runner", §R} > 90) and on (job, instance) spool_runner_up == 1) or vector(0)`, "lost").red(1),
		one(Table, "Alerts", count, "Those that fire or are about to.", "max by (alertname, alertstate, severity) (ALERTS)", ""),
		one(Table, "Runners", count, "What they are.", "max by (instance, version, pool, engine_version, gpu_name) (spool_runner_info{§R})", ""),
		one(Table, "Age", seconds, "Since the runner started.", "time() - max by (instance) (spool_runner_start_timestamp_seconds{§R}§RUNS)", "age"),
		one(Table, "Last push", seconds, "Since a runner or watcher last pushed.", `time() - push_time_seconds{job=~"spool-.+"}`, "last push"),
		one(Lines, "Last progress", seconds, "Since the runner got a result or took up work, an engine came up, or it finalised a batch.", "time() - max by (instance) (spool_runner_last_progress_timestamp_seconds{§R}§RUNS)", "{{instance}}").red(600),
		one(Timeline, "Runners up", count, "1 while they work, 0 when they have ended in order; nothing 90 s after the last push.", "max by (instance) (spool_runner_up{§R}§RUNS)", "{{instance}}"),
	}
}

func healthMachines() []Panel {
	return []Panel{
		one(Lines, "Memory of machines", ratio, "Part that programs cannot get any more; the kernel kills at all of it.",
			"1 - spool_host_memory_available_bytes{§R} / (spool_host_memory_used_bytes{§R} + spool_host_memory_available_bytes{§R})§RUNS", "{{instance}}").yellow(0.95),
		one(Lines, "Free disk", "bytes", "Where the runner's scratch folder is.", "spool_host_disk_free_bytes{§R}§RUNS", "{{instance}}"),
		one(Lines, "Processors at work", count, "Of the runner's machine, for whomever.", "rate(spool_host_cpu_seconds_total{§R}§W)", "{{instance}}"),
	}
}

func healthStore() []Panel {
	return []Panel{
		one(Lines, "Store calls", seconds, "95 % take at most so long, with retries.",
			quantile("0.95", "operation", "spool_storage_operation_duration_seconds", ""), "{{operation}}"),
		one(Lines, "Store calls a second", perSecond, "They cost money: each is a request of the store, or more.",
			"sum by (operation) (rate(spool_storage_operation_duration_seconds_count§W))", "{{operation}}"),
		one(Stacked, "Store errors", perSecond, "After their retries.", "sum by (operation, error_type) (rate(spool_storage_errors_total§W)) > 0", "{{operation}} {{error_type}}").needs(NeedsTrouble),
		one(Lines, "Receives", perSecond, "Of runners. Empty ones are what waiting costs.", "sum by (queue, outcome) (rate(spool_queue_receives_total{§R}§W))", "{{queue}} {{outcome}}"),
		one(Stacked, "Engine answers", perSecond, "By what they mean to the runner.", "sum by (outcome) (rate(spool_engine_answers_total{§R}§W)) > 0", "{{outcome}}"),
	}
}

func healthWatchers() []Panel {
	return []Panel{
		one(Timeline, "Watchers up", count, "1 while they work, 0 when they have ended in order; nothing 90 s after the last push.", "max by (instance) (spool_watcher_up§WATCHES)", "{{instance}}"),
		one(Lines, "Last scan", seconds, "Since the last scan that saw everything; nothing before the first.", "time() - (max(spool_watcher_last_scan_timestamp_seconds) > 0)", "age").red(600),
		one(Lines, "Watcher age", seconds, "Since the watcher started.", "time() - max by (instance) (spool_watcher_start_timestamp_seconds§WATCHES)", "{{instance}}"),
		{Title: "Scan", About: "Time of a scan.", Unit: seconds, Queries: quantiles("spool_watcher_scan_seconds", "")},
		one(Lines, "Scans", perSecond, "Each watcher makes one every 30 s.", "sum by (instance) (rate(spool_watcher_scans_total§W))", "{{instance}}"),
		one(Stacked, "Events", perSecond, "Messages of the queue of the bucket's events.", "sum by (kind) (rate(spool_watcher_events_total§W))", "{{kind}}"),
		one(Stacked, "Watcher errors", perSecond, "Failures after which it went on.", "sum by (what) (rate(spool_watcher_errors_total§W)) > 0", "{{what}}").needs(NeedsTrouble),
		one(Lines, "Objects collected", perSecond, "Deleted after their time.", "sum(rate(spool_watcher_collected_objects_total§W))", "objects/s"),
	}
}

func healthTelemetry() []Panel {
	return []Panel{
		one(Timeline, "Pushgateway up", count, "As Prometheus finds it.", `max(up{job="pushgateway"})`, "up"),
		one(Lines, "Scrape", seconds, "Time to scrape the Pushgateway.", `max(scrape_duration_seconds{job="pushgateway"})`, "scrape"),
		one(Lines, "Samples", count, "That a scrape brings: groups of processes that are gone should be deleted.", `max(scrape_samples_scraped{job="pushgateway"})`, "samples"),
		one(Lines, "Groups", count, "Of processes at the Pushgateway.", `count(push_time_seconds{job=~"spool-.+"})`, "groups"),
		one(Lines, "Groups deleted", perSecond, "By the watcher, after their process is gone.", "sum(rate(spool_pushgateway_groups_deleted_total§W))", "groups/s"),
		one(Table, "Pushes refused", seconds, "Since a push of the group last failed.", `time() - (push_failure_time_seconds{job=~"spool-.+"} > 0)`, "last failure").needs(NeedsTrouble),
		one(Lines, "Pushes", perSecond, "Requests at the Pushgateway, by answer.", `sum by (code) (rate(pushgateway_http_requests_total{handler="push"}§W))`, "{{code}}").needs(NeedsGateway),
		one(Stacked, "Telemetry failures", perSecond, "By where it should have gone.", "sum by (sink) (rate(spool_telemetry_failures_total§W)) > 0", "{{sink}}").needs(NeedsTrouble),
		one(Stacked, "Log lines", perSecond, "By level, and whether they came into the bucket.", "sum by (level, outcome) (rate(spool_log_lines_total§W)) > 0", "{{level}} {{outcome}}"),
		one(Lines, "Oldest log line", seconds, "That waits for its way into the bucket.", "max by (instance) (spool_log_oldest_unflushed_age_seconds§LIVES)", "{{instance}}").red(120),
	}
}

func healthLogs() []Panel {
	return []Panel{
		one(Logs, "Lines of logs", count, "Of the batch whose id is put above in place of .*, which means all; each line can be opened for its fields.",
			`{service=~".+", pool=~"$pool"} | batch_id=~"$batch"`, "").needs(NeedsLoki),
	}
}
