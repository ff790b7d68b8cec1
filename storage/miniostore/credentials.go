package miniostore

import (
	"context"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// provider hands the credentials that the AWS configuration found to minio-go, so that both drivers are
// configured alike.
type provider struct {
	from aws.CredentialsProvider // it caches, and refreshes in time

	mu      sync.Mutex
	expires time.Time // of those handed out last; zero: never
}

var _ credentials.Provider = (*provider)(nil)

// RetrieveWithCredContext has no context to offer: minio-go waits for it, and gives up by itself.
func (p *provider) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return p.Retrieve()
}

// Retrieve gets credentials that are valid now.
func (p *provider) Retrieve() (credentials.Value, error) {
	c, err := p.from.Retrieve(context.Background())
	if err != nil {
		return credentials.Value{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expires = time.Time{}
	if c.CanExpire {
		p.expires = c.Expires
	}
	return credentials.Value{
		AccessKeyID:     c.AccessKeyID,
		SecretAccessKey: c.SecretAccessKey,
		SessionToken:    c.SessionToken,
		Expiration:      p.expires,
		SignerType:      credentials.SignatureV4,
	}, nil
}

// IsExpired reports whether it is time to ask again.
func (p *provider) IsExpired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.expires.IsZero() && time.Now().After(p.expires)
}
