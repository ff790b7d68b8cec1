package picture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"image"
	"image/color"
	imagedraw "image/draw"
	"image/png"
	"net/http"
	"net/url"
	"os"
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
	report  = flag.String("report", "", "draw the report of a batch, `FILE`, in three widths")
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
		wantData(t, b, page)
		save(t, shoot(t, page, picture.Width, height), strings.Replace(b.UID, "spool-", "dashboard-", 1))
	}
}

// wantData has every panel show something, but for those that are empty as long as nothing is wrong, or that tell of a part which
// vllmsim or the demo does not have.
func wantData(t *testing.T, b dashboards.Board, page string) {
	t.Helper()
	shown, empty := 0, 0
	for _, row := range b.Rows {
		for _, p := range row.Panels {
			switch {
			case !strings.Contains(page, "<h3>"+html.EscapeString(p.Title)+`</h3><p class="none">`):
				shown++
			case p.Needs == dashboards.NeedsTrouble || p.Needs == dashboards.NeedsCache || p.Needs == dashboards.NeedsLoki:
				empty++
			default:
				t.Errorf("%s: %s has no data", b.Title, p.Title)
			}
		}
	}
	t.Logf("%s: %d panels have data, %d have none and need none", b.Title, shown, empty)
}

// TestPicturesOfAReport makes those of docs/, if it is asked to.
func TestPicturesOfAReport(t *testing.T) {
	if *report == "" {
		t.Skip("-report and -pictures are not given")
	}
	body, err := os.ReadFile(*report)
	if err != nil {
		t.Fatal(err)
	}
	// of gives the page with some sections only; those of a phone are dark.
	of := func(width, height int, sections string) image.Image {
		page := string(body)
		if sections != "" {
			page += "<style>header, main > *:not(" + sections + ") { display: none } main { padding-top: 1rem }</style>"
		}
		if width >= 500 {
			return shoot(t, page, width, height)
		}
		return shoot(t, page, width, height, "--blink-settings=preferredColorScheme=0")
	}
	save(t, of(1280, 710, ""), "report-verdict")
	save(t, cutEmpty(of(768, 1600, "#phases, #throughput")), "report-phases")
	const width, height, space = 390, 1000, 20
	phone := image.NewRGBA(image.Rect(0, 0, 3*width+2*space, height))
	imagedraw.Draw(phone, phone.Bounds(), image.White, image.Point{}, imagedraw.Src)
	for i, sections := range []string{"", "#latency, #gpu", "#tokens, #errors"} {
		imagedraw.Draw(phone, image.Rect(i*(width+space), 0, i*(width+space)+width, height), of(width, height, sections), image.Point{}, imagedraw.Src)
	}
	save(t, phone, "report-phone")
}

// shoot takes the picture of a page.
func shoot(t *testing.T, page string, width, height int, flags ...string) image.Image {
	t.Helper()
	dir := t.TempDir()
	file, shot := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	// A window has at least 500 px, so that narrow pages are shown in a frame.
	frame := filepath.Join(dir, "frame.html")
	text := fmt.Sprintf(`<body style="margin:0"><iframe src="page.html" style="border:0;width:%dpx;height:%dpx" scrolling="no"></iframe>`, width, height)
	if err := os.WriteFile(frame, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	command(t, "chromium", append(flags, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
		fmt.Sprintf("--window-size=%d,%d", max(500, width), height), "--screenshot="+shot, "file://"+frame)...)
	return readPNG(t, shot).(interface {
		SubImage(image.Rectangle) image.Image
	}).SubImage(image.Rect(0, 0, width, height)) // of all that png decodes
}

// cutEmpty leaves out the lower part that has one color.
func cutEmpty(img image.Image) image.Image {
	b := img.Bounds()
	empty := func(y int) bool {
		for x := b.Min.X; x < b.Max.X; x++ {
			if img.At(x, y) != img.At(b.Min.X, b.Max.Y-1) {
				return false
			}
		}
		return true
	}
	for b.Max.Y > 1 && empty(b.Max.Y-2) {
		b.Max.Y--
	}
	return img.(interface {
		SubImage(image.Rectangle) image.Image
	}).SubImage(b)
}

// save writes a picture to the folder.
func save(t *testing.T, img image.Image, name string) {
	t.Helper()
	var body bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&body, reduce(img)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(*folder, name+".png")
	if err := os.WriteFile(path, body.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %v, %d KB", path, img.Bounds().Size(), body.Len()/1000)
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
