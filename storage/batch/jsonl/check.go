package jsonl

import (
	"bytes"
	"fmt"
)

// Request is what spool reads of a good line. Its slices are parts of the line, or of the Checker's
// memory where escapes had to be decoded: they are good until the next Check.
type Request struct {
	CustomID []byte // decoded; 1 to MaxCustomIDBytes bytes
	URL      string // one of Config.Endpoints
	Body     []byte // the JSON object, byte for byte
	Model    []byte // body.model, decoded; empty if the engine is to choose
}

// Checker checks the lines of one file, in their order. It is not safe for concurrent use.
type Checker struct {
	cfg      Config
	endpoint string // the url of the first good line

	// Of the line being checked.
	req          Request
	seen         member
	escaped      bool // the last string to be checked had an escape sequence
	fatal, noted fault

	idBuf, modelBuf, buf []byte // decoded strings
}

// NewChecker returns a Checker for one file, or says what is wrong with cfg.
func NewChecker(cfg Config) (*Checker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Checker{cfg: cfg}, nil
}

// Endpoint is the url of the first good line so far, "" before there is one.
func (c *Checker) Endpoint() string { return c.endpoint }

// Check checks a line and finds its members. Of a Line only Bytes must be set; the others are
// passed on to the Problem, and a Line that has a Problem already is answered with that.
//
// With a problem, only CustomID of the Request means anything: it is the id of the line if that
// could be read and is a good one, else nil. A good line costs no allocation, unless a string has
// more escapes than any before.
func (c *Checker) Check(l Line) (Request, *Problem) {
	c.req, c.seen, c.fatal, c.noted = Request{}, 0, fault{}, fault{}
	switch {
	case l.Problem != nil:
		return Request{}, l.Problem
	case len(l.Bytes) > c.cfg.MaxLineBytes:
		return Request{}, tooLong(l, int64(len(l.Bytes)), c.cfg.MaxLineBytes)
	case c.line(l.Bytes) == failed:
		return Request{CustomID: c.req.CustomID}, c.fatal.problem(l)
	case c.noted.code != "":
		return Request{CustomID: c.req.CustomID}, c.noted.problem(l)
	}
	c.endpoint = c.req.URL
	return c.req, nil
}

// tooLong is the problem of a line of n bytes.
func tooLong(l Line, n int64, most int) *Problem {
	f := fault{LineTooLong, -1, fmt.Sprintf("the line has %d bytes, the most is %d: shorten or split the request", n, most)}
	return f.problem(l)
}

// line checks a line from end to end. Faults of the grammar end in fatal, others in noted.
func (c *Checker) line(b []byte) int {
	i := space(b, 0)
	if bytes.HasPrefix(b, []byte(bom)) {
		return c.fail(BOM, 0, "the line starts with a byte order mark: remove it (were files joined?)")
	}
	object := i < len(b) && b[i] == '{'
	if object {
		i = c.object(b, i+1, 1, envelope)
	} else {
		start := i
		if i = c.value(b, i, 0); i != failed {
			c.note(NotAnObject, start, "the line is %s: it must be an object, {…}", kind(b[start]))
		}
	}
	if i == failed {
		return failed
	}
	if end := space(b, i); end < len(b) {
		return c.trailing(b, end)
	}
	if object {
		c.missing()
	}
	return i
}

// trailing fails since there is something at i, after the value.
func (c *Checker) trailing(b []byte, i int) int {
	advice := "remove it"
	switch b[i] {
	case '{':
		advice = "put each request on a line of its own"
	case ',':
		advice = "lines are not separated by commas"
	}
	return c.fail(TrailingData, i, fmt.Sprintf("more data follows the JSON value at byte %d: %s", i+1, advice))
}

// missing notes the first member that a request must have and this one has not.
func (c *Checker) missing() {
	switch gone := ^c.seen; {
	case gone&memberCustomID != 0:
		c.note(MissingCustomID, -1, `"custom_id" is missing: add it, a string that occurs once in the file`)
	case gone&memberMethod != 0:
		c.note(MissingMethod, -1, `"method" is missing: add "method":"POST"`)
	case gone&memberURL != 0:
		c.note(MissingURL, -1, `"url" is missing: add it, for instance "url":%q`, c.cfg.Endpoints[0])
	case gone&memberBody != 0:
		c.note(MissingBody, -1, `"body" is missing: add it, the object that is to be sent to the engine`)
	}
}
