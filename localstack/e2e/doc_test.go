// Package e2e runs the built binary as its users do: `spool local` as the stack and the watcher, `spool
// run` and `spool vllmsim` as processes that are killed and restarted, files dropped by `aws s3 cp`. It
// has nothing but tests. Each asserts what a user would check: the lines of the output, their order,
// and, by the ledger of the engine, what was asked.
package e2e
