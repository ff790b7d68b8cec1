package watcher

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestSmallFilesDoNotWaitBehindLargeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var done []string
		hold := make(chan struct{})
		b := newBacklog(2, func(_ context.Context, key string) {
			if key[0] == 'L' {
				<-hold
			}
			mu.Lock()
			defer mu.Unlock()
			done = append(done, key)
		})
		for n := range 4 {
			b.add(t.Context(), fmt.Sprint("L", n), smallFile+1)
		}
		for n := range 20 {
			b.add(t.Context(), fmt.Sprint("s", n), smallFile)
		}
		synctest.Wait()
		mu.Lock()
		if len(done) != 20 || b.large.running != 2 || len(b.large.waiting) != 2 {
			t.Errorf("%d small ones done, %d large ones at work, %d waiting: want 20, 2, 2", len(done), b.large.running, len(b.large.waiting))
		}
		mu.Unlock()
		close(hold)
		b.wait()
		if len(done) != 24 {
			t.Errorf("%d done, want 24", len(done))
		}
	})
}

func TestAKeyRunsOnceAtATimeAndAgainIfItIsAddedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := make(chan struct{})
		var order []int
		b := newBacklog(1, func(context.Context, string) {
			order = append(order, len(order))
			<-runs
		})
		b.add(t.Context(), "k", 0)
		synctest.Wait()
		for range 3 {
			b.add(t.Context(), "k", 0)
		}
		synctest.Wait()
		if len(order) != 1 {
			t.Errorf("%d at once, want 1", len(order))
		}
		close(runs)
		b.wait()
		if !slices.Equal(order, []int{0, 1}) {
			t.Errorf("runs %v, want two", order)
		}
	})
}
