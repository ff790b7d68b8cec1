package s3wire

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"spool/storage"
)

// Range is the value of a Range header for opt; "" asks for the whole object.
func Range(opt storage.GetOptions) string {
	switch {
	case opt.Length > 0:
		return fmt.Sprintf("bytes=%d-%d", opt.Offset, opt.Offset+opt.Length-1)
	case opt.Offset > 0:
		return fmt.Sprintf("bytes=%d-", opt.Offset)
	default:
		return ""
	}
}

// CheckRange refuses what has no meaning.
func CheckRange(key string, opt storage.GetOptions) error {
	if opt.Offset >= 0 && opt.Length >= 0 {
		return nil
	}
	err := fmt.Errorf("offset %d, length %d", opt.Offset, opt.Length)
	return &storage.Error{Op: "get", Key: key, Kind: storage.KindInvalid, Err: err}
}

// FullSize is the size of the object of which an answer holds a part: that of its Content-Range
// ("bytes 0-9/443"), or the length of the answer if it is whole; negative: it does not tell.
func FullSize(contentRange string, length int64) (int64, error) {
	switch {
	case contentRange == "" && length < 0:
		return 0, errors.New("the answer has no content-length")
	case contentRange == "":
		return length, nil
	}
	_, total, _ := strings.Cut(contentRange, "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse content-range %q: %w", contentRange, err)
	}
	return size, nil
}

// Date is the store's clock in an answer, zero if it does not tell.
func Date(header string) time.Time {
	t, err := http.ParseTime(header)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Metadata is meta with its keys in lower case. HTTP headers have no case, and SDKs make up one.
func Metadata(meta map[string]string) map[string]string {
	out := make(map[string]string, len(meta))
	for k, v := range meta {
		out[strings.ToLower(k)] = v
	}
	return out
}

// ETag is an ETag without the quotes that it has on the wire.
func ETag(s string) string { return strings.Trim(s, `"`) }
