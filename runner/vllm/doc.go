// Package vllm calls an inference server that speaks OpenAI's HTTP API, above all vLLM, and says what
// each answer means for the one who asked. It knows no jobs: it neither retries nor counts attempts.
//
// A Client calls a server that somebody else runs. A Server owns one `vllm serve`: it starts it on a fresh unix
// socket in a process group of its own, says why it does not start, notices that it died or hangs, removes all that it
// left behind and starts it again, within a budget. It trusts neither exit statuses (vLLM exits 0 when its engine was
// killed) nor /health (200 while EngineCore is stopped), but its process, its answers and its token counters. Which
// options a vLLM knows is asked of its argument parser, by the start itself: `vllm serve --help=all` costs as much
// as half of a start, and would be paid each time.
//
// The meaning of an answer follows what vLLM does (read in its sources of 2026-08 and seen with 0.32
// on CPU), not what the status codes promise:
//
//   - 200 with finish_reason "abort" is not a result: the server was shutting down.
//   - 500 with "EngineCore encountered an issue" is the death of the engine, not a fault of the request.
//   - 400 is permanent, whatever its type; 422 and 501 too.
//   - 404 with param "model" is an unknown model: no line of the batch will fare better.
//   - errors come as an object, a bare string, or FastAPI's {"detail": …}.
//   - 429, 502 and 504 never come from vLLM itself, but from what stands before it; 503 says that its queue is full.
package vllm
