package monitoring

import (
	"bytes"
	"regexp"
)

// redacted stands in lines for what must not be there.
const redacted = "REDACTED"

// secretHints are what a line must hold, in lower case, for any of the patterns to match: most lines hold none, and
// a search for text is cheaper than one for patterns.
var secretHints = [][]byte{ //nolint:gochecknoglobals // constants
	[]byte("authorization"), []byte("bearer "), []byte("key"), []byte("token"), []byte("secret"), []byte("password"),
	[]byte("signature"), []byte("credential"), []byte("akia"), []byte("asia"), []byte("sk-"), []byte("hf_"), []byte("://"),
}

// secretPatterns match in encoded lines, JSON or console; what the first group matches stays. A value ends at a quote
// or a backslash, so that a line stays JSON.
var secretPatterns = []*regexp.Regexp{ //nolint:gochecknoglobals // constants
	// a header, whatever the scheme and its parameters: AWS's names the key and the signature
	regexp.MustCompile(`(?i)(authorization(?:\\?["'])?\s*[:=]\s*(?:\\?["'\[])*)[^"\\\]]+`),
	regexp.MustCompile(`(?i)(\bbearer\s+)[\w.~+/=-]{8,}`),
	// the query of a presigned URL: AWS's signature version 4 and 2, and others' sig
	regexp.MustCompile(`(?i)([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig)=)[^&\s"'\\]+`),
	// name and value: api_key=…, "x-api-key": "…", AWS_SECRET_ACCESS_KEY=…
	regexp.MustCompile(`(?i)((?:api[_-]?key|secret[_-]?(?:access[_-]?)?key|(?:session|security|access|auth|hf)[_-]?token|password)` +
		`(?:\\?["'])?\s*[:=]\s*(?:\\?["'\[])*)[^\s"'\\,;&\]}]+`),
	// arguments, in one text or in a list: --api-key …, "--api-key","…"
	regexp.MustCompile(`(?i)(--[\w-]*(?:api-key|token|secret|password)(?:\\?["'])?[=,\s]+(?:\\?["'])?)[^\s"'\\,\]]+`),
	// by their form: AWS's access keys, keys of OpenAI's kind, Hugging Face's tokens
	regexp.MustCompile(`()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`),
	regexp.MustCompile(`()\bsk-[\w-]{16,}`),
	regexp.MustCompile(`()\bhf_[A-Za-z0-9]{16,}`),
	// a name and password before a host
	regexp.MustCompile(`(://)[^/\s"'@\\]+:[^/\s"'@\\]+@`),
}

// redactor takes secrets out of encoded lines.
type redactor struct{ known [][]byte }

// minSecret is the length from which a known secret is looked for: shorter texts stand in other words by chance.
const minSecret = 8

func newRedactor(known []string) *redactor {
	r := &redactor{}
	for _, s := range known {
		if len(s) >= minSecret {
			r.known = append(r.known, []byte(s))
		}
	}
	return r
}

// clean gives the line without secrets; it may be the one that was given.
func (r *redactor) clean(line []byte) []byte {
	for _, s := range r.known {
		line = bytes.ReplaceAll(line, s, []byte(redacted))
	}
	lower := bytes.ToLower(line)
	for _, hint := range secretHints {
		if bytes.Contains(lower, hint) {
			return scrub(line)
		}
	}
	return line
}

func scrub(line []byte) []byte {
	for i, p := range secretPatterns {
		with := []byte("${1}" + redacted)
		if i == len(secretPatterns)-1 {
			with = append(with, '@')
		}
		line = p.ReplaceAll(line, with)
	}
	return line
}
