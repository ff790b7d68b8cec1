// Package sim runs the real watcher, runner and finaliser in one process, on a store in memory and the
// SQS server of the local stack without sockets, in virtual time: testing/synctest is the clock of all of
// them, so that leases of 90 s, messages that are hidden for two minutes and windows of a day pass in
// milliseconds. It has nothing but tests.
//
// One seed is one schedule of faults. Each process reaches the store and the queues by a link of its own
// (store_test.go, wire_test.go), which loses, delays, refuses and tears by dice that depend on the seed, on
// the process and on what is asked, not on the order in which goroutines happen to run. Every call takes a
// time of its own, so that a seed replays nearly the same; jitter of retries and put ids stay random.
//
// After a time of trouble all faults end, and then everything must come to rest: every upload ended,
// queues empty, nothing marked as open. What is in the bucket then is held against what was put
// (oracle_test.go).
//
//	SPOOL_SIM_SEEDS=500 go test ./localstack/sim   # more seeds
//	SPOOL_SEED=17 go test -v ./localstack/sim      # one of them, with the logs of all processes
package sim
