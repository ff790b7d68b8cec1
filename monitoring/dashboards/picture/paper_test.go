package picture_test

import (
	"image"
	"image/color"
	imagedraw "image/draw"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPicturesOfAReportOnPaper makes that of the first two pages. Besides Chromium it needs poppler-utils.
func TestPicturesOfAReportOnPaper(t *testing.T) {
	if *report == "" {
		t.Skip("-report and -pictures are not given")
	}
	file, err := filepath.Abs(*report)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pdf := filepath.Join(dir, "report.pdf")
	command(t, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--print-to-pdf="+pdf, "file://"+file)
	const space = 12
	sheets := image.NewRGBA(image.Rectangle{})
	for i, n := range []string{"1", "2"} {
		command(t, "pdftoppm", "-r", "80", "-png", "-singlefile", "-f", n, "-l", n, pdf, filepath.Join(dir, n))
		page := readPNG(t, filepath.Join(dir, n+".png"))
		size := page.Bounds().Size()
		if i == 0 {
			sheets = image.NewRGBA(image.Rect(0, 0, 2*size.X+3*space, size.Y+2*space))
			imagedraw.Draw(sheets, sheets.Bounds(), image.NewUniform(color.Gray{0xd0}), image.Point{}, imagedraw.Src)
		}
		at := image.Pt(space+i*(size.X+space), space)
		imagedraw.Draw(sheets, image.Rectangle{at, at.Add(size)}, page, page.Bounds().Min, imagedraw.Src)
	}
	save(t, sheets, "report-paper")
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func readPNG(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
