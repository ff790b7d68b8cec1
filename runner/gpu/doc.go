// Package gpu watches the GPUs of this machine: what they do, what they use, and whether they may be used any longer.
//
// Only a binary that was built with the tag nvml, and therefore with cgo, can watch GPUs. It loads NVIDIA's management
// library, libnvidia-ml.so.1, when [Open] is called, and runs as well on machines that have none. Without the tag, or
// without a library, a driver or a GPU, a [Sampler] has no GPUs, and Open says why. That is no error: an engine on CPU, or
// one that runs elsewhere, is as good.
//
// The package knows no jobs, no logger and no registry. A [Sample] is made for the runner record; its fields have the units
// in which Prometheus wants them, and its sums are counters that start at 0 with [Sampler.Run].
package gpu
