package watcher

import (
	"testing"
	"time"

	"spool/storage/batch"
	"spool/storage/memstore"
)

func TestASurveyOlderThanWhatWasSentSinceDoesNotForgetIt(t *testing.T) {
	store := memstore.New(memstore.Options{})
	p := &pool{w: &Watcher{cfg: Config{Bucket: store}}, mu: newLock(), wants: map[string]*survey{}}
	plan := &batch.Plan{Batch: "b1", Shards: make([]batch.Shard, 3)}
	slow := &survey{plan: plan, begun: time.Now(), sent: &batch.Sent{}}
	p.want(&survey{plan: plan, begun: time.Now(), sent: &batch.Sent{}})
	if won, err := p.change(t.Context(), p.wants["b1"], func(s *batch.Sent) { s.Shards[1] = batch.SentInfo{At: 7, Count: 1} }); !won || err != nil {
		t.Fatalf("change: %v %v", won, err)
	}
	p.want(slow)
	if got := p.wants["b1"].outstanding(); len(got) != 1 || got[0] != 1 {
		t.Errorf("outstanding %v, want shard 1", got)
	}
	if won, err := p.change(t.Context(), p.wants["b1"], func(*batch.Sent) {}); !won || err != nil {
		t.Errorf("the next change: %v %v, want it to win", won, err)
	}
}
