//go:build !nvml

package gpu

const noGPUs = "no GPU support built in (tag nvml)"
