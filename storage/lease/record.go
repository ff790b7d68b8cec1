package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"spool/storage"
)

// Version is the version of Record that this package writes. It refuses to touch a newer one.
const Version = 1

// State is what the last writer of a record says of the lease.
type State string

// The states of a lease.
const (
	Held     State = "held"     // somebody works under the lease, or died doing so: its age tells
	Released State = "released" // its holder gave it back; anybody may take it at once
)

// Record is the content of a lease object. It says nothing of time: the store's own Last-Modified is
// the time of the last renewal.
type Record struct {
	V       int             `json:"v"`
	Gen     int64           `json:"gen"` // counts the holders from 1; with Owner it names one tenure
	Owner   string          `json:"owner"`
	State   State           `json:"state"`
	Renewed int64           `json:"renewed"`         // counts the writes of this tenure, so that no two have the same bytes and ETag
	TTL     int64           `json:"ttl,omitempty"`   // of its holder, in seconds; 0: DefaultTTL
	Notes   json.RawMessage `json:"notes,omitempty"` // the holders' own, handed on from one to the next
}

// Observed is a record and how long ago it was written.
type Observed struct {
	Record Record
	Age    time.Duration // Date minus Last-Modified of one answer of the store, in whole seconds on most stores; never negative
	etag   string
}

// Fresh reports whether somebody holds the lease: its record says so and is younger than the TTL of its holder.
func (o Observed) Fresh() bool {
	return o.Record.State == Held && o.Age < o.Record.ttl()
}

func (r Record) ttl() time.Duration {
	if r.TTL <= 0 {
		return DefaultTTL
	}
	return time.Duration(min(r.TTL, math.MaxInt64/int64(time.Second))) * time.Second
}

// recorded gives a TTL as a record has it: rounded up, so that others never wait less than the holder has it.
func recorded(ttl time.Duration) int64 {
	if seconds := int64(math.Ceil(ttl.Seconds())); seconds != int64(DefaultTTL/time.Second) {
		return seconds
	}
	return 0
}

// Read looks at a lease without touching it. It fails with storage.KindNotFound if nobody ever held it.
// A record that is not JSON is reported as held by nobody in particular (generation 0), so that it is
// respected while it is fresh and replaced when it is stale.
func Read(ctx context.Context, b storage.Bucket, key string) (Observed, error) {
	body, obj, err := storage.ReadAll(ctx, b, key)
	if err != nil {
		return Observed{}, fmt.Errorf("read lease: %w", err)
	}
	if obj.Date.IsZero() || obj.LastModified.IsZero() {
		return Observed{}, fmt.Errorf("read lease %q: the store's answer has no Date or no Last-Modified", key)
	}
	o := Observed{Age: max(0, obj.Date.Sub(obj.LastModified)), etag: obj.ETag}
	if json.Unmarshal(body, &o.Record) != nil {
		o.Record = Record{State: Held}
	}
	if o.Record.V > Version {
		return Observed{}, fmt.Errorf("read lease %q: record has version %d, newer than %d", key, o.Record.V, Version)
	}
	return o, nil
}
