package batch

import (
	"encoding/json"
	"strconv"
)

// RequestIDPrefix stands before the request id in the "id" of an output line, as in OpenAI's.
const RequestIDPrefix = "batch_req_"

// Answer is what becomes of one line that an engine answered over HTTP, or the failure of one that it
// did not.
type Answer struct {
	Batch    string
	Line     int64
	CustomID string // "" is written as null: a bad line may have none
	Status   int    // of HTTP; 0 if there was no response
	Body     []byte // of the response, JSON; newlines in it are made spaces
	Code     string // if Status is 0
	Message  string // if Status is 0
	Spool    *Extension
}

// Extension is the member "spool" of a line: how the answer came about. OpenAI's clients ignore it.
type Extension struct {
	Attempts int
	QueuedMS int64 // from the start of work on the line's shard to the first request
	RunMS    int64 // of the attempt that was answered
	Chunk    int
	Runner   string
}

// OK reports whether the line belongs in output.jsonl.
func (a *Answer) OK() bool { return a.Status >= 200 && a.Status < 300 }

// AppendLine appends the line of output.jsonl or errors.jsonl, without a newline. It does not check
// Body; a body that is not JSON must be quoted by the caller.
func (a *Answer) AppendLine(dst []byte) []byte {
	dst = append(dst, `{"id":"`+RequestIDPrefix...)
	dst = a.appendRequestID(dst)
	dst = append(dst, `","custom_id":`...)
	if a.CustomID == "" {
		dst = append(dst, "null"...)
	} else {
		dst = appendString(dst, a.CustomID)
	}
	if a.Status == 0 {
		dst = append(dst, `,"response":null,"error":{"code":`...)
		dst = appendString(dst, a.Code)
		dst = append(dst, `,"message":`...)
		dst = appendString(dst, a.Message)
		dst = append(dst, '}')
	} else {
		dst = append(dst, `,"response":{"status_code":`...)
		dst = strconv.AppendInt(dst, int64(a.Status), 10)
		dst = append(dst, `,"request_id":"`...)
		dst = a.appendRequestID(dst)
		dst = append(dst, `","body":`...)
		dst = appendBody(dst, a.Body)
		dst = append(dst, `},"error":null`...)
	}
	return append(a.appendExtension(dst), '}')
}

func (a *Answer) appendRequestID(dst []byte) []byte {
	dst = append(dst, a.Batch...)
	dst = append(dst, '-')
	return strconv.AppendInt(dst, a.Line, 10)
}

func (a *Answer) appendExtension(dst []byte) []byte {
	x := a.Spool
	if x == nil {
		return dst
	}
	dst = append(dst, `,"spool":{"attempts":`...)
	dst = strconv.AppendInt(dst, int64(x.Attempts), 10)
	dst = append(dst, `,"queued_ms":`...)
	dst = strconv.AppendInt(dst, x.QueuedMS, 10)
	dst = append(dst, `,"run_ms":`...)
	dst = strconv.AppendInt(dst, x.RunMS, 10)
	dst = append(dst, `,"chunk":`...)
	dst = strconv.AppendInt(dst, int64(x.Chunk), 10)
	dst = append(dst, `,"runner":`...)
	dst = appendString(dst, x.Runner)
	return append(dst, '}')
}

// appendBody copies JSON, raw newlines made spaces: outside strings they are white space, inside they
// cannot be.
func appendBody(dst, body []byte) []byte {
	if len(body) == 0 {
		return append(dst, "null"...)
	}
	at := len(dst)
	dst = append(dst, body...)
	for i := at; i < len(dst); i++ {
		if dst[i] == '\n' || dst[i] == '\r' {
			dst[i] = ' '
		}
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			q, err := json.Marshal(s)
			if err != nil { // a string always marshals
				panic(err)
			}
			return append(dst, q...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
