package watcher

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"spool/storage"
	"spool/storage/batch"
)

// Keys of an upload's user metadata that mean something to spool.
const (
	metaPool        = "pool"
	metaOnInvalid   = "on-invalid"
	metaOrder       = "order"
	metaWindow      = "window"
	metaRerun       = "rerun"
	metaTraceparent = "traceparent"
	metaTracestate  = "tracestate"
	metaSHA256      = "sha256" // of the file, by spool submit

	// metaWarnings is the key of batch.json's metadata that names what was not understood.
	metaWarnings = "spool_warnings"
)

// What "on-invalid" may be.
const (
	invalidFail = "fail"
	invalidSkip = "skip"
)

// Bounds of "window", and what it is if nothing is said.
const (
	defaultWindow = 24 * time.Hour
	minWindow     = 10 * time.Minute
	maxWindow     = 720 * time.Hour
)

// badRerun takes the place of a rerun number that is none, so that such an upload is a batch of its own,
// and its failure is not hidden behind a run that succeeded.
const badRerun = -1

// OpenAI's limits on a batch's metadata (API reference, "Create batch").
const (
	maxPairs      = 16
	maxPairKey    = 64
	maxPairValue  = 512
	maxTracestate = 512 // W3C Trace Context, section 3.3.1.5
)

// options is what the metadata of an upload asks for.
type options struct {
	pool      string
	onInvalid string
	order     string // "" for batch.OrderFile
	window    time.Duration
	rerun     int
	metadata  map[string]string  // for batch.json, nil if empty
	problems  []batch.BatchError // bad values: the batch fails
}

// readOptions never fails: what is wrong stands in problems, and its place is taken by the default.
func (c *Config) readOptions(key string, meta map[string]string) options {
	o := options{pool: c.poolOf(key), onInvalid: invalidFail, window: defaultWindow}
	if v, ok := meta[metaPool]; ok {
		o.pool = v
	}
	if _, known := c.pool(o.pool); !known {
		o.bad(metaPool, "there is no pool %q: the pools are %s", o.pool, strings.Join(c.poolNames(), ", "))
	}
	if v, ok := meta[metaOnInvalid]; ok {
		o.onInvalid = v
		if v != invalidFail && v != invalidSkip {
			o.onInvalid = invalidFail
			o.bad(metaOnInvalid, "%q is neither %s nor %s", v, invalidFail, invalidSkip)
		}
	}
	if v, ok := meta[metaOrder]; ok {
		o.readOrder(v)
	}
	if v, ok := meta[metaWindow]; ok {
		o.readWindow(v)
	}
	if v, ok := meta[metaRerun]; ok {
		o.readRerun(v)
	}
	o.checkTrace(meta)
	o.metadata = describe(meta)
	return o
}

func (o *options) readOrder(v string) {
	if err := CheckOrder(v); err != nil {
		o.bad(metaOrder, "%v", err)
		return
	}
	if v != batch.OrderFile {
		o.order = v
	}
}

// CheckOrder says what is wrong with the option order of a batch.
func CheckOrder(v string) error {
	switch v {
	case batch.OrderFile, batch.OrderLongest, batch.OrderPrefix:
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s and %s", v, batch.OrderFile, batch.OrderLongest, batch.OrderPrefix)
}

func (o *options) readWindow(v string) {
	d, err := ParseWindow(v)
	if err != nil {
		o.bad(metaWindow, "%v", err)
		return
	}
	o.window = d
}

// ParseWindow reads the option window of a batch: a time from 10m to 720h.
func ParseWindow(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d < minWindow || d > maxWindow {
		return 0, fmt.Errorf("%q is not a time from %s to %s, such as 24h", v, short(minWindow), short(maxWindow))
	}
	return d, nil
}

// readRerun accepts canonical decimals only: 01 must not be another batch than 1.
func (o *options) readRerun(v string) {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != v {
		o.rerun = badRerun
		o.bad(metaRerun, "%q is not a number from 0, without sign and leading zeros", v)
		return
	}
	o.rerun = int(n)
}

// W3C Trace Context, section 3.2.2; later versions may be longer.
var traceparent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)

func (o *options) checkTrace(meta map[string]string) {
	if v, ok := meta[metaTraceparent]; ok && !traceparent.MatchString(v) {
		o.bad(metaTraceparent, "%q is not as W3C Trace Context has it: 00-<trace id>-<span id>-<flags>", v)
	}
	if v, ok := meta[metaTracestate]; ok && (len(v) > maxTracestate || !printable(v)) {
		o.bad(metaTracestate, "it is longer than %d bytes, or not printable ASCII", maxTracestate)
	}
}

func (o *options) bad(option, format string, args ...any) {
	param := option
	o.problems = append(o.problems, batch.BatchError{
		Code:    batch.CodeInvalidOption,
		Message: fmt.Sprintf("option %s: ", option) + fmt.Sprintf(format, args...) + " (object metadata)",
		Param:   &param,
	})
}

func (c *Config) poolNames() []string {
	var names []string
	for _, p := range c.Pools {
		names = append(names, p.Name)
	}
	return names
}

// clientKeys are keys that S3 clients set by themselves, which nobody meant for spool: rclone (mtime,
// md5chksum, btime), s3cmd (s3cmd-attrs), s3fs and goofys (mode, uid, gid, mtime, ctime, atime), DataSync
// (file-…), Transmit and Cyberduck (…-date), and the put id of spool's own uploads.
func clientKey(key string) bool {
	switch key {
	case storage.PutIDKey, metaSHA256, "md5chksum", "md5", "s3cmd-attrs", "mtime", "atime", "ctime", "btime",
		"mode", "uid", "gid", "src_last_modified_millis", "s3b-last-modified", "content-md5", "crc32c", "cb-modifiedtime":
		return true
	}
	return strings.HasPrefix(key, "file-") || strings.HasPrefix(key, "amz-")
}

func spoolKey(key string) bool {
	switch key {
	case metaPool, metaOnInvalid, metaOrder, metaWindow, metaRerun, metaTraceparent, metaTracestate:
		return true
	}
	return false
}

// describe makes the metadata of batch.json: what the user gave, within OpenAI's limits, and warnings
// about keys that spool does not know and about what had to be left out. nil if there is nothing.
func describe(meta map[string]string) map[string]string {
	out := map[string]string{}
	var unknown, cut []string
	for _, k := range describedKeys(meta) {
		if !spoolKey(k) {
			unknown = append(unknown, k)
		}
		if len(out) == maxPairs-1 || len(k) > maxPairKey {
			cut = append(cut, k)
			continue
		}
		v := clip(meta[k], maxPairValue)
		if v != meta[k] {
			cut = append(cut, k)
		}
		out[k] = v
	}
	var warnings []string
	if len(unknown) > 0 {
		warnings = append(warnings, "not options of spool: "+strings.Join(unknown, ", "))
	}
	if len(cut) > 0 {
		warnings = append(warnings, "left out or cut short: "+strings.Join(cut, ", "))
	}
	if len(warnings) > 0 {
		out[metaWarnings] = clip(strings.Join(warnings, "; "), maxPairValue)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// describedKeys gives the keys that the user meant to set, spool's own first: those must not be left out.
func describedKeys(meta map[string]string) []string {
	var own, other []string
	for _, k := range slices.Sorted(maps.Keys(meta)) {
		switch {
		case spoolKey(k):
			own = append(own, k)
		case !clientKey(k) && k != metaWarnings:
			other = append(other, k)
		}
	}
	return append(own, other...)
}

// clip cuts s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// short writes a duration as people do: 24h, 90m, 1h30m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
