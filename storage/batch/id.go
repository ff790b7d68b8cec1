package batch

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
)

// Version is the version of every object under sys/v1/ that carries a "v" member. A reader that finds
// a higher one leaves the object alone and says so.
const Version = 1

// Identity is what a batch id is made of.
type Identity struct {
	Bucket     string
	Key        string // of the input
	ETag       string // quotes are taken off
	Size       int64
	Rerun      int // x-amz-meta-rerun
	Generation int // counts runs after a failure, see FORMAT.md
}

// alphabet is RFC 4648's in lower case: ids are easier to read, and safe in every store's keys.
const alphabet = "abcdefghijklmnopqrstuvwxyz234567"

// idLen is "b" and 26 characters, 130 bits: enough that no two batches ever meet.
const idLen = 27

// ID gives the batch id: the same input bytes under the same key are the same batch, whoever asks.
func (i Identity) ID() string {
	text := fmt.Sprintf("%s\n%s\n%s\n%d\n%d\n%d", i.Bucket, i.Key, strings.Trim(i.ETag, `"`), i.Size, i.Rerun, i.Generation)
	return "b" + hash26(text)
}

func hash26(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.NewEncoding(alphabet).WithPadding(base32.NoPadding).EncodeToString(sum[:])[:idLen-1]
}

// ValidID reports whether s has the form of a batch id.
func ValidID(s string) bool {
	if len(s) != idLen || s[0] != 'b' {
		return false
	}
	return strings.Trim(s[1:], alphabet) == ""
}

// RequestID names one line of a batch everywhere: in logs, in X-Request-Id, in the output line.
func RequestID(batch string, line int64) string {
	return batch + "-" + strconv.FormatInt(line, 10)
}
