// Package monitoring is how spool's processes report on themselves: the logger, the catalogue of metrics, and
// the way of both out of the process. It decides formats once, so that a log line of the watcher and one of a runner have the same
// fields, and it stays off the critical path: a sink that is down or hangs costs a counter, never work.
package monitoring
