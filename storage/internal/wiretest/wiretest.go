// Package wiretest asks the S3 drivers what they make of answers that no well-behaved server gives on
// demand, and what they send. Both must agree: the table of kinds is part of the contract.
package wiretest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"spool/storage"
)

// Bucket is what a driver's Store is.
type Bucket interface {
	storage.Bucket
	storage.Deleter
}

// Run runs all checks; open makes a Store for the bucket "bkt" at endpoint, without checksums.
func Run(t *testing.T, open func(t *testing.T, endpoint string) Bucket) {
	t.Run("kinds of errors", func(t *testing.T) { kinds(t, open) })
	t.Run("broken connections", func(t *testing.T) { connections(t, open) })
	t.Run("nobody listens", func(t *testing.T) { nobody(t, open) })
	t.Run("torn answers", func(t *testing.T) { torn(t, open) })
	t.Run("answer without a length", func(t *testing.T) { noLength(t, open) })
	t.Run("keys that XML cannot hold", func(t *testing.T) { encodedKeys(t, open) })
	t.Run("page that names no next one", func(t *testing.T) { lostPage(t, open) })
	t.Run("metadata of others", func(t *testing.T) { metadata(t, open) })
	t.Run("completion with 200 and an error", func(t *testing.T) { completions(t, open) })
	t.Run("headers", func(t *testing.T) { headers(t, open) })
}

// server answers with handle, and counts.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func serve(t *testing.T, handle http.HandlerFunc) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client gave up
		}
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		handle(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// calls are the calls that make one request each.
func calls(t *testing.T, b Bucket) map[string]func() error {
	ctx := t.Context()
	return map[string]func() error{
		"get":    func() error { _, _, err := b.Get(ctx, "k", storage.GetOptions{}); return err },
		"head":   func() error { _, err := b.Head(ctx, "k"); return err },
		"put":    func() error { _, err := b.Put(ctx, "k", []byte("x"), storage.PutOptions{}); return err },
		"delete": func() error { return b.Delete(ctx, "k") },
		"list": func() error {
			for _, err := range b.List(ctx, "", "") {
				return err
			}
			return nil
		},
	}
}

func errorXML(code string) string {
	return fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>m</Message></Error>`, code)
}

func kinds(t *testing.T, open func(*testing.T, string) Bucket) {
	tests := []struct {
		status int
		code   string
		want   storage.Kind
	}{
		{404, "NoSuchKey", storage.KindNotFound},
		{404, "NoSuchBucket", storage.KindNotFound},
		{412, "PreconditionFailed", storage.KindPrecondition},
		{409, "ConditionalRequestConflict", storage.KindConflict},
		{409, "OperationAborted", storage.KindConflict},
		{409, "ObjectParentIsFile", storage.KindInvalid},
		{404, "XAdminUserNotFound", storage.KindDenied},
		{403, "AccessDenied", storage.KindDenied},
		{403, "SignatureDoesNotMatch", storage.KindDenied},
		{400, "ExpiredToken", storage.KindDenied},
		{400, "InvalidArgument", storage.KindInvalid},
		{400, "RequestTimeout", storage.KindUnavailable},
		{416, "InvalidRange", storage.KindInvalid},
		{429, "TooManyRequests", storage.KindUnavailable},
		{500, "InternalError", storage.KindUnavailable},
		{501, "NotImplemented", storage.KindInvalid},
		{503, "SlowDown", storage.KindUnavailable},
		{503, "ServiceUnavailable", storage.KindUnavailable},
		{502, "", storage.KindUnavailable},
	}
	bodiless := []string{"RequestTimeout", "ExpiredToken", "ObjectParentIsFile", "XAdminUserNotFound"} // HEAD shows the status alone
	for _, tc := range tests {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tc.status)
			if tc.code != "" && r.Method != http.MethodHead {
				_, _ = io.WriteString(w, errorXML(tc.code))
			}
		})
		n := 0
		for op, call := range calls(t, open(t, s.URL)) {
			if op == "head" && slices.Contains(bodiless, tc.code) {
				continue
			}
			err := call()
			e, ok := errors.AsType[*storage.Error](err)
			if !ok || e.Kind != tc.want || e.Op != op {
				t.Errorf("%s answered %d %s: %v, want %v", op, tc.status, tc.code, err, tc.want)
			}
			n++
		}
		if got := len(s.requests()); got != n {
			t.Errorf("%d %s: %d requests for %d calls: drivers must not retry", tc.status, tc.code, got, n)
		}
	}
}

func connections(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for op, call := range calls(t, open(t, s.URL)) {
		if err := call(); storage.KindOf(err) != storage.KindUnavailable {
			t.Errorf("%s with a connection that breaks: %v, want unavailable", op, err)
		}
	}
}

func nobody(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	s.Close()
	for op, call := range calls(t, open(t, s.URL)) {
		if err := call(); storage.KindOf(err) != storage.KindUnavailable {
			t.Errorf("%s where nobody listens: %v, want unavailable", op, err)
		}
	}
}

func torn(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT")
		_, _ = io.WriteString(w, `<?xml version="1.0"?><ListBucketResult><Contents><Key>a</Key>`)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	})
	b := open(t, s.URL)
	r, obj, err := b.Get(t.Context(), "k", storage.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil || obj.Size != 1000 {
		t.Errorf("read a torn body of %d bytes to its end: %v", obj.Size, err)
	}
	_ = r.Close()
	if err := calls(t, b)["list"](); storage.KindOf(err) != storage.KindUnavailable {
		t.Errorf("torn list: %v, want unavailable", err)
	}
}

func noLength(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT")
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "content")
		}
		if err := http.NewResponseController(w).Flush(); err != nil { // chunked, as some proxies do
			t.Error(err)
		}
	})
	b := open(t, s.URL)
	if body, obj, err := storage.ReadAll(t.Context(), b, "k"); err == nil {
		t.Errorf("read %q of %d bytes, want an error: nobody knows whether that is all", body, obj.Size)
	}
	if obj, err := b.Head(t.Context(), "k"); err == nil {
		t.Errorf("Head says %d bytes, want an error", obj.Size)
	}
}

// A user may upload a key with a control character; without encoding-type=url no list that holds it can
// be read.
func encodedKeys(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		page := `<ListBucketResult><Contents><Key>in/a&#x1;</Key></Contents></ListBucketResult>`
		if r.URL.Query().Get("encoding-type") == "url" {
			page = `<ListBucketResult><EncodingType>url</EncodingType>` +
				`<Contents><Key>in/a%01</Key></Contents><Contents><Key>in/b+c%2B%25</Key></Contents></ListBucketResult>`
		}
		_, _ = io.WriteString(w, page)
	})
	var got []string
	for obj, err := range open(t, s.URL).List(t.Context(), "in/", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, obj.Key)
	}
	if want := []string{"in/a\x01", "in/b c+%"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

func lostPage(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>`)
	})
	n := 0
	for _, err := range open(t, s.URL).List(t.Context(), "", "") {
		if err != nil {
			return
		}
		if n++; n == 2 {
			t.Fatal("the same page again, want an error")
		}
	}
	t.Error("the listing ended as if it were complete, want an error")
}

// HTTP libraries spell the names of headers in their own way.
func metadata(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Length", "0")
		w.Header().Set("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT")
		w.Header()["X-AMZ-Meta-On-Invalid"] = []string{"Skip"}
		w.Header()["x-amz-meta-rerun"] = []string{"2"}
	})
	b := open(t, s.URL)
	want := map[string]string{"on-invalid": "Skip", "rerun": "2"}
	if obj, err := b.Head(t.Context(), "k"); err != nil || !maps.Equal(obj.Metadata, want) {
		t.Errorf("Head: %v, %v; want %v", obj.Metadata, err, want)
	}
	if _, obj, err := storage.ReadAll(t.Context(), b, "k"); err != nil || !maps.Equal(obj.Metadata, want) {
		t.Errorf("Get: %v, %v; want %v", obj.Metadata, err, want)
	}
}

// multipart answers all but completions as a store does.
func multipart(complete http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
			_, _ = io.WriteString(w, `<InitiateMultipartUploadResult><Bucket>bkt</Bucket><Key>k</Key><UploadId>u1</UploadId></InitiateMultipartUploadResult>`)
		case r.Method == http.MethodPost:
			complete(w, r)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("ETag", `"p"`)
		}
	}
}

func completions(t *testing.T, open func(*testing.T, string) Bucket) {
	tests := []struct {
		status int
		code   string
		want   storage.Kind
	}{
		{200, "InternalError", storage.KindUnavailable},
		{200, "SlowDown", storage.KindUnavailable},
		{409, "ConditionalRequestConflict", storage.KindConflict},
		{412, "PreconditionFailed", storage.KindPrecondition},
		{200, "PreconditionFailed", storage.KindPrecondition},
		{404, "NoSuchUpload", storage.KindUnknown},
	}
	for _, tc := range tests {
		s := serve(t, multipart(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			_, _ = io.WriteString(w, errorXML(tc.code))
		}))
		body := bytes.NewReader(make([]byte, storage.MinPartSize+1))
		_, err := open(t, s.URL).Upload(t.Context(), "k", body, storage.PutOptions{PartSize: storage.MinPartSize})
		if _, ok := errors.AsType[*storage.Error](err); !ok || storage.KindOf(err) != tc.want {
			t.Errorf("completion answered %d %s: %v, want %v", tc.status, tc.code, err, tc.want)
		}
	}
}

func headers(t *testing.T, open func(*testing.T, string) Bucket) {
	s := serve(t, multipart(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `<CompleteMultipartUploadResult><Bucket>bkt</Bucket><Key>k</Key><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
	}))
	b := open(t, s.URL)
	opt := storage.PutOptions{Cond: storage.Cond{IfAbsent: true}, Metadata: map[string]string{"putid": "1"}, ContentType: "a/b", PartSize: storage.MinPartSize}
	if _, err := b.Put(t.Context(), "k", []byte("x"), opt); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "k", []byte("x"), storage.PutOptions{Cond: storage.Cond{IfMatch: "abc"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Upload(t.Context(), "k", bytes.NewReader(make([]byte, storage.MinPartSize+1)), opt); err != nil {
		t.Fatal(err)
	}
	want := []string{ // method, query, If-None-Match, If-Match, metadata, type
		`PUT  * - 1 a/b`, `PUT  - "abc" - *`,
		`POST uploads - - 1 a/b`, `PUT partNumber,uploadId - - - *`, `PUT partNumber,uploadId - - - *`, `POST uploadId * - - *`,
	}
	var got []string
	for i, r := range s.requests() {
		line := describe(r)
		if i < len(want) && strings.HasSuffix(want[i], " *") { // the type does not matter
			line = line[:strings.LastIndexByte(line, ' ')] + " *"
		}
		got = append(got, line)
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Amz-Checksum") || strings.HasPrefix(name, "X-Amz-Sdk-Checksum") || name == "Content-Md5" {
				t.Errorf("%s carries %s without being asked to", line, name)
			}
		}
		if sum := r.Header.Get("X-Amz-Content-Sha256"); r.Method == http.MethodPut && sum != "UNSIGNED-PAYLOAD" {
			t.Errorf("%s: body signed as %q, want unsigned", line, sum)
		}
		if !strings.HasPrefix(r.URL.Path, "/bkt/k") {
			t.Errorf("path %s, want path style", r.URL.Path)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("requests:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func describe(r *http.Request) string {
	var query []string
	for name := range r.URL.Query() {
		if name != "x-id" { // the AWS SDK's name of the operation
			query = append(query, name)
		}
	}
	slices.Sort(query)
	line := r.Method + " " + strings.Join(query, ",")
	for _, name := range []string{"If-None-Match", "If-Match", "X-Amz-Meta-Putid", "Content-Type"} {
		value := r.Header.Get(name)
		if value == "" {
			value = "-"
		}
		line += " " + value
	}
	return line
}
