// Package watcher turns the files that users drop into jobs: it validates each input, stages its lines,
// writes the plan, keeps the queues filled, stops what was cancelled or is too old, and finalises what is
// over.
//
// A watcher knows nothing that the bucket does not know. It may be killed between any two
// requests, run as often as one likes at once, or only now and then from cron: whatever it finds half
// done, it goes on with. What it keeps in memory are caches of objects that never change, and
// measurements for people (the rate of a batch).
//
// LIST is what makes it act, every Config.ScanEvery; events of the bucket only make it act at
// once. So a lost event costs time, and a forged one a look.
//
// The path of one upload is look (HEAD, options, batch id) → stage (one pass over the bytes: hash,
// decompress, check, cut, compress, upload) → plan.json → advance (stop? send? finalise? status). A scan
// then advances every batch that has no result. A failure at one input or batch is logged and counted, and
// tried again by the next scan; it never keeps the others waiting.
package watcher
