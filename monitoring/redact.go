package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// redacted stands in lines for what must not be there.
const redacted = "REDACTED"

// secretPattern matches in encoded lines, JSON or console. So that a line stays JSON, a value ends at its quote, that of a name in
// quotes has quotes as well, and the first character is none that may follow the end of a text.
type secretPattern struct {
	*regexp.Regexp
	with  []byte   // what comes in place of the match
	hints []string // a line that matches has one of them, in lower case: a search for text is far cheaper than one for a pattern
}

// pattern makes one of which the groups stay, all of them before the secret.
func pattern(text string, hints ...string) secretPattern {
	p := secretPattern{Regexp: regexp.MustCompile(text), hints: hints}
	for i := range p.NumSubexp() {
		p.with = fmt.Appendf(p.with, "${%d}", i+1)
	}
	p.with = append(p.with, redacted...)
	return p
}

// tokenHints leave out lines that count tokens.
func tokenHints(others ...string) []string {
	return append(others, "token=", "token:", `token"`, `token\`, "token'", "token ")
}

var secretPatterns = []secretPattern{ //nolint:gochecknoglobals // constants
	// a header, whatever the scheme and its parameters: AWS's names the key and the signature
	pattern(`(?i)((?:authorization|cookie)(?:\\?"\s*:\s*\[?\\?"|'?\s*[:=]\s*(?:\\?["'\[])*))[^"\\\],:}][^"\\\]]*`, "authorization", "cookie"),
	pattern(`(?i)(\bbearer\s+)[\w.~+/=-]{8,}`, "bearer"),
	pattern(`(?i)(otlp_(?:\w+_)?headers(?:\\?"\s*:\s*\\?"|'?\s*[:=]\s*(?:\\?["'])?))[^\s"'\\,:}\]][^\s"'\\]*`, "otlp_"),
	// the query of a presigned URL, as it is or escaped: AWS's signature version 4 and 2, and others' sig
	pattern(`(?i)(X-Amz-(?:Signature|Credential|Security-Token)(?:=|%3D))[^&\s"'\\]+`, "x-amz-"),
	pattern(`(?i)((?:[?&]|\\u0026)(?:Signature|AWSAccessKeyId|sig)=)[^&\s"'\\]+`, "signature=", "awsaccesskeyid=", "sig="),
	// "x-api-key": "…", the same within text, 'password': '…', AWS_SECRET_ACCESS_KEY=…, and a password of several words
	pattern(`(?i)((?:api[_-]?key|secret(?:[_-]?(?:access[_-]?)?key)?|(?:session|security|access|auth|hf)[_-]?token|passw(?:or)?d)`+
		`)(?:("?\s*[:=]\s*\[?")(?:[^"\\,:}\]]|\\.)(?:[^"\\]|\\.)*|((?:\\")?\s*[:=]\s*\[?\\")(?:[^"\\]|\\\\(?:\\.)?)+|`+
		`('?\s*[:=]\s*\[?')[^'"\\]+|('?\s*[:=]\s*\[?)[^\s"'\\,;&\[\]}]+)`,
		tokenHints("api_key", "api-key", "apikey", "secret", "passw")...),
	pattern(`(?i)(passw(?:or)?d: )[^"'\\,;&\]}]+`, "passw"),
	// any other token must have eight characters: first_token=0.25 is none, and max_tokens is no such name
	pattern(`(?i)(token(?:\\?"\s*[:=]\s*\[?\\?"|'?\s*[:=]\s*(?:\\?["'\[])*))[^\s"'\\,;&\]}]{8,}`, tokenHints()...),
	// arguments, in one text or in a list: --api-key …, "--api-key","…"
	pattern(`(?i)(--[\w-]*(?:api-key|token|secret|password)(?:=|\s+|\\?",\s*\\"|',\s*')(?:\\?["'])?)[^\s"'\\,:}\]][^\s"'\\,\]]*`, "--"),
	{regexp.MustCompile(`(?i)(--[\w-]*(?:api-key|token|secret|password)",\s*")[^"\\]+("\s*[,\]])`), []byte("${1}" + redacted + "${2}"), []string{"--"}},
	// by their form: AWS's access keys, keys of OpenAI's kind, Hugging Face's tokens
	pattern(`()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`, "akia", "asia"),
	pattern(`()\bsk-[\w-]{16,}`, "sk-"),
	pattern(`()\bhf_[A-Za-z0-9]{16,}`, "hf_"),
	// a name, a password or both before a host: up to the last @, since a password may hold one
	{regexp.MustCompile(`(://)[^/?#\s"'\\]+@`), []byte("${1}" + redacted + "@"), []string{"@"}},
}

// redactor takes secrets out of encoded lines.
type redactor struct{ known [][]byte }

// minSecret is the length from which a known secret is looked for: shorter texts stand in other words by chance.
const minSecret = 8

func newRedactor(known []string) *redactor {
	var list []string
	for _, s := range known {
		if len(s) >= minSecret {
			list = append(list, forms(s)...)
		}
	}
	slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) }) // one may hold another
	r := &redactor{}
	for _, s := range list {
		r.known = append(r.known, []byte(s))
	}
	return r
}

// forms are how a text may stand in a line: as it is, in a URL, in JSON by two rules, and in JSON that is text in JSON.
func forms(s string) []string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	list := []string{s, url.QueryEscape(s), url.PathEscape(s), quoted.Replace(s), quoted.Replace(quoted.Replace(s))}
	if text, err := json.Marshal(s); err == nil {
		list = append(list, string(text[1:len(text)-1]))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// clean gives the line without secrets; it may be the one that was given.
func (r *redactor) clean(line []byte) []byte {
	for _, s := range r.known {
		if bytes.Contains(line, s) {
			line = bytes.ReplaceAll(line, s, []byte(redacted))
		}
	}
	lower := string(bytes.ToLower(line))
	for _, p := range secretPatterns {
		if slices.ContainsFunc(p.hints, func(hint string) bool { return strings.Contains(lower, hint) }) {
			line = p.ReplaceAll(line, p.with)
		}
	}
	return line
}
