// Package vllmsim is an engine stand-in: a process that behaves on the wire like `vllm serve`, and fails
// as vLLM fails, without a GPU, a model or Python. spool's tests, its demo and `spool local` run
// against it, because they need what no real engine gives: answers by which a right one can be told from
// a wrong one, a ledger of everything that was asked, thousands of requests a second on one core, and
// faults on demand.
//
// # Answers
//
// What an answer says is a pure function of the endpoint, the bytes of the body and the Config;
// Config.Answer computes it and Config.Check compares. A generated text begins with the first 16
// hexadecimal digits of the body's sha256 (what sha256sum prints), a dot and the number of the choice;
// random words follow, one a token. Embeddings are unit vectors that depend on their input alone; scores
// are their cosines. Lengths are drawn from a list of real ones. So a single byte that is lost on the way, an
// answer put to the wrong line, or an answer cut short is seen.
//
// # Like vLLM
//
// Bodies, errors, headers and metrics were compared with what a running vLLM 0.32.0 (CPU) sent, member by
// member; where a rule was only read, the comment names the source file.
//
//   - Requests: X-Request-Id in the id of the answer; n, max_tokens, max_completion_tokens,
//     max_output_tokens, min_tokens, ignore_eos, echo, lists of prompts and token ids, encoding_format,
//     top_n; any served name is accepted, none too, and the answer names the first.
//   - Scheduling: a bounded number of slots and an unbounded queue, first come first served; each choice
//     is a sequence of its own; steps take longer the more sequences run; prefills hold everything up;
//     who disconnects frees his slots.
//   - Life: the address is taken before the model loads, and refuses connections until then; a socket
//     file that exists is an error, and it stays behind; SIGTERM aborts what is in flight with 200 and
//     finish_reason "abort", or drains it for ShutdownTimeout; the death of EngineCore is 500 for all in
//     flight, 503 at /health, and the end of the process.
//   - Idle connections are closed after 5 s.
//
// # Not like vLLM
//
// One server has the endpoints of generative and of pooling models. There are no tokenizer and no
// template: four bytes are a token, a message costs four more. Sampling parameters, stop strings,
// logprobs, tools and response_format change the digest and nothing else. The KV cache has room for every
// slot at full length, so nothing is preempted, and there is no prefix cache: their counters stay at 0.
// stream is refused with 400, numbers in strings are refused where pydantic would convert them, and
// the texts of its complaints are only similar. These are vllmsim's own: GET /sim/ledger gives
// Counts, GET and POST /sim/faults the fault plan.
package vllmsim
