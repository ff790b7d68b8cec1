package batch

import (
	"slices"
	"testing"
)

func TestShardSizesAreThoseOfFormat(t *testing.T) {
	for n, want := range map[int][]int{
		-1: nil, 0: nil, 1: {1}, 2: {1, 1}, 3: {2, 1}, 7: {4, 3}, 8: {4, 4}, 9: {8, 1}, 16: {8, 8}, 20: {8, 8, 4},
	} {
		if got := ShardSizes(n, DefaultShardChunks); !slices.Equal(got, want) {
			t.Errorf("ShardSizes(%d, 8) = %v, want %v", n, got, want)
		}
	}
	if got, want := ShardSizes(3, 1), []int{1, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("ShardSizes(3, 1) = %v, want %v", got, want)
	}
}

func TestShardSizesCoverAllChunks(t *testing.T) {
	for n := range 200 {
		for most := 1; most < 12; most++ {
			sum := 0
			for _, size := range ShardSizes(n, most) {
				if size < 1 || size > most {
					t.Fatalf("ShardSizes(%d, %d) has a shard of %d", n, most, size)
				}
				sum += size
			}
			if sum != n {
				t.Fatalf("ShardSizes(%d, %d) has %d chunks", n, most, sum)
			}
		}
	}
}

func TestPlanCountsChunksAndRequests(t *testing.T) {
	p := Plan{Lines: 10, Bad: 3, Shards: []Shard{{Chunks: make([]PlanChunk, 3)}, {Chunks: make([]PlanChunk, 2)}}}
	for shard, want := range []int{0, 3, 5} {
		if got := p.FirstChunk(shard); got != want {
			t.Errorf("FirstChunk(%d) = %d, want %d", shard, got, want)
		}
	}
	if p.Chunks() != 5 || p.Requests() != 7 || (PlanChunk{Lines: 4, Bad: 1}).Requests() != 3 {
		t.Errorf("chunks %d, requests %d; want 5, 7", p.Chunks(), p.Requests())
	}
}
