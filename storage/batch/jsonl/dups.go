package jsonl

import (
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"slices"
)

// Dups finds custom_ids that occur more than once, in two passes over the lines and, however long
// the ids are, at most 32 bytes of memory a line.
//
// A map of the ids would take some 90 bytes a line and twenty times as long, since each look into it
// misses every cache. So the first pass keeps only a 64-bit hash of each id; sorting brings equal
// ones together. For nearly every file that is all: no hash occurs twice. Otherwise the lines must be
// looked at again, with [Repeats]: for their numbers, and because two ids may have one hash (which
// happens in one of 400,000 files of ten million lines).
//
// A hash goes into one of 256 buckets by its first byte and is not moved until that bucket is
// sorted, in memory that fits a cache: about 8 bytes a line in all, and no copy of the whole.
//
// A Dups is not safe for concurrent use.
type Dups struct {
	seed    maphash.Seed
	buckets [256]bucket
}

// bucket is a list of n hashes.
type bucket struct {
	pages []*page
	n     int
}

// page is 4 KiB: small enough for 256 of them to be nothing, large enough for the list to be short.
type page [512]uint64

func (b *bucket) add(h uint64) {
	at := b.n / len(page{})
	if at == len(b.pages) {
		b.pages = append(b.pages, new(page))
	}
	b.pages[at][b.n%len(page{})] = h
	b.n++
}

// all yields the hashes in the order in which they were added. No page is empty.
func (b *bucket) all(yield func(uint64) bool) {
	left := b.n
	for _, p := range b.pages {
		for _, h := range p[:min(left, len(p))] {
			if !yield(h) {
				return
			}
		}
		left -= len(p)
	}
}

// NewDups returns a set for one file.
func NewDups() *Dups { return &Dups{seed: maphash.MakeSeed()} }

// Add adds the custom_id of a line. Bad lines whose id is known should be added too: they end up
// in errors.jsonl under it.
func (d *Dups) Add(id []byte) {
	h := maphash.Bytes(d.seed, id)
	d.buckets[h>>56].add(h)
}

// Repeated ends the first pass and empties d. It returns what the second pass needs, or nil if all
// ids are different.
func (d *Dups) Repeated() *Repeats {
	var s sorter
	total := 0
	for i := range d.buckets {
		s.keepRepeated(&d.buckets[i])
		total += d.buckets[i].n
	}
	hashes := make([]uint64, 0, total)
	for i := range d.buckets {
		hashes = slices.AppendSeq(hashes, d.buckets[i].all)
		d.buckets[i] = bucket{}
	}
	if total == 0 {
		return nil
	}
	return &Repeats{seed: d.seed, hashes: hashes, first: make([]occurrence, total)}
}

// sorter sorts one bucket after the other, in the same memory.
type sorter struct {
	sorted []uint64
	ends   [1 << fanBits]int
}

// fanBits is by how many bits a bucket is spread before its parts are sorted: of ten million lines,
// some 20 are in a part.
const fanBits = 11

// keepRepeated leaves in b only the hashes that occur more than once, each once, in ascending order.
func (s *sorter) keepRepeated(b *bucket) {
	if b.n < 2 { // as nearly all buckets of a small file
		*b = bucket{}
		return
	}
	s.spread(b)
	b.n = 0 // what follows adds at most half of what was there
	from := 0
	for _, to := range s.ends {
		if to-from > 1 {
			part := s.sorted[from:to]
			slices.Sort(part)
			addRepeated(b, part)
		}
		from = to
	}
	b.pages = slices.Delete(b.pages, (b.n+len(page{})-1)/len(page{}), len(b.pages))
}

// addRepeated adds each hash that occurs more than once in part, which is sorted.
func addRepeated(b *bucket, part []uint64) {
	for i := 1; i < len(part); i++ {
		if part[i] == part[i-1] && (i == 1 || part[i-1] != part[i-2]) {
			b.add(part[i])
		}
	}
}

// spread copies the hashes to s.sorted, in the order of the fanBits that follow the first byte, and
// sets s.ends to where each group of equal ones ends.
func (s *sorter) spread(b *bucket) {
	if cap(s.sorted) < b.n {
		s.sorted = make([]uint64, b.n)
	}
	s.sorted = s.sorted[:b.n]
	clear(s.ends[:])
	for h := range b.all {
		s.ends[group(h)]++
	}
	start := 0
	for i, n := range s.ends {
		s.ends[i] = start
		start += n
	}
	for h := range b.all { // moves each start to the end
		at := &s.ends[group(h)]
		s.sorted[*at] = h
		*at++
	}
}

func group(h uint64) int { return int(h >> (56 - fanBits) % (1 << fanBits)) }

// Repeats tells, in the second pass over the lines, which custom_ids occurred before. Ids are compared
// by 128 bits of their SHA-256, which nobody knows how to make equal for two ids; so memory
// does not grow with their length. It is not safe for concurrent use.
type Repeats struct {
	seed   maphash.Seed
	hashes []uint64     // ascending
	first  []occurrence // where an id with the hash of the same index was met first
	others map[digest]int64
}

type digest [16]byte

// occurrence is the line with an id; line 0 is none.
type occurrence struct {
	id   digest
	line int64
}

// Check returns a Problem if a line before l had the same custom_id. It must be called, in ascending
// order of lines, for each line whose custom_id was added.
func (r *Repeats) Check(l Line, id []byte) *Problem {
	i, ok := slices.BinarySearch(r.hashes, maphash.Bytes(r.seed, id))
	if !ok {
		return nil
	}
	line := r.meet(i, id, l.Number)
	if line == 0 {
		return nil
	}
	f := fault{DuplicateCustomID, -1, fmt.Sprintf(
		"the custom_id %s is that of line %d: each must occur once in the file", quoted(id), line)}
	return f.problem(l)
}

// meet returns the line in which id, with the i-th hash, was met first, or 0 if that is now.
func (r *Repeats) meet(i int, id []byte, now int64) int64 {
	sum := sha256.Sum256(id)
	d := digest(sum[:])
	switch at := &r.first[i]; {
	case at.line == 0:
		*at = occurrence{d, now}
		return 0
	case at.id == d:
		return at.line
	}
	line := r.others[d] // another id with the same hash
	if line == 0 {
		if r.others == nil {
			r.others = make(map[digest]int64)
		}
		r.others[d] = now
	}
	return line
}
