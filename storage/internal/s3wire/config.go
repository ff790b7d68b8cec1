// Package s3wire is what the two S3 drivers must agree on: their configuration, resolved once from the
// same environment, and the table that makes error kinds of what S3 answers. The requests
// themselves each driver makes with its own SDK, so that one keeps the other honest.
package s3wire

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"spool/storage"
)

// Values of Config.Checksums, which says when requests carry S3's additional checksums and answers are
// checked for them.
const (
	ChecksumsAuto          = ""               // when supported on AWS, when required elsewhere: R2 and others refuse the headers
	ChecksumsWhenSupported = "when-supported" // CRC32 on each write, verified on each read
	ChecksumsWhenRequired  = "when-required"
)

// Config says which bucket to use and how. All but Bucket may be left out: region, endpoint
// and credentials then come from the environment and the files that all AWS tools read.
type Config struct {
	Bucket     string
	Region     string        // else AWS_REGION and the profile; us-east-1 for a custom endpoint
	Endpoint   string        // else AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the profile; else AWS itself
	PathStyle  *bool         // nil: with a custom endpoint
	Checksums  string        // "when-supported", "when-required", or "": the first on AWS, the second elsewhere
	Retry      storage.Retry // for the requests of an Upload; all else is WithRetry's
	HTTPClient *http.Client  // nil: one of its own, without time-outs, which are WithRetry's
}

// Resolved is a Config without gaps.
type Resolved struct {
	Config
	AWS       aws.Config // with region and credentials
	Endpoint  *url.URL   // nil: AWS itself
	PathStyle bool
	CRC32     bool // send and verify checksums
}

// PlainHTTP reports whether requests go over the wire as they are.
func (r *Resolved) PlainHTTP() bool { return r.Endpoint != nil && r.Endpoint.Scheme == "http" }

// Resolve fills the gaps of cfg, and retrieves the credentials once, so that it is here that absent
// ones are noticed, and not after the patience of a retry layer.
func Resolve(ctx context.Context, cfg Config) (*Resolved, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("bucket: must not be empty")
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = newHTTPClient()
	}
	r := &Resolved{Config: cfg}
	var err error
	r.AWS, err = config.LoadDefaultConfig(ctx) // with its own client, whose short time-outs suit the metadata service
	if err != nil {
		return nil, fmt.Errorf("load AWS configuration: %w", err)
	}
	if r.Endpoint, err = endpoint(cfg, r.AWS); err != nil {
		return nil, err
	}
	custom := r.Endpoint != nil
	if cfg.Region != "" {
		r.AWS.Region = cfg.Region
	}
	if r.AWS.Region == "" {
		if !custom {
			return nil, errors.New("region: neither given nor in the environment (AWS_REGION)")
		}
		r.AWS.Region = "us-east-1"
	}
	r.PathStyle = custom
	if cfg.PathStyle != nil {
		r.PathStyle = *cfg.PathStyle
	}
	switch cfg.Checksums {
	case ChecksumsAuto:
		r.CRC32 = !custom
	case ChecksumsWhenSupported:
		r.CRC32 = true
	case ChecksumsWhenRequired:
	default:
		return nil, fmt.Errorf("checksums %q: must be %q or %q", cfg.Checksums, ChecksumsWhenSupported, ChecksumsWhenRequired)
	}
	if _, err := r.AWS.Credentials.Retrieve(ctx); err != nil {
		return nil, fmt.Errorf("find AWS credentials: %w", err)
	}
	return r, nil
}

// endpoint is the one given or that of the environment, which only a service client knows to read.
func endpoint(cfg Config, from aws.Config) (*url.URL, error) {
	raw := cfg.Endpoint
	if raw == "" {
		raw = aws.ToString(s3.NewFromConfig(from).Options().BaseEndpoint)
	}
	if raw == "" {
		return nil, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("parse endpoint: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("endpoint %q: must be http://host[:port] or https://host[:port]", raw)
	}
	return u, nil
}

// idlePerHost is how many connections are kept: the default of 2 makes every burst dial anew.
const idlePerHost = 64

func newHTTPClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns = 0 // no bound but that per host
	t.MaxIdleConnsPerHost = idlePerHost
	t.DisableCompression = true // an object that is stored compressed is handed out as it is
	return &http.Client{Transport: t}
}
