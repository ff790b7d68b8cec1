package vllmsim

import (
	_ "embed"
	"strconv"
	"strings"
)

//go:embed lengths/answer-lengths.txt
var answerLengths string // lengths/README.md says where they come from

// realLengths parses the embedded list: one number a line, 805 of them, the mean 468.
func realLengths() []int {
	fields := strings.Fields(answerLengths)
	out := make([]int, 0, len(fields))
	for _, f := range fields {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}
