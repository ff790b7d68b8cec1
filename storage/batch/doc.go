// Package batch is spool's durable format: the keys of the bucket, the objects under them, OpenAI's
// lines and batch object, and the rules that make them from one another. storage/FORMAT.md says the
// same in prose; the two change together.
//
// Everything here is pure: no store, no clock, no logger. The finaliser's promise, that the bytes of
// output.jsonl are a function of the manifest and of what it names, rests on that.
package batch
