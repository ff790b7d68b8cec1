package watcher

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMetadataStaysWithinOpenAIsLimits(t *testing.T) {
	meta := map[string]string{
		"pool": "p", "window": "24h", "s3cmd-attrs": "atime:1/ctime:2", "md5chksum": "x", "putid": "1", "file-owner": "0",
		strings.Repeat("k", 65): "v", "long": strings.Repeat("ä", 300),
	}
	for n := range 20 {
		meta[fmt.Sprintf("m%02d", n)] = fmt.Sprint(n)
	}
	got := describe(meta)
	if len(got) != 16 || got["pool"] != "p" || got["window"] != "24h" || got["m11"] != "11" || got["m12"] != "" {
		t.Errorf("%d pairs: %v", len(got), got)
	}
	if v := got["long"]; v != strings.Repeat("ä", 256) {
		t.Errorf("long value has %d bytes, want 512", len(v))
	}
	if w := got[metaWarnings]; !strings.HasPrefix(w, "not options of spool: "+strings.Repeat("k", 65)+", long, m00") || len(w) > 512 {
		t.Errorf("warnings %q", w)
	}
	if got := describe(map[string]string{"mtime": "1", "sha256": "2"}); got != nil {
		t.Errorf("metadata %v of what clients set by themselves, want none", got)
	}
}

func TestDurationsAreWrittenAsPeopleDo(t *testing.T) {
	got := map[time.Duration]string{}
	for _, d := range []time.Duration{10 * time.Minute, 24 * time.Hour, 90 * time.Minute, 90 * time.Second, 720 * time.Hour} {
		got[d] = short(d)
	}
	want := map[time.Duration]string{10 * time.Minute: "10m", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s", 720 * time.Hour: "720h"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
