package infra_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestTestsSleepOnlyInBubbles is the part of the lint rule against time.Sleep that the linter cannot check: in tests it is
// allowed where package testing/synctest is the clock.
func TestTestsSleepOnlyInBubbles(t *testing.T) {
	for dir := range packages(t) {
		files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		sleeps, bubbles := "", false
		for _, file := range files {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(body, []byte("time."+"Sleep(")) {
				sleeps = file
			}
			bubbles = bubbles || bytes.Contains(body, []byte(`"testing/synctest"`))
		}
		if sleeps != "" && !bubbles {
			t.Errorf("%s sleeps, and no test of its package runs in a synctest bubble", sleeps)
		}
	}
}
