package s3store_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
