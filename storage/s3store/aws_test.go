package s3store_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"spool/storage"
	"spool/storage/internal/gwtest"
	"spool/storage/s3store"
)

// awsItself stands in for AWS: it sees the requests that would go there.
type awsItself struct{ seen []*http.Request }

func (a *awsItself) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	a.seen = append(a.seen, r)
	q := r.URL.Query()
	switch {
	case q.Has("uploads"):
		_, _ = io.WriteString(w, `<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>`)
	case r.Method == http.MethodPost:
		_, _ = io.WriteString(w, `<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
	default:
		w.Header().Set("ETag", `"p"`)
		w.Header().Set("X-Amz-Checksum-Crc32", "sum"+q.Get("partNumber"))
	}
	return w.Result(), nil
}

func TestUploadToAWSIsCheckedAtBothEnds(t *testing.T) {
	gwtest.Server{}.Setenv(t)
	aws := &awsItself{}
	s, err := s3store.New(t.Context(), s3store.Config{Bucket: "bkt", HTTPClient: &http.Client{Transport: aws}})
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.NewReader(make([]byte, storage.MinPartSize+1))
	if _, err := s.Upload(t.Context(), "k", body, storage.PutOptions{PartSize: storage.MinPartSize}); err != nil {
		t.Fatal(err)
	}
	if len(aws.seen) != 4 {
		t.Fatalf("%d requests, want 4", len(aws.seen))
	}
	for _, r := range aws.seen {
		if got, want := r.URL.Scheme+"://"+r.URL.Host, "https://bkt.s3.us-east-1.amazonaws.com"; got != want {
			t.Errorf("sent to %s, want %s", got, want)
		}
	}
	if got := aws.seen[0].Header.Get("X-Amz-Checksum-Algorithm"); got != "CRC32" {
		t.Errorf("upload created for checksum %q, want CRC32", got)
	}
	for _, part := range aws.seen[1:3] {
		if got := part.Header.Get("X-Amz-Sdk-Checksum-Algorithm"); got != "CRC32" {
			t.Errorf("part sent with checksum %q, want CRC32", got)
		}
	}
	complete := aws.seen[3]
	if got := complete.Header.Get("X-Amz-Mp-Object-Size"); got != "5242881" {
		t.Errorf("completed as an object of %q bytes, want 5242881", got)
	}
	xml, err := io.ReadAll(complete.Body)
	if err != nil || strings.Count(string(xml), "<ChecksumCRC32>sum") != 2 {
		t.Errorf("completion %s, %v; want the checksums of both parts", xml, err)
	}
}

// ahead is a store whose clock is an hour ahead of this machine's. It refuses what is signed 15 min off, as
// S3 does; to HEAD it cannot say why.
type ahead struct{ refused int }

func (a *ahead) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	now := time.Now().UTC().Add(time.Hour)
	w.Header().Set("Date", now.Format(http.TimeFormat))
	signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	switch {
	case err != nil:
		return nil, err
	case now.Sub(signed).Abs() > 15*time.Minute:
		a.refused++
		w.WriteHeader(http.StatusForbidden)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, `<Error><Code>RequestTimeTooSkewed</Code></Error>`)
		}
	case r.URL.Path == "/secret":
		w.WriteHeader(http.StatusForbidden)
	default:
		w.Header().Set("Content-Length", "0")
		w.Header().Set("ETag", `"e"`)
	}
	res := w.Result()
	res.Request = r
	return res, nil
}

func TestWrongClockCostsOneRequest(t *testing.T) {
	gwtest.Server{}.Setenv(t)
	for name, call := range map[string]func(storage.Bucket) error{
		"head": func(b storage.Bucket) error { _, err := b.Head(t.Context(), "k"); return err },
		"put": func(b storage.Bucket) error {
			_, err := b.Put(t.Context(), "k", []byte("x"), storage.PutOptions{})
			return err
		},
	} {
		store := &ahead{}
		s, err := s3store.New(t.Context(), s3store.Config{Bucket: "bkt", HTTPClient: &http.Client{Transport: store}})
		if err != nil {
			t.Fatal(err)
		}
		if err := call(storage.WithRetry(s, storage.Retry{})); err != nil || store.refused != 1 {
			t.Errorf("%s: %v after %d refusals, want success after 1", name, err, store.refused)
		}
		if _, err := s.Head(t.Context(), "secret"); storage.KindOf(err) != storage.KindDenied {
			t.Errorf("%s of what is forbidden, signed in time: %v, want denied", name, err)
		}
	}
}

func TestDamagedBodyIsAnError(t *testing.T) {
	gwtest.Server{}.Setenv(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("X-Amz-Checksum-Crc32", "AAAAAA==") // not that of the body
		_, _ = io.WriteString(w, "content")
	}))
	defer server.Close()
	s := open(t, s3store.Config{Bucket: "bkt", Endpoint: server.URL, Checksums: "when-supported"})
	_, _, err := storage.ReadAll(t.Context(), storage.WithRetry(s, storage.Retry{}), "k")
	if storage.KindOf(err) != storage.KindUnavailable || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("error %v, want a temporary one about the checksum", err)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("error %v may be taken for the end", err)
	}
}
