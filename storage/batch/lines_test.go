package batch

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestAnswerLines(t *testing.T) {
	for name, c := range map[string]struct {
		answer Answer
		ok     bool
		want   string
	}{
		"success": {
			Answer{Batch: "b", Line: 17, CustomID: "a", Status: 200, Body: []byte(`{"x":1}`)}, true,
			`{"id":"batch_req_b-17","custom_id":"a","response":{"status_code":200,"request_id":"b-17","body":{"x":1}},"error":null}`,
		},
		"HTTP error": {
			Answer{Batch: "b", Line: 17, CustomID: "a", Status: 400, Body: []byte(`{"error":{}}`)}, false,
			`{"id":"batch_req_b-17","custom_id":"a","response":{"status_code":400,"request_id":"b-17","body":{"error":{}}},"error":null}`,
		},
		"no answer": {
			Answer{Batch: "b", Line: 17, CustomID: "a", Code: CodeBatchExpired, Message: `late "by" 1 s`}, false,
			`{"id":"batch_req_b-17","custom_id":"a","response":null,"error":{"code":"batch_expired","message":"late \"by\" 1 s"}}`,
		},
		"no custom_id": {
			Answer{Batch: "b", Line: 1, Code: "c"}, false,
			`{"id":"batch_req_b-1","custom_id":null,"response":null,"error":{"code":"c","message":""}}`,
		},
		"body over several lines": {
			Answer{Batch: "b", Line: 1, CustomID: "a", Status: 299, Body: []byte("{\r\n\"x\":\n1}")}, true,
			`{"id":"batch_req_b-1","custom_id":"a","response":{"status_code":299,"request_id":"b-1","body":{  "x": 1}},"error":null}`,
		},
		"no body": {
			Answer{Batch: "b", Line: 1, CustomID: "a", Status: 300}, false,
			`{"id":"batch_req_b-1","custom_id":"a","response":{"status_code":300,"request_id":"b-1","body":null},"error":null}`,
		},
		"extension": {
			Answer{Batch: "b", Line: 1, CustomID: "a", Status: 200, Body: []byte(`1`), Spool: &Extension{2, 30, 400, 5, "r-1"}}, true,
			`{"id":"batch_req_b-1","custom_id":"a","response":{"status_code":200,"request_id":"b-1","body":1},"error":null,` +
				`"spool":{"attempts":2,"queued_ms":30,"run_ms":400,"chunk":5,"runner":"r-1"}}`,
		},
	} {
		if got := string(c.answer.AppendLine(nil)); got != c.want || c.answer.OK() != c.ok {
			t.Errorf("%s: OK = %v\ngot  %s\nwant %s", name, c.answer.OK(), got, c.want)
		}
	}
}

// Whatever a custom_id or message holds, the line is JSON, is one line, and gives it back.
func FuzzAnswerLine(f *testing.F) {
	f.Add("a", "b")
	f.Add("\x00\n\"\\<é>\u2028", "\x7f")
	f.Fuzz(func(t *testing.T, id, message string) {
		if id == "" || !utf8.ValidString(id) || !utf8.ValidString(message) {
			return
		}
		a := Answer{Batch: "b", Line: 1, CustomID: id, Code: "c", Message: message}
		line := a.AppendLine(nil)
		var got struct {
			CustomID string `json:"custom_id"`
			Error    struct{ Message string }
		}
		if err := json.Unmarshal(line, &got); err != nil || got.CustomID != id || got.Error.Message != message {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
		for _, c := range line {
			if c < ' ' {
				t.Errorf("%q has a control byte", line)
			}
		}
	})
}
