package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// notRecorded stands for what nobody wrote down.
const notRecorded = "not recorded"

// count writes 1234567 as 1,234,567.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// lines writes "1 line", "2 lines".
func lines(n int64) string { return plural(n, "line") }

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// amount writes a value with its unit, which is named in the plural: 1 chunk, 2 chunks, 1 line/s, 2 lines/s, 1 GB.
func amount(f float64, unit string) string {
	text := decimal(f)
	if text != "1" {
		return text + " " + unit
	}
	noun, per, rate := strings.Cut(unit, "/")
	noun = text + " " + strings.TrimSuffix(noun, "s")
	if rate {
		noun += "/" + per
	}
	return noun
}

// sentence makes a sentence of a message. A first word that is more than a word, as body.model, stays as it is.
func sentence(s string) string {
	s = withStop(s)
	end := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsLower(r) })
	if end <= 0 || s[end] != ' ' && end < len(s)-1 {
		return s
	}
	first, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[size:]
}

// withStop gives a message its full stop, if it ends without a mark.
func withStop(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") || strings.HasSuffix(s, "…") {
		return s
	}
	return s + "."
}

// verb gives the form that goes with n.
func verb(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// span writes seconds as people do: 0.4 s, 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h.
func span(seconds float64) string {
	if math.IsNaN(seconds) || seconds < 0 {
		seconds = 0
	}
	n := int64(min(math.Round(seconds), 1e12))
	switch {
	case seconds < 1 && seconds > 0:
		return fmt.Sprintf("%.0f ms", max(1, seconds*1000))
	case seconds < 9.95 && seconds != math.Trunc(seconds):
		return fmt.Sprintf("%.1f s", seconds)
	case n < 60:
		return fmt.Sprintf("%d s", n)
	case n < 3600:
		return two(n/60, "min", n%60, "s")
	case n < 86400:
		return two(n/3600, "h", n%3600/60, "min")
	}
	return two(n/86400, "d", n%86400/3600, "h")
}

func two(a int64, unit string, b int64, small string) string {
	if b == 0 {
		return fmt.Sprintf("%s %s", count(a), unit)
	}
	return fmt.Sprintf("%s %s %d %s", count(a), unit, b, small)
}

// decimal writes a number with three digits that count: 0.0123, 4.56, 78.9, 1,234.
func decimal(f float64) string {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return notRecorded
	case f == 0:
		return "0"
	case math.Abs(f) >= 99.95:
		return count(int64(math.Round(max(-1e15, min(f, 1e15)))))
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(f))))
	s := strconv.FormatFloat(f, 'f', min(digits, 6), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// percent writes a part of a whole, and says 0 % and 100 % only of none and all.
func percent(part, whole float64) string {
	if whole <= 0 || math.IsNaN(part) {
		return "–"
	}
	p := 100 * part / whole
	switch {
	case part <= 0:
		return "0 %"
	case p < 0.1:
		return "< 0.1 %"
	case part < whole && p > 99.9:
		return "> 99.9 %"
	case p >= 99.95:
		return "100 %"
	}
	return strings.TrimSuffix(strconv.FormatFloat(p, 'f', 1, 64), ".0") + " %"
}

// size writes bytes in powers of 1000.
func size(n float64) string {
	for _, unit := range []string{"bytes", "kB", "MB", "GB"} {
		if n < 1000 {
			return amount(n, unit)
		}
		n /= 1000
	}
	return decimal(n) + " TB"
}

// clock writes Unix seconds in UTC, "–" for none.
func clock(t int64) string {
	if t <= 0 || t > 253402300799 { // the year 9999
		return "–"
	}
	return time.Unix(t, 0).UTC().Format("2006-01-02 15:04:05 UTC")
}

// plain makes text fit to be shown: without control characters and what turns the direction of writing, and at most n bytes.
func plain(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsGraphic(r):
			return '\uFFFD'
		}
		return r
	}, s)
	if len(s) <= n {
		return s
	}
	cut := n
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// shell quotes an argument for sh and bash, as far as it has to.
func shell(s string) string {
	safe := func(r rune) bool {
		return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("-_./:=@%+,", r)
	}
	switch {
	case s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0:
		return s
	case strings.IndexFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) < 0 && utf8.ValidString(s):
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var q strings.Builder
	q.WriteString("$'")
	for _, c := range []byte(s) {
		switch {
		case c == '\'' || c == '\\':
			q.WriteByte('\\')
			q.WriteByte(c)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&q, `\x%02x`, c)
		default:
			q.WriteByte(c)
		}
	}
	return q.String() + "'"
}
