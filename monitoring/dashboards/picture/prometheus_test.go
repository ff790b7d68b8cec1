package picture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"spool/monitoring/dashboards"
	"spool/monitoring/dashboards/picture"
)

var (
	address = flag.String("prometheus", "", "draw what the Prometheus at `URL` has seen")
	folder  = flag.String("pictures", "", "into `DIR`")
	minutes = flag.Int("minutes", 6, "of the last so many")
	until   = flag.String("until", "", "before `TIME`, RFC 3339; default: now")
)

// server is the address of a real Prometheus.
type server string

func (s server) At(ctx context.Context, expr string, t time.Time) (v model.Vector, err error) {
	return v, s.get(ctx, "query", url.Values{"query": {expr}, "time": {unix(t)}}, &v)
}

func (s server) Over(ctx context.Context, expr string, start, end time.Time, step time.Duration) (m model.Matrix, err error) {
	q := url.Values{"query": {expr}, "start": {unix(start)}, "end": {unix(end)}, "step": {step.String()}}
	return m, s.get(ctx, "query_range", q, &m)
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

func (s server) get(ctx context.Context, what string, q url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(s)+"/api/v1/"+what+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result json.RawMessage }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("%s: %s", q.Get("query"), answer.Error)
	}
	return json.Unmarshal(answer.Data.Result, into)
}

// TestPictures makes those of docs/, if it is asked to: see scripts/dashboard-pictures.sh.
func TestPictures(t *testing.T) {
	if *address == "" {
		t.Skip("-prometheus and -pictures are not given")
	}
	end := time.Now()
	if *until != "" {
		var err error
		if end, err = time.Parse(time.RFC3339, *until); err != nil {
			t.Fatal(err)
		}
	}
	view := picture.View{Start: end.Add(-time.Duration(*minutes) * time.Minute), End: end,
		Note: "Drawn from query results of a run with vllmsim on " + end.UTC().Format(time.DateOnly) +
			", not a Grafana screenshot. There was no GPU: a stand-in for NVIDIA's library made up what GPUs say."}
	for _, b := range dashboards.All() {
		text, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		page, height, err := picture.Page(t.Context(), server(*address), text, view)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(*folder, strings.Replace(b.UID, "spool-", "dashboard-", 1)+".png")
		shoot(t, page, height, name)
	}
}

// shoot takes the picture of a page.
func shoot(t *testing.T, page string, height int, name string) {
	t.Helper()
	dir := t.TempDir()
	file, shot := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
		fmt.Sprintf("--window-size=%d,%d", picture.Width, height), "--screenshot="+shot, "file://"+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, out)
	}
	body, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, reduce(img)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, small.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d x %d, %d KB", name, picture.Width, height, small.Len()/1000)
}

// reduce keeps the 256 colors that are there most often, which is a third of the size.
func reduce(img image.Image) image.Image {
	count := map[color.RGBA]int{}
	b := img.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	var colors []color.RGBA
	for c := range count {
		colors = append(colors, c)
	}
	slices.SortFunc(colors, func(a, b color.RGBA) int { return count[b] - count[a] })
	var palette color.Palette
	for _, c := range colors[:min(256, len(colors))] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for c := range count {
		nearest[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	return out
}
