//go:build !nolocal

package s3

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// created is what an event tells: an object was put.
type created struct {
	name      string // without "s3:", as AWS has it in messages: ObjectCreated:Put
	region    string
	bucket    string
	key       string
	size      int64
	etag      string // without quotes
	principal string
	address   string // of the client
	requestID string
	hostID    string
	at        time.Time
	sequence  int64 // later events of a key have higher ones
}

// The JSON below is that of the S3 user guide, "Event message structure".

type (
	message struct {
		Records []record `json:"Records"`
	}
	record struct {
		EventVersion      string            `json:"eventVersion"`
		EventSource       string            `json:"eventSource"`
		Region            string            `json:"awsRegion"`
		Time              string            `json:"eventTime"`
		Name              string            `json:"eventName"`
		UserIdentity      identity          `json:"userIdentity"`
		RequestParameters map[string]string `json:"requestParameters"`
		ResponseElements  map[string]string `json:"responseElements"`
		S3                body              `json:"s3"`
	}
	identity struct {
		PrincipalID string `json:"principalId"`
	}
	body struct {
		SchemaVersion   string `json:"s3SchemaVersion"`
		ConfigurationID string `json:"configurationId"`
		Bucket          bucket `json:"bucket"`
		Object          object `json:"object"`
	}
	bucket struct {
		Name  string   `json:"name"`
		Owner identity `json:"ownerIdentity"`
		ARN   string   `json:"arn"`
	}
	object struct {
		Key       string `json:"key"`
		Size      int64  `json:"size"`
		ETag      string `json:"eTag"`
		Sequencer string `json:"sequencer"`
	}
)

const timeFormat = "2006-01-02T15:04:05.000Z"

// marshal makes the body of the message.
func (c created) marshal() (string, error) {
	doc, err := json.Marshal(message{Records: []record{{
		EventVersion: "2.1", EventSource: "aws:s3", Region: c.region, Name: c.name, Time: c.at.UTC().Format(timeFormat),
		UserIdentity:      identity{c.principal},
		RequestParameters: map[string]string{"sourceIPAddress": c.address},
		ResponseElements:  map[string]string{"x-amz-request-id": c.requestID, "x-amz-id-2": c.hostID},
		S3: body{
			SchemaVersion: "1.0", ConfigurationID: "spool-local",
			Bucket: bucket{Name: c.bucket, Owner: identity{c.principal}, ARN: "arn:aws:s3:::" + c.bucket},
			Object: object{Key: escapeKey(c.key), Size: c.size, ETag: c.etag, Sequencer: fmt.Sprintf("%016X", c.sequence)},
		},
	}}})
	return string(doc), err
}

// escapeKey encodes a key as S3 does in events: like a form value, so that a space is a plus, but slashes stay.
func escapeKey(key string) string {
	return strings.ReplaceAll(url.QueryEscape(key), "%2F", "/")
}

// testEvent is what S3 sends when a notification is configured.
func testEvent(bucket string, at time.Time) (string, error) {
	doc, err := json.Marshal(map[string]string{
		"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": at.UTC().Format(timeFormat),
		"Bucket": bucket, "RequestId": "spool-local", "HostId": "spool-local",
	})
	return string(doc), err
}
