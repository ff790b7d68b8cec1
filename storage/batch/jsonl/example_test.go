package jsonl_test

import (
	"fmt"
	"io"
	"strings"

	"spool/storage/batch/jsonl"
)

// A file is read once, and the lines of it again only if a custom_id may occur twice.
func Example() {
	const file = `{"custom_id": "q1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "1+1="}}

{"custom_id": "q2", "method": "POST", "url": "/v1/completions", "body": {"prompt": "1+2=", "stream": true}}
{"custom_id": "q3", "method": "POST", "url": "/v1/completions", "body": {"prompt": "1+3="}}
{"custom_id": "q1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "1+4="}}
`
	dups := jsonl.NewDups()
	scan(file, func(_ jsonl.Line, req jsonl.Request, p *jsonl.Problem) {
		if p != nil {
			fmt.Println(p)
		}
		if req.CustomID != nil {
			dups.Add(req.CustomID)
		}
	})
	if repeats := dups.Repeated(); repeats != nil {
		scan(file, func(l jsonl.Line, req jsonl.Request, p *jsonl.Problem) {
			if req.CustomID == nil {
				return
			}
			if dup := repeats.Check(l, req.CustomID); dup != nil && p == nil {
				fmt.Println(dup)
			}
		})
	}
	// Output:
	// line 3: stream_not_supported: "stream" at byte 102 must be false or absent: a batch returns whole answers
	// line 5: duplicate_custom_id: the custom_id "q1" is that of line 1: each must occur once in the file
}

func scan(file string, each func(jsonl.Line, jsonl.Request, *jsonl.Problem)) {
	content, err := jsonl.Decompress(strings.NewReader(file), "in/sums.jsonl")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer content.Close()
	lines, err := jsonl.NewReader(content, jsonl.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	checker, err := jsonl.NewChecker(jsonl.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for {
		l, err := lines.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		req, p := checker.Check(l)
		each(l, req, p)
	}
}
