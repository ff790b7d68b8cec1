package vllm

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// memorySlack is what may stay in use on GPUs without being vLLM's.
const memorySlack = 512 << 20

// memoryLimit is how long a driver may take to give back the memory of the dead.
const memoryLimit = time.Minute

// gpuMemory tells what is in use; -1 if nobody knows.
func (s *Server) gpuMemory(ctx context.Context) int64 {
	if s.cfg.GPUMemory == nil {
		return -1
	}
	used, err := s.cfg.GPUMemory(ctx)
	if err != nil {
		s.cfg.Log.Warn("gpu memory is not known", zap.String("event", "gpu_memory"), zap.String("error_type", TypeMemory), zap.Error(err))
		return -1
	}
	return used
}

// awaitMemory waits until the GPUs' memory is free as it was before the first start. If it does not become so, the next
// start is tried all the same, and says what it lacks.
func (s *Server) awaitMemory(ctx context.Context, baseline int64) {
	ctx, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	for baseline >= 0 {
		used := s.gpuMemory(ctx)
		if used <= baseline+memorySlack {
			return
		}
		if ctx.Err() != nil {
			s.cfg.Log.Warn("gpu memory is still in use", zap.String("event", "gpu_memory"), zap.String("error_type", TypeMemory),
				zap.Int64("bytes", used), zap.Int64("before", baseline))
			return
		}
		sleep(ctx, pollEvery)
	}
}
