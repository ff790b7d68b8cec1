package jsonl

import (
	"bytes"
	"strconv"
	"strings"
)

// member is a set of the members that spool reads.
type member uint16

const (
	memberCustomID member = 1 << iota
	memberMethod
	memberURL
	memberBody
	memberModel
	memberStream
	memberN
	memberMaxTokens
	memberMaxCompletionTokens
	memberMaxOutputTokens
)

// envelopeMember checks the value at i of a member of the envelope, whose name is in key.
func (c *Checker) envelopeMember(b []byte, key span, i int) int {
	switch name := c.name(b, key); string(name) {
	case "custom_id":
		return c.customID(b, i, c.first(memberCustomID, "custom_id", key))
	case "method":
		c.first(memberMethod, "method", key)
		return c.method(b, i)
	case "url":
		c.first(memberURL, "url", key)
		return c.url(b, i)
	case "body":
		c.first(memberBody, "body", key)
		return c.body(b, i)
	default:
		c.unknown(name, key)
		return c.value(b, i, 1)
	}
}

// bodyMember checks the value at i of a member of the body, whose name is in key.
func (c *Checker) bodyMember(b []byte, key span, i int) int {
	switch string(c.name(b, key)) {
	case "model":
		c.first(memberModel, "model", key)
		return c.model(b, i)
	case "stream":
		c.first(memberStream, "stream", key)
		return c.stream(b, i)
	case "n":
		return c.capped(b, key, i, limit{memberN, "n", c.cfg.MaxN})
	case "max_tokens":
		return c.capped(b, key, i, limit{memberMaxTokens, "max_tokens", c.cfg.MaxTokens})
	case "max_completion_tokens":
		return c.capped(b, key, i, limit{memberMaxCompletionTokens, "max_completion_tokens", c.cfg.MaxTokens})
	case "max_output_tokens":
		return c.capped(b, key, i, limit{memberMaxOutputTokens, "max_output_tokens", c.cfg.MaxTokens})
	}
	return c.value(b, i, 2)
}

// limit is the most that a member may be, 0 for any.
type limit struct {
	member member
	name   string
	most   int64
}

// name is the decoded name in key, which is the last string that was checked. It is good until the
// next. A name with half of a surrogate pair, which is none that spool knows, is left as it is.
func (c *Checker) name(b []byte, key span) []byte {
	raw := b[key.from:key.to]
	if !c.escaped {
		return raw
	}
	name, ok := unescape(c.buf[:0], raw)
	if !ok {
		return raw
	}
	c.buf = name
	return name
}

// first reports whether the member m, whose name is in key, occurs for the first time.
func (c *Checker) first(m member, name string, key span) bool {
	if c.seen&m != 0 {
		c.note(DuplicateMember, key.from-1, "%q occurs again at byte %d: keep one", name, key.from)
		return false
	}
	c.seen |= m
	return true
}

// unknown notes a member that a request must not have.
func (c *Checker) unknown(name []byte, key span) {
	for _, known := range [...]string{"custom_id", "method", "url", "body"} {
		if strings.EqualFold(string(name), known) {
			c.note(UnknownMember, key.from-1, "%s at byte %d must be written %q", quoted(name), key.from, known)
			return
		}
	}
	c.note(UnknownMember, key.from-1,
		"%s at byte %d is not a member of a request (custom_id, method, url, body): remove it, or move it into the body",
		quoted(name), key.from)
}

func (c *Checker) customID(b []byte, i int, first bool) int {
	id, end := c.stringAt(b, i, stringWant{"custom_id", InvalidCustomID, &c.idBuf})
	c.req.CustomID = nil
	switch {
	case id == nil:
	case len(id) == 0:
		c.note(InvalidCustomID, i, `"custom_id" at byte %d is empty: give each line an id of its own`, i+1)
	case len(id) > MaxCustomIDBytes:
		c.note(InvalidCustomID, i, `"custom_id" at byte %d has %d bytes, the most is %d`, i+1, len(id), MaxCustomIDBytes)
	case first:
		c.req.CustomID = id
	}
	return end
}

func (c *Checker) method(b []byte, i int) int {
	s, end := c.stringAt(b, i, stringWant{"method", InvalidMethod, &c.buf})
	if s != nil && string(s) != "POST" {
		c.note(InvalidMethod, i, `"method" at byte %d is %s: it must be "POST"`, i+1, quoted(s))
	}
	return end
}

func (c *Checker) url(b []byte, i int) int {
	s, end := c.stringAt(b, i, stringWant{"url", UnsupportedURL, &c.buf})
	if s == nil {
		return end
	}
	if string(s) == c.endpoint {
		c.req.URL = c.endpoint
		return end
	}
	for _, u := range c.cfg.Endpoints {
		if string(s) == u {
			c.req.URL = u
		}
	}
	switch {
	case c.req.URL == "":
		c.note(UnsupportedURL, i, `"url" at byte %d is %s: it must be one of %s`, i+1, quoted(s), strings.Join(c.cfg.Endpoints, ", "))
	case c.endpoint != "":
		c.note(MixedEndpoints, i, `"url" at byte %d is %s, that of the lines before is %q: use one file for each url`,
			i+1, quoted(s), c.endpoint)
	}
	return end
}

func (c *Checker) body(b []byte, i int) int {
	if i >= len(b) || b[i] != '{' {
		end := c.value(b, i, 1)
		if end != failed {
			c.note(InvalidBody, i, `"body" at byte %d must be an object, not %s`, i+1, kind(b[i]))
		}
		return end
	}
	end := c.object(b, i+1, 2, body)
	if end != failed {
		c.req.Body = b[i:end:end]
	}
	return end
}

func (c *Checker) model(b []byte, i int) int {
	if i < len(b) && b[i] == 'n' {
		return c.value(b, i, 2)
	}
	s, end := c.stringAt(b, i, stringWant{"model", InvalidBody, &c.modelBuf})
	if len(s) > MaxModelBytes {
		c.note(InvalidBody, i, `"model" at byte %d has %d bytes, the most is %d`, i+1, len(s), MaxModelBytes)
	}
	c.req.Model = s
	return end
}

func (c *Checker) stream(b []byte, i int) int {
	end := c.value(b, i, 2)
	if end != failed && b[i] != 'f' && b[i] != 'n' {
		c.note(StreamNotSupported, i, `"stream" at byte %d must be false or absent: a batch returns whole answers`, i+1)
	}
	return end
}

// capped checks the value at i, whose name is in key, against the most that it may be.
func (c *Checker) capped(b []byte, key span, i int, l limit) int {
	end := c.value(b, i, 2)
	if l.most == 0 || end == failed {
		return end
	}
	c.first(l.member, l.name, key)
	switch {
	case b[i] == 'n':
	case b[i] != '-' && !isDigit(b[i]):
		c.note(InvalidBody, i, "%q at byte %d must be a number, not %s", l.name, i+1, kind(b[i]))
	case exceeds(b[i:end], l.most):
		c.note(LimitExceeded, i, "%q at byte %d is %.40s, the most is %d", l.name, i+1, b[i:end], l.most)
	}
	return end
}

// exceeds compares a JSON number with most: exactly if it is written as an integer, else as float64,
// which is how Python reads it.
func exceeds(number []byte, most int64) bool {
	if !bytes.ContainsAny(number, ".eE") {
		v, err := strconv.ParseInt(string(number), 10, 64)
		return v > most || err != nil && number[0] != '-' // an error: out of range
	}
	f, _ := strconv.ParseFloat(string(number), 64) // out of range: ±Inf
	return f > float64(most)
}

// stringWant says what string a member must be.
type stringWant struct {
	name string
	code Code    // if it is none
	buf  *[]byte // for decoding it
}

// stringAt checks the value at i, and returns the decoded string that it is. If it is none, or has half
// of a surrogate pair, that is noted and the string is nil.
func (c *Checker) stringAt(b []byte, i int, want stringWant) ([]byte, int) {
	c.escaped = false
	end := c.value(b, i, 2)
	if end == failed {
		return nil, failed
	}
	if b[i] != '"' {
		c.note(want.code, i, "%q at byte %d must be a string, not %s", want.name, i+1, kind(b[i]))
		return nil, end
	}
	raw := b[i+1 : end-1 : end-1]
	if !c.escaped {
		return raw, end
	}
	s, ok := unescape((*want.buf)[:0], raw)
	if *want.buf = s; !ok {
		c.note(want.code, i, `%q at byte %d has half of a surrogate pair (\ud800 to \udfff): it is not Unicode`, want.name, i+1)
		return nil, end
	}
	return s, end
}

// kind names the value that starts with ch.
func kind(ch byte) string {
	switch ch {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
