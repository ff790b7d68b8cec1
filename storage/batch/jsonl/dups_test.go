package jsonl

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// duplicates runs both passes over ids, of which the i-th is that of line i+1, and returns which line
// each later one repeats.
func duplicates(ids []string) map[int64]int64 {
	d := NewDups()
	for _, id := range ids {
		d.Add([]byte(id))
	}
	repeats := d.Repeated()
	if repeats == nil {
		return nil
	}
	found := map[int64]int64{}
	for i, id := range ids {
		if p := repeats.Check(Line{Number: int64(i + 1)}, []byte(id)); p != nil {
			var first int64
			rest := strings.TrimPrefix(p.Message, "the custom_id "+quoted(id)+" is that of line ")
			fmt.Sscan(rest, &first)
			found[p.Line] = first
		}
	}
	return found
}

func TestLaterLinesWithAnEqualCustomIDAreFound(t *testing.T) {
	for _, tt := range []struct {
		ids  string
		want map[int64]int64
	}{
		{"", nil},
		{"a", nil},
		{"a b c A", nil},
		{"a a", map[int64]int64{2: 1}},
		{"a b a c b a", map[int64]int64{3: 1, 5: 2, 6: 1}},
		{"x x x x", map[int64]int64{2: 1, 3: 1, 4: 1}},
	} {
		if diff := cmp.Diff(tt.want, duplicates(strings.Fields(tt.ids))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.ids, diff)
		}
	}
}

func TestDuplicatesEqualThoseOfAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, size := range []struct{ lines, ids int }{{1000, 10}, {1000, 1000}, {30_000, 30}, {30_000, 30_000}, {30_000, 1 << 60}} {
		var ids []string
		first, want := map[string]int64{}, map[int64]int64(nil)
		for i := range size.lines {
			id := fmt.Sprint(r.IntN(size.ids))
			ids = append(ids, id)
			if first[id] == 0 {
				first[id] = int64(i + 1)
				continue
			}
			if want == nil {
				want = map[int64]int64{}
			}
			want[int64(i+1)] = first[id]
		}
		if got := duplicates(ids); !maps.Equal(got, want) {
			t.Errorf("%d lines of %d ids: %d duplicates, want %d, or others", size.lines, size.ids, len(got), len(want))
		}
	}
}

func TestDuplicateNamesTheFirstLine(t *testing.T) {
	d := NewDups()
	id := []byte("café \"1\"\n" + strings.Repeat("x", 100))
	d.Add(id)
	d.Add(id)
	repeats := d.Repeated()
	if p := repeats.Check(Line{Number: 3, Offset: 30}, id); p != nil {
		t.Fatalf("the first line: %v", p)
	}
	want := &Problem{Code: DuplicateCustomID, Line: 12, Offset: 120, Message: `the custom_id "caf\u00e9 \"1\"\n` +
		strings.Repeat("x", 50) + `"… is that of line 3: each must occur once in the file`}
	if diff := cmp.Diff(want, repeats.Check(Line{Number: 12, Offset: 120}, id)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Different ids with one hash are not duplicates. Nobody can find such ids, so the hash is given.
func TestEqualHashesOfDifferentIDsAreToldApart(t *testing.T) {
	seed := maphash.MakeSeed()
	r := &Repeats{seed: seed, hashes: []uint64{maphash.String(seed, "a")}, first: make([]occurrence, 1)}
	for i, want := range []int64{0, 0, 1, 2, 0, 5, 1, 2} {
		id := []string{"a", "b", "a", "b", "c", "c", "a", "b"}[i]
		if got := r.meet(0, []byte(id), int64(i+1)); got != want {
			t.Errorf("line %d, %s: line %d, want %d", i+1, id, got, want)
		}
	}
}

// The limit is 32 bytes a line. All that is allocated counts, whether it is held or not.
func TestDupsTakeLittleMemoryALine(t *testing.T) {
	const n = 1 << 20
	for _, tt := range []struct {
		name string
		id   func(i int) int
		most float64
	}{
		{"all differ", func(i int) int { return i }, 10},
		{"each id twice", func(i int) int { return i / 2 }, 28},
		{"one id", func(int) int { return 0 }, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := bytes.Repeat([]byte("-"), MaxCustomIDBytes)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			d := NewDups()
			for i := range n {
				number(id, tt.id(i))
				d.Add(id)
			}
			d.Repeated()
			runtime.ReadMemStats(&after)
			if got := float64(after.TotalAlloc-before.TotalAlloc) / n; got > tt.most {
				t.Errorf("%.1f bytes a line, want at most %.0f", got, tt.most)
			}
		})
	}
}

// number writes i into an id.
func number(id []byte, i int) {
	for at := range 8 {
		id[len(id)-1-at] = byte('0' + i%10)
		i /= 10
	}
}
