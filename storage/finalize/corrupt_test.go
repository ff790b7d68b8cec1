package finalize

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"regexp"
	"testing"
	"testing/iotest"
	"time"

	"spool/storage"
	"spool/storage/batch"
	"spool/storage/memstore"
	"spool/storage/storagetest"
)

// replace puts other bytes in place of an object that is never written again, and leaves its metadata.
func replace(t *testing.T, s *memstore.Store, key string, change func([]byte) []byte) {
	t.Helper()
	body, obj, err := storage.ReadAll(t.Context(), s, key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, key, change(bytes.Clone(body)), obj.Metadata)
}

var lineTail = regexp.MustCompile(`\n([0-9]+)\t([oe])\t`)

// forge replaces the first chunk by one that is well-formed and recorded in done/, but not right.
func forge(t *testing.T, s *memstore.Store, key string, change func([]byte) []byte) {
	t.Helper()
	replace(t, s, key, change)
	edit(t, s, batch.DoneKey(testID, 0), func(d *batch.Done) {
		sum := sha256.Sum256([]byte(get(t, s, key)))
		d.Chunks[0].SHA256 = hex.EncodeToString(sum[:])
	})
}

func edit[T any](t *testing.T, s *memstore.Store, key string, change func(*T)) {
	t.Helper()
	v := getJSON[T](t, s, key)
	change(&v)
	putJSON(t, s, key, v)
}

func remove(t *testing.T, s *memstore.Store, key string) {
	t.Helper()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

// Whatever is wrong with an object: the error names it, and the file that would have been made of it is not there.
func TestCorruptObjectsStopTheBatchAndStoreNothing(t *testing.T) {
	chunk := batch.ChunkKey(testID, 0, 0)
	piece := batch.PieceKey(testID, folder, 0)
	output, errs := testDir+batch.OutputName, testDir+batch.ErrorsName
	for name, c := range map[string]struct {
		stop   bool // and nothing done
		harm   func(t *testing.T, s *memstore.Store, w *world)
		key    string // at fault
		absent string
	}{
		"a byte of an answer": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, chunk, func(b []byte) []byte { return bytes.Replace(b, []byte("answer"), []byte("Answer"), 1) })
		}, key: chunk, absent: output},
		"torn chunk": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, chunk, func(b []byte) []byte { return b[:len(b)-20] })
		}, key: chunk, absent: output},
		"empty chunk": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, chunk, func([]byte) []byte { return nil })
		}, key: chunk, absent: output},
		"data behind the end line": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, chunk, func(b []byte) []byte { return append(b, '\n') })
		}, key: chunk, absent: output},
		"much data behind the end line": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, chunk, func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) })
		}, key: chunk, absent: output},
		"another shard's chunk, recorded as such": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			forge(t, s, chunk, func(b []byte) []byte { return bytes.Replace(b, []byte(`"shard":0`), []byte(`"shard":1`), 1) })
		}, key: chunk, absent: output},
		"lines of another chunk, recorded as such": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			forge(t, s, chunk, func(b []byte) []byte { return lineTail.ReplaceAll(b, []byte("\n99$1\t$2\t")) })
		}, key: batch.ManifestKey(testID), absent: output},
		"another chunk": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, chunk, func(b []byte) []byte { return bytes.Replace(b, []byte(`"shard":0`), []byte(`"shard":1`), 1) })
		}, key: chunk, absent: output},
		"no chunk": {harm: func(t *testing.T, s *memstore.Store, _ *world) { remove(t, s, chunk) }, key: chunk, absent: output},
		"counts that differ": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			edit(t, s, batch.DoneKey(testID, 0), func(d *batch.Done) { d.Chunks[0].Counts.OKBytes++ })
		}, key: chunk, absent: output},
		"done with too few lines": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			edit(t, s, batch.DoneKey(testID, 0), func(d *batch.Done) { d.Chunks[0].Counts.OK-- })
		}, key: batch.DoneKey(testID, 0), absent: batch.ManifestKey(testID)},
		"done with too few chunks": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			edit(t, s, batch.DoneKey(testID, 0), func(d *batch.Done) { d.Chunks = nil })
		}, key: batch.DoneKey(testID, 0), absent: batch.ManifestKey(testID)},
		"done of another shard": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			edit(t, s, batch.DoneKey(testID, 0), func(d *batch.Done) { d.Shard = 1 })
		}, key: batch.DoneKey(testID, 0), absent: batch.ManifestKey(testID)},
		"done that is not JSON": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			put(t, s, batch.DoneKey(testID, 0), []byte("{"), nil)
		}, key: batch.DoneKey(testID, 0), absent: batch.ManifestKey(testID)},
		"output of another length": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			put(t, s, output, []byte("{}\n"), nil)
		}, key: output, absent: errs},
		"a bad line too few": {harm: func(t *testing.T, s *memstore.Store, w *world) {
			w.bad = w.bad[1:]
			put(t, s, batch.BadKey(testID, folder), compress(t, nil, w.invalid(t)), nil)
		}, key: batch.ManifestKey(testID), absent: errs},
		"a bad line too few of a rejected file": {harm: func(t *testing.T, s *memstore.Store, w *world) {
			w.plan.Verdict, w.plan.Shards, w.bad = batch.Rejected, nil, w.bad[1:]
			put(t, s, batch.BadKey(testID, folder), compress(t, nil, w.invalid(t)), nil)
		}, key: batch.BadKey(testID, folder), absent: testDir + batch.InvalidName},
		"broken piece": {stop: true, harm: func(t *testing.T, s *memstore.Store, _ *world) {
			replace(t, s, piece, func(b []byte) []byte { return make([]byte, len(b)) })
		}, key: piece, absent: errs},
		"no piece": {stop: true, harm: func(t *testing.T, s *memstore.Store, _ *world) { remove(t, s, piece) }, key: piece, absent: errs},
		"chunk without metadata": {stop: true, harm: func(t *testing.T, s *memstore.Store, w *world) {
			w.commit(t, s, 0, 0, "")
			put(t, s, chunk, []byte(get(t, s, chunk)), nil)
		}, key: chunk, absent: batch.ManifestKey(testID)},
		"unknown stop": {stop: true, harm: func(t *testing.T, s *memstore.Store, _ *world) {
			edit(t, s, batch.StopKey(testID), func(s *batch.Stop) { s.Outcome = batch.Completed })
		}, key: batch.StopKey(testID), absent: batch.ManifestKey(testID)},
		"done with a missing chunk": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			edit(t, s, batch.DoneKey(testID, 0), func(d *batch.Done) { d.Chunks[0].Missing = true })
		}, key: batch.DoneKey(testID, 0), absent: batch.ManifestKey(testID)},
		"manifest of another batch": {harm: func(t *testing.T, s *memstore.Store, w *world) {
			m := batch.Manifest{V: 1, Batch: "other"}
			for n := range w.plan.Chunks() {
				m.Chunks = append(m.Chunks, batch.ChunkInfo{Chunk: n, Missing: true})
			}
			putJSON(t, s, batch.ManifestKey(testID), m)
		}, key: batch.ManifestKey(testID), absent: output},
		"manifest of another plan": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			putJSON(t, s, batch.ManifestKey(testID), batch.Manifest{V: 1, Batch: testID, Chunks: make([]batch.ChunkInfo, 1)})
		}, key: batch.ManifestKey(testID), absent: output},
		"manifest out of order": {harm: func(t *testing.T, s *memstore.Store, w *world) {
			putJSON(t, s, batch.ManifestKey(testID), batch.Manifest{V: 1, Batch: testID, Chunks: make([]batch.ChunkInfo, w.plan.Chunks())})
		}, key: batch.ManifestKey(testID), absent: output},
		"result of another batch": {harm: func(t *testing.T, s *memstore.Store, _ *world) {
			putJSON(t, s, batch.ResultKey(testID), batch.Result{V: 1, Batch: "other"})
		}, key: batch.ResultKey(testID), absent: output},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				if c.stop {
					w.stop(t, s, batch.Cancelled, "why")
				} else {
					w.finishAll(t, s)
				}
				c.harm(t, s, w)
				_, err := New(Config{Bucket: trickle{s}}).Try(t.Context(), w.plan)
				if corrupt, ok := errors.AsType[*CorruptError](err); !ok || corrupt.Key != c.key {
					t.Errorf("Try = %v, want a CorruptError of %q", err, c.key)
				}
				checkOptional(t, s, c.absent, "")
				if name != "result of another batch" {
					checkOptional(t, s, batch.ResultKey(testID), "")
				}
			})
		})
	}
}

// trickle yields bodies byte by byte: a reader sees no more than what it asks for.
type trickle struct{ storage.Bucket }

func (b trickle) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	body, obj, err := b.Bucket.Get(ctx, key, opt)
	if err != nil {
		return nil, obj, err
	}
	return struct {
		io.Reader
		io.Closer
	}{iotest.OneByteReader(body), body}, obj, nil
}

// A body that ends too early is the fault of a request, not of the object: trying again helps.
func TestBodyCutOffIsNotCorrupt(t *testing.T) {
	for name, quiet := range map[string]bool{"with an error": false, "quietly": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
				w.finishAll(t, s)
				m := &storagetest.Hook{Bucket: s, Before: func(_, key string) error {
					if key == testDir+batch.OutputName {
						return storagetest.Denied("upload", key)
					}
					return nil
				}}
				if _, err := New(Config{Bucket: m}).Try(t.Context(), w.plan); err == nil {
					t.Fatal("the manifest alone was to be written")
				}
				chunks := &chunkOnly{Bucket: s, torn: &storagetest.Torn{Bucket: s, At: 150, Times: 1, Quiet: quiet}}
				_, err := New(Config{Bucket: chunks}).Try(t.Context(), w.plan)
				if _, corrupt := errors.AsType[*CorruptError](err); corrupt || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("Try = %v, want unexpected EOF and no CorruptError", err)
				}
				try(t, s, w)
				output, errs := w.expect(all, "")
				w.check(t, s, output, errs)
			})
		})
	}
}

func TestResultCountsIfItCameWhileThisCallFailed(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		h := &storagetest.Hook{Bucket: s, Before: func(op, key string) error {
			if key != testDir+batch.OutputName {
				return nil
			}
			try(t, s, w) // somebody else ends the batch, and all is collected
			for shard := range w.parts {
				for n := range w.parts[shard] {
					remove(t, s, batch.ChunkKey(testID, shard, w.plan.FirstChunk(shard)+n))
				}
			}
			return storagetest.Denied(op, key)
		}}
		if r := try(t, h, w); r == nil || r.Outcome != batch.Completed {
			t.Errorf("Try = %+v, want the result of the other", r)
		}
	})
}

func TestPatienceLeavesAFreshManifestToItsProposer(t *testing.T) {
	inWorld(t, func(t *testing.T, s *memstore.Store, w *world) {
		w.finishAll(t, s)
		h := &storagetest.Hook{Bucket: s, Before: func(op, key string) error {
			if key == testDir+batch.OutputName {
				return storagetest.Denied(op, key)
			}
			return nil
		}}
		if _, err := New(Config{Bucket: h, By: "runner"}).Try(t.Context(), w.plan); err == nil {
			t.Fatal("the manifest alone was to be written")
		}
		patient := New(Config{Bucket: s, By: "watcher", Patience: time.Minute})
		time.Sleep(59 * time.Second) // of the bubble
		if r, err := patient.Try(t.Context(), w.plan); r != nil || err != nil {
			t.Errorf("Try after 59 s = %+v, %v, want nothing yet", r, err)
		}
		own := New(Config{Bucket: &storagetest.Hook{Bucket: s, Before: storagetest.Denied}, By: "runner", Patience: time.Minute})
		if _, err := own.Try(t.Context(), w.plan); storage.KindOf(err) != storage.KindDenied {
			t.Errorf("the proposer itself: %v, want a write that is denied", err)
		}
		time.Sleep(time.Second)
		if r, err := patient.Try(t.Context(), w.plan); r == nil || err != nil {
			t.Errorf("Try after 60 s = %+v, %v, want the result", r, err)
		}
	})
}

// chunkOnly tears the bodies of chunk objects only.
type chunkOnly struct {
	storage.Bucket
	torn *storagetest.Torn
}

func (c *chunkOnly) Get(ctx context.Context, key string, opt storage.GetOptions) (io.ReadCloser, storage.Object, error) {
	if k, ok := batch.ParseShardKey(testID, key); ok && k.Kind == batch.KindChunk {
		return c.torn.Get(ctx, key, opt)
	}
	return c.Bucket.Get(ctx, key, opt)
}
