// Package runner works on shards: it receives a message, takes the shard's lease, asks the engine for
// every line that has no answer yet, commits chunks, and finalises the batch if it was the last.
//
// # Shape
//
// One intake receives messages. Each shard that is held has a goroutine of its own (shard.work), which
// loads chunks, commits them, writes segments and looks for stop.json. All shards feed one window: a
// fixed number of workers that take the next line from whatever shard has one. There is no barrier
// between chunks or shards, and the intake receives the next message as soon as the last line of the
// one before is in the window's queue, so that the engine's slots stay full. Measured on a simulated
// engine of 256 slots, a barrier every 1,000 lines leaves 26 % of the slots busy, a window 98 %.
//
// # Why nothing is lost or doubled
//
// Everything that counts is written by storage.PutOnce: chunk, done, manifest, result. Whoever is
// second adopts what stands. A message is deleted after done is stored and finalising was tried. So a
// runner may die, hang, or be a zombie at any point; what it has not committed is done again by whoever
// receives the message next. Leases and visibility time-outs only save work, and so do segments: the
// finished lines of open chunks, written every few seconds, which a successor takes over.
//
// # Ending
//
// Interrupted is not failed: when the context of Run ends, the intake stops, what is in flight is
// dropped, finished lines become segments, leases are released, messages handed over, and Run returns nil.
package runner
