package monitoring

// Label says how many values a label has in one process, which is what bounds the series.
type Label struct {
	Name   string
	Most   int // values of one metric in one process, or Configured
	Values string
}

// Configured is the bound of labels that have as many values as there are pools in the configuration.
const Configured = -1

// Labels lists the labels of the catalogue's metrics, sorted by name. Metrics know no others.
func Labels() []Label {
	return []Label{
		{"batch_id", 50, "open batches that a watcher tells of"},
		{"direction", 2, "read, written"},
		{"engine_version", 1, "what the engine says"},
		{"error_type", 43, "of requests a code or http_ and the status, of the store that of LOGS.md"},
		{"gpu", 16, "the number of a GPU of the machine"},
		{"gpu_name", 1, "of the first GPU"},
		{"kind", 5, "of objects, of events"},
		{"level", 4, "debug, info, warn, error"},
		{"model", 6, "the first 5 that were asked, and other"},
		{"operation", 11, "the endpoint of a request, the call of a store"},
		{"outcome", 9, "what became of it; the metric says which"},
		{"phase", 5, "idle, engine, generate, store, drain"},
		{"pool", Configured, "of the watcher's configuration"},
		{"queue", Configured, "of the pools of the configuration; fast and pool of a runner"},
		{"queue_role", 2, "jobs, dlq"},
		{"reason", 8, "of an end, of low clocks"},
		{"result", 2, "queried, hit"},
		{"sink", 6, "to which telemetry goes"},
		{"state", 20, "what became of it, or how it is; the metric says which"},
		{"status", 3, "ok, error, retried"},
		{"type", 3, "of tokens, of memory errors"},
		{"verdict", 2, "accepted, rejected"},
		{"version", 1, "of spool"},
		{"what", 20, "what failed, one of the texts in the source"},
		{"xid", 20, "numbers that the driver reported"},
	}
}
