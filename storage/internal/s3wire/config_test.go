package s3wire_test

import (
	"strings"
	"testing"

	"spool/storage/internal/gwtest"
	"spool/storage/internal/s3wire"
)

func TestResolveFillsGapsFromTheEnvironment(t *testing.T) {
	yes, no := true, false
	tests := map[string]struct {
		cfg       s3wire.Config
		env       map[string]string
		endpoint  string
		region    string
		pathStyle bool
		crc32     bool
		plain     bool
	}{
		"AWS":                    {region: "us-east-1", crc32: true},
		"AWS, region given":      {cfg: s3wire.Config{Region: "eu-west-1"}, region: "eu-west-1", crc32: true},
		"AWS, path style":        {cfg: s3wire.Config{PathStyle: &yes}, region: "us-east-1", pathStyle: true, crc32: true},
		"AWS, no checksums":      {cfg: s3wire.Config{Checksums: "when-required"}, region: "us-east-1"},
		"endpoint given":         {cfg: s3wire.Config{Endpoint: "http://127.0.0.1:9000"}, endpoint: "http://127.0.0.1:9000", region: "us-east-1", pathStyle: true, plain: true},
		"endpoint of S3":         {env: map[string]string{"AWS_ENDPOINT_URL_S3": "https://r2.example"}, endpoint: "https://r2.example", region: "us-east-1", pathStyle: true},
		"endpoint of all":        {env: map[string]string{"AWS_ENDPOINT_URL": "https://all.example"}, endpoint: "https://all.example", region: "us-east-1", pathStyle: true},
		"host style":             {cfg: s3wire.Config{Endpoint: "https://r2.example", PathStyle: &no}, endpoint: "https://r2.example", region: "us-east-1"},
		"checksums":              {cfg: s3wire.Config{Endpoint: "https://r2.example", Checksums: "when-supported"}, endpoint: "https://r2.example", region: "us-east-1", pathStyle: true, crc32: true},
		"endpoint and no region": {cfg: s3wire.Config{Endpoint: "https://r2.example"}, env: map[string]string{"AWS_REGION": ""}, endpoint: "https://r2.example", region: "us-east-1", pathStyle: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			gwtest.Server{}.Setenv(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			tc.cfg.Bucket = "b"
			r, err := s3wire.Resolve(t.Context(), tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			endpoint := ""
			if r.Endpoint != nil {
				endpoint = r.Endpoint.String()
			}
			if endpoint != tc.endpoint || r.AWS.Region != tc.region || r.PathStyle != tc.pathStyle || r.CRC32 != tc.crc32 || r.PlainHTTP() != tc.plain {
				t.Errorf("endpoint %q, region %q, path style %v, CRC32 %v, plain %v", endpoint, r.AWS.Region, r.PathStyle, r.CRC32, r.PlainHTTP())
			}
		})
	}
}

func TestResolveRefusesWhatCannotWork(t *testing.T) {
	tests := map[string]struct {
		cfg  s3wire.Config
		env  map[string]string
		want string
	}{
		"no bucket":       {want: "bucket"},
		"no region":       {cfg: s3wire.Config{Bucket: "b"}, env: map[string]string{"AWS_REGION": ""}, want: "region"},
		"no credentials":  {cfg: s3wire.Config{Bucket: "b"}, env: map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}, want: "credentials"},
		"endpoint path":   {cfg: s3wire.Config{Bucket: "b", Endpoint: "http://host/b"}, want: "endpoint"},
		"endpoint scheme": {cfg: s3wire.Config{Bucket: "b", Endpoint: "host:9000"}, want: "endpoint"},
		"checksums":       {cfg: s3wire.Config{Bucket: "b", Checksums: "always"}, want: "checksums"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			gwtest.Server{}.Setenv(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			if _, err := s3wire.Resolve(t.Context(), tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %s", err, tc.want)
			}
		})
	}
}
