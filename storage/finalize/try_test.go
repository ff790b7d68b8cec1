package finalize

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/lease"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// inWorld runs f in a bubble of its own time, with a staged batch of several shards.
func inWorld(t *testing.T, f func(t *testing.T, s *memstore.Store, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		w := newWorld(t, seeded(5), shape{4, 3, 6, anyFate}, time.Now())
		if len(w.parts) < 3 || len(w.bad) == 0 {
			t.Fatalf("seed gives %d shards, %d bad lines: choose another", len(w.parts), len(w.bad))
		}
		w.stage(t, s)
		time.Sleep(5 * time.Second) // of the bubble
		f(t, s, w)
	})
}

func TestCompletesWhenAllShardsAreDone(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		for shard := range w.parts {
			if r := try(t, s, w); r != nil {
				t.Fatalf("ended with %d shards of %d done", shard, len(w.parts))
			}
			w.finish(t, s, shard, "")
		}
		r := try(t, s, w)
		if r == nil || r.Outcome != batch.Completed {
			t.Fatalf("Try = %+v, want completed", r)
		}
		output, errs := w.expect(all, "")
		w.check(t, s, output, errs)
		if diff := cmp.Diff(r, try(t, s, w)); diff != "" {
			t.Errorf("the second call gives another result: %s", diff)
		}
	})
}

func TestDoneOfNoShardDoesNotCount(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		for shard := range w.parts[1:] {
			w.finish(t, s, shard, "")
		}
		putJSON(t, s, batch.DoneKey(testID, len(w.parts)), batch.Done{V: 1, Batch: testID, Shard: len(w.parts)})
		if r := try(t, s, w); r != nil {
			t.Errorf("Try = %+v with a shard that is not done, want nothing yet", r)
		}
	})
}

func TestRejectedFileHasOnlyInvalidAndBatchObject(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.plan.Verdict, w.plan.Shards = batch.Rejected, nil
		w.plan.Errors = []batch.BatchError{{Code: "invalid_json", Message: "line is bad"}}
		putJSON(t, s, batch.StopKey(testID), "not looked at")
		r := try(t, s, w)
		if r == nil || r.Outcome != batch.Failed || r.Total != 0 || r.OutputFileID != "" || r.ErrorFileID != "" {
			t.Fatalf("Try = %+v, want failed, no lines, no files", r)
		}
		checkOptional(t, s, testDir+batch.OutputName, "")
		checkOptional(t, s, testDir+batch.ErrorsName, "")
		checkOptional(t, s, testDir+batch.InvalidName, string(w.invalid(t)))
		o := getJSON[batch.Object](t, s, testDir+batch.ObjectName)
		if o.Status != batch.Failed || o.Errors == nil || o.Errors.Data[0].Code != "invalid_json" {
			t.Errorf("batch.json = %+v", o)
		}
	})
}

// The user's signal comes after all that it speaks of, and the tombstone after the signal: whoever dies in between
// leaves no batch.json without its files, and no result without its batch.json.
func TestWritesInTheOrderOfTheFormat(t *testing.T) {
	prepare := maps.Clone(situations)
	prepare["rejected"] = func(_ *testing.T, _ *memstore.Store, w *world) (string, string) {
		w.plan.Verdict, w.plan.Shards = batch.Rejected, nil
		return "", ""
	}
	for name, prepare := range prepare {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				prepare(t, s, w)
				want := []string{
					batch.ManifestKey(testID), testDir + batch.OutputName, testDir + batch.ErrorsName, testDir + batch.InvalidName,
					testDir + batch.SummaryName, testDir + batch.MarkdownName, testDir + batch.ReportName, testDir + batch.ObjectName,
					batch.ResultKey(testID),
				}
				if w.plan.Verdict == batch.Rejected {
					want = slices.Delete(want, 1, 3)
				}
				var got []string
				h := &storagetest.Hook{Bucket: s, Before: func(_, key string) error {
					got = append(got, key)
					return nil
				}}
				try(t, h, w)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("writes (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestFileWithoutGoodLinesCompletesWithEmptyOutput(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.parts, w.plan.Shards = nil, nil
		w.plan.Lines = w.plan.Bad
		r := try(t, s, w)
		if r == nil || r.Outcome != batch.Completed || r.Completed != 0 || r.Failed != w.plan.Bad {
			t.Fatalf("Try = %+v, want completed with %d failed", r, w.plan.Bad)
		}
		output, errs := w.expect(all, "")
		w.check(t, s, output, errs)
	})
}

func TestStoppedBatchKeepsWhatIsStoredAndNamesTheRest(t *testing.T) {
	for _, outcome := range []string{batch.Cancelled, batch.Expired, batch.Failed} {
		t.Run(outcome, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				w.finish(t, s, 0, "")
				w.commit(t, s, 1, 0, "") // and no done
				w.stop(t, s, outcome, "why")
				r := try(t, s, w)
				if r == nil || r.Outcome != outcome {
					t.Fatalf("Try = %+v, want %s", r, outcome)
				}
				output, errs := w.expect(func(shard, chunk int) bool { return shard == 0 || shard == 1 && chunk == 0 }, "why")
				w.check(t, s, output, errs)
			})
		})
	}
}

func TestStoppedBatchWaitsForFreshLeasesButNotForEver(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.stop(t, s, batch.Cancelled, batch.CodeBatchCancelled)
		w.hold(t, s, 1, lease.Held)
		for range 6 { // renewed for nine minutes
			time.Sleep(89 * time.Second)
			if r := try(t, s, w); r != nil {
				t.Fatalf("ended under a lease that is 89 s old: %+v", r)
			}
			w.hold(t, s, 1, lease.Held)
		}
		time.Sleep(StopGrace - 6*89*time.Second)
		w.hold(t, s, 1, lease.Held)
		if r := try(t, s, w); r == nil || r.Outcome != batch.Cancelled {
			t.Fatalf("Try %s after the stop = %+v, want cancelled", StopGrace, r)
		}
	})
}

func TestStoppedBatchWaitsAsLongAsTheLeaseSays(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.hold(t, s, 1, lease.Held, 300)
		time.Sleep(299 * time.Second)
		w.stop(t, s, batch.Cancelled, batch.CodeBatchCancelled)
		if r := try(t, s, w); r != nil {
			t.Fatalf("ended under a lease of 300 s that is 299 s old: %+v", r)
		}
		time.Sleep(time.Second)
		if r := try(t, s, w); r == nil || r.Outcome != batch.Cancelled {
			t.Fatalf("Try after 300 s = %+v, want cancelled", r)
		}
	})
}

func TestStoppedBatchEndsAtOnceWithoutFreshLease(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, *memstore.Store, *world){
		"released": func(t *testing.T, s *memstore.Store, w *world) { w.hold(t, s, 1, lease.Released) },
		"stale": func(t *testing.T, s *memstore.Store, w *world) {
			w.hold(t, s, 1, lease.Held)
			time.Sleep(lease.DefaultTTL)
		},
		"stale by its own ttl": func(t *testing.T, s *memstore.Store, w *world) {
			w.hold(t, s, 1, lease.Held, 9)
			time.Sleep(9 * time.Second)
		},
		"of a shard that is done": func(t *testing.T, s *memstore.Store, w *world) {
			w.finish(t, s, 1, "")
			w.hold(t, s, 1, lease.Held)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				prepare(t, s, w)
				w.stop(t, s, batch.Expired, batch.CodeBatchExpired)
				if r := try(t, s, w); r == nil || r.Outcome != batch.Expired {
					t.Fatalf("Try = %+v, want expired", r)
				}
			})
		})
	}
}

func TestStopBeatsDoneUntilTheManifestStands(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
			w.finishAll(t, s)
			w.stop(t, s, batch.Cancelled, batch.CodeBatchCancelled)
			if r := try(t, s, w); r.Outcome != batch.Cancelled {
				t.Errorf("outcome = %s, want cancelled", r.Outcome)
			}
			output, errs := w.expect(all, "")
			w.check(t, s, output, errs)
		})
	})
	t.Run("after", func(t *testing.T) {
		inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
			w.finishAll(t, s)
			h := &storagetest.Hook{Bucket: s, After: func(_, key string) error {
				if key == batch.ManifestKey(testID) {
					w.stop(t, s, batch.Cancelled, batch.CodeBatchCancelled)
				}
				return nil
			}}
			if r := try(t, h, w); r.Outcome != batch.Completed {
				t.Errorf("outcome = %s, want completed", r.Outcome)
			}
		})
	})
}

// What the model calls cancel-first: were stop.json looked for before done/ is listed, this manifest would say completed.
func TestNeverCompletedOverCancelledLines(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		happened := false
		h := &storagetest.Hook{Bucket: s, Reads: true, Before: func(op, key string) error {
			if op == storagetest.OpList && key == batch.DonePrefix(testID) && !happened {
				happened = true
				w.stop(t, s, batch.Cancelled, batch.CodeBatchCancelled)
				for shard := range w.parts {
					w.finish(t, s, shard, batch.CodeBatchCancelled)
				}
			}
			return nil
		}}
		if r := try(t, h, w); !happened || r.Outcome != batch.Cancelled {
			t.Errorf("outcome = %s, want cancelled", r.Outcome)
		}
	})
}

func TestAdoptsTheManifestThatWasFaster(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		other := batch.Manifest{V: 1, Batch: testID, Outcome: batch.Cancelled, Code: "why", Message: "stopped", FinalizedAt: 1, StoppedAt: 1, By: "other"}
		for chunk := range w.plan.Chunks() {
			other.Chunks = append(other.Chunks, batch.ChunkInfo{Chunk: chunk, Missing: true})
		}
		h := &storagetest.Hook{Bucket: s, Before: func(_, key string) error {
			if key == batch.ManifestKey(testID) && s.Writes(key) == 0 {
				putJSON(t, s, key, other)
			}
			return nil
		}}
		if r := try(t, h, w); r.Outcome != batch.Cancelled || r.Completed != 0 {
			t.Errorf("result = %+v, want that of the other manifest", r)
		}
		output, errs := w.expect(func(int, int) bool { return false }, "why")
		w.check(t, s, output, errs)
	})
}

func TestBatchObjectComesInALaterSecondThanTheUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		w := newWorld(t, seeded(1), shape{1, 1, 3, anyFate}, time.Now())
		w.stage(t, s)
		w.finishAll(t, s)
		start := time.Now()
		r := try(t, s, w)
		if r.ObjectTime != w.plan.Input.LastModified+1 || time.Since(start) != time.Second {
			t.Errorf("batch.json is of %d after %s, the upload of %d; want the next second", r.ObjectTime, time.Since(start), w.plan.Input.LastModified)
		}
	})
}

func TestLeavesLaterVersionsAlone(t *testing.T) {
	for _, key := range []string{batch.ResultKey(testID), batch.ManifestKey(testID), batch.StopKey(testID), batch.DoneKey(testID, 0)} {
		t.Run(key, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				w.finishAll(t, s)
				if err := s.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				putJSON(t, s, key, map[string]int{"v": 2})
				_, err := New(Config{Bucket: s}).Try(t.Context(), w.plan)
				if !isVersion(err) {
					t.Errorf("Try = %v, want ErrVersion", err)
				}
			})
		})
	}
}

func TestLeavesPlansOfLaterVersionsAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		w.plan.V = batch.Version + 1
		if r, err := New(Config{Bucket: s}).Try(t.Context(), w.plan); r != nil || !isVersion(err) {
			t.Errorf("Try = %+v, %v, want ErrVersion", r, err)
		}
	})
}

func TestStoreErrorsComeThrough(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		h := &storagetest.Hook{Bucket: s, Before: storagetest.Denied}
		_, err := New(Config{Bucket: h}).Try(t.Context(), w.plan)
		if storage.KindOf(err) != storage.KindDenied {
			t.Errorf("Try = %v, want denied", err)
		}
	})
}

func TestABatchDoesNotEndBeforeItWasCreated(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.plan.CreatedAt = time.Now().Unix() + 5 // by a clock of the store that is ahead
		w.finishAll(t, s)
		try(t, s, w)
		if m := getJSON[batch.Manifest](t, s, batch.ManifestKey(testID)); m.FinalizedAt != w.plan.CreatedAt {
			t.Errorf("finalized %d, created %d", m.FinalizedAt, w.plan.CreatedAt)
		}
	})
}

func TestBeginningIsWithinTheBatchWhateverRunnersSay(t *testing.T) {
	for name, c := range map[string]struct {
		started func(*batch.Plan) int64 // by the runner's clock; 0: no record
		stored  bool
		want    func(p *batch.Plan, finalized int64) int64
	}{
		"as the runner says":   {func(p *batch.Plan) int64 { return p.CreatedAt + 2 }, true, func(p *batch.Plan, _ int64) int64 { return p.CreatedAt + 2 }},
		"clock is behind":      {func(*batch.Plan) int64 { return 1 }, true, func(p *batch.Plan, _ int64) int64 { return p.CreatedAt }},
		"clock is ahead":       {func(*batch.Plan) int64 { return 1 << 40 }, false, func(_ *batch.Plan, finalized int64) int64 { return finalized }},
		"no record":            {nil, true, func(p *batch.Plan, _ int64) int64 { return p.CreatedAt + 4 }}, // when the first chunk was stored
		"nothing ever began":   {nil, false, func(*batch.Plan, int64) int64 { return 0 }},
		"record, no chunk yet": {func(p *batch.Plan) int64 { return p.CreatedAt + 2 }, false, func(p *batch.Plan, _ int64) int64 { return p.CreatedAt + 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				if c.started != nil {
					putJSON(t, s, batch.RunnerKey(testID, "r-1"), batch.Runner{V: 1, Runner: "r-1", StartedAt: c.started(w.plan)})
				}
				if c.stored {
					w.commit(t, s, 1, 0, "")
				}
				time.Sleep(time.Minute) // of the bubble
				w.stop(t, s, batch.Cancelled, "why")
				try(t, s, w)
				m := getJSON[batch.Manifest](t, s, batch.ManifestKey(testID))
				if want := c.want(w.plan, m.FinalizedAt); m.InProgress != want {
					t.Errorf("in_progress_at = %d, want %d; created %d, finalized %d", m.InProgress, want, w.plan.CreatedAt, m.FinalizedAt)
				}
			})
		})
	}
}
