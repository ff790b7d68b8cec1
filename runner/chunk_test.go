package runner

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"spool/storage"
	"spool/storage/batch"
)

// manyAnswers fills a chunk in a random order with answers of all sizes, segments written in between, and
// gives the records that it must have.
func manyAnswers(t *testing.T, s *shard, c *chunk, lines int) []byte {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	answers := make([]batch.Answer, lines)
	for i := range answers {
		body := fmt.Sprintf(`"%0*d"`, random.IntN(3*tailSize), i)
		answers[i] = batch.Answer{Batch: c.batch, Line: int64(i + 1), CustomID: "c", Status: 200 + 200*(i%2), Body: []byte(body)}
	}
	c.expect(lines)
	for n, i := range random.Perm(lines) {
		c.add(&answers[i], batch.Usage{OutputTokens: 1})
		c.add(&answers[i], batch.Usage{OutputTokens: 1}) // dropped
		if n%7 == 0 {
			if err := s.writeSegments(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(s.full) != 1 {
		t.Fatalf("the chunk was reported full %d times", len(s.full))
	}
	var want bytes.Buffer
	for _, a := range answers {
		kind := "o"
		if !a.OK() {
			kind = "e"
		}
		fmt.Fprintf(&want, "%d\t%s\t%s\n", a.Line, kind, a.AppendLine(nil))
	}
	return want.Bytes()
}

func TestChunkObjectHasAllAnswersInOrderHoweverTheyCame(t *testing.T) {
	for _, way := range []string{"memory", "file"} {
		t.Run(way, func(t *testing.T) {
			w := newWorld(t)
			plan := w.batch(60, 60)
			cfg, err := w.config().withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			s, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
			want := manyAnswers(t, s, c, 60)
			bound := c.bytes()
			store := s.storeSmall
			if way == "file" {
				store = s.storeLarge
			}
			stored, info, err := store(t.Context(), c)
			if err != nil || !stored.Mine {
				t.Fatalf("stored %+v, %v", stored, err)
			}
			object := w.get(batch.ChunkKey(plan.Batch, 0, 0))
			_, records, _ := bytes.Cut(object, []byte("\n"))
			records, _, _ = bytes.Cut(records, []byte(`{"end"`))
			if !bytes.Equal(records, want) {
				t.Errorf("the object's records are not the answers in the order of their lines")
			}
			if info.Size != int64(len(object)) || info.Size > bound || bound > info.Size+4<<10 {
				t.Errorf("the object has %d bytes, is said to have %d, and was expected to have at most %d", len(object), info.Size, bound)
			}
			if info.Counts.OK != 30 || info.Counts.Err != 30 || info.Usage.OutputTokens != 60 {
				t.Errorf("counts %+v, usage %+v", info.Counts, info.Usage)
			}
		})
	}
}

func TestSegmentsHoldEachAnswerOnce(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(60, 60)
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	manyAnswers(t, s, c, 60)
	if err := s.writeSegments(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if n := w.segmentLines(plan, 0, 1); n != 60 {
		t.Errorf("the segments have %d results, want 60", n)
	}
}

func TestSegmentsAreOfAboutAPart(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(9, 10)
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	body := slices.Concat([]byte{'"'}, bytes.Repeat([]byte("x"), storage.PartSize/4), []byte{'"'})
	for line := int64(9); line > 0; line-- {
		c.add(&batch.Answer{Batch: c.batch, Line: line, CustomID: "c", Status: 200, Body: body}, batch.Usage{})
	}
	if err := s.writeSegments(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	n := 0
	for obj, err := range w.store.List(t.Context(), batch.SegmentPrefix(plan.Batch, 0), "") {
		if n++; err != nil || obj.Size > storage.PartSize*5/4 {
			t.Errorf("segment of %d bytes, %v", obj.Size, err)
		}
	}
	if lines := w.segmentLines(plan, 0, 1); n != 3 || lines != 9 {
		t.Errorf("%d segments with %d results, want 3 with 9", n, lines)
	}
}

func TestAnswerThatCannotBeKeptEndsTheShard(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10)
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	if err := c.file.Close(); err != nil { // as a full disk: no write succeeds
		t.Fatal(err)
	}
	c.add(&batch.Answer{Batch: c.batch, Line: 1, CustomID: "c", Status: 200, Body: bytes.Repeat([]byte("1"), tailSize)}, batch.Usage{})
	select {
	case err := <-s.failed:
		if !strings.Contains(err.Error(), "keep answer of chunk 0") {
			t.Errorf("the shard failed with %v", err)
		}
	default:
		t.Error("nobody was told")
	}
}

func TestScratchFolderIsEmptyWhileChunksAreOpen(t *testing.T) {
	w := newWorld(t)
	plan := w.batch(10, 10)
	cfg, err := w.config().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	_, c := w.answering(plan, &cfg, newLedger(&cfg, plan.Batch))
	c.answerFor(1)
	if left, err := os.ReadDir(cfg.Scratch); err != nil || len(left) != 0 {
		t.Errorf("the folder has %v, %v", left, err)
	}
}
