package report

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"spool/localstack/localtest"
)

// Printed, a report of a million lines has all that the screen has, on few pages; nothing is cut off or too small to be read.
func TestPaperHasTheWholeReport(t *testing.T) {
	chromium := localtest.Program(t, "chromium", "apt-get install chromium")
	pdftotext := localtest.Program(t, "pdftotext", "apt-get install poppler-utils")
	s := completed(1_000_000, 12)
	s.Finalizer = s.Runners[3].Runner
	html, _ := Render(s)
	dir := t.TempDir()
	page, pdf := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.pdf")
	if err := os.WriteFile(page, html, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--user-data-dir="+filepath.Join(dir, "profile"),
		"--print-to-pdf="+pdf, "file://"+page)
	boxes := run(t, pdftotext, "-bbox", pdf, "-")
	if n := strings.Count(boxes, "<page "); n < 2 || n > 9 {
		t.Errorf("%d pages", n)
	}
	checkWords(t, boxes)
	has(t, run(t, pdftotext, "-layout", pdf, "-"), "Completeness", "Identity", "From upload to end", "What the runners did, by their own clocks", "ended the batch",
		"Slowest chunks", "Each column is a quarter of a doubling", "Inside the engine", "Power over time", "Why answers ended", "1,000 answered lines", "What to do next",
		"runner held it answered without an answer requests tried again taken over chunks", "runner GPU utilisation idle most memory hottest energy trouble")
}

// checkWords looks at where each word stands, and how high it is, in points of 1/72 inch.
func checkWords(t *testing.T, boxes string) {
	t.Helper()
	const margin, small = 36, 7
	width := 0.0
	for _, m := range regexp.MustCompile(`<page width="([0-9.]+)"|<word xMin="([0-9.-]+)" yMin="([0-9.-]+)" xMax="([0-9.-]+)" yMax="([0-9.-]+)">(.*)</word>`).FindAllStringSubmatch(boxes, -1) {
		n := make([]float64, 6)
		for i := 1; i < len(n); i++ {
			n[i], _ = strconv.ParseFloat(m[i], 64)
		}
		switch {
		case m[1] != "":
			width = n[1]
		case n[2] < margin || n[4] > width-margin:
			t.Errorf("%q stands from %g to %g on a page of %g", m[6], n[2], n[4], width)
		case n[5]-n[3] < small:
			t.Errorf("%q is %.1f points high", m[6], n[5]-n[3])
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}
