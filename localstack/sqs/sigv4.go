package sqs

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	signAlgorithm  = "AWS4-HMAC-SHA256"
	signTimeFormat = "20060102T150405Z"
	maxClockSkew   = 15 * time.Minute // as AWS has it for SigV4
)

// authenticator checks signatures by making them anew with the SDK's own signer.
type authenticator struct{ accessKey, secretKey string }

// authorization is a taken apart Authorization header:
// AWS4-HMAC-SHA256 Credential=KEY/20260102/us-east-1/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature=hex
type authorization struct {
	accessKey, date, region, service string
	signedHeaders                    []string
	signature                        string
}

func parseAuthorization(header string) (authorization, bool) {
	rest, ok := strings.CutPrefix(header, signAlgorithm+" ")
	if !ok {
		return authorization{}, false
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || fields["Signature"] == "" {
		return authorization{}, false
	}
	return authorization{
		accessKey: scope[0], date: scope[1], region: scope[2], service: scope[3],
		signedHeaders: strings.Split(fields["SignedHeaders"], ";"),
		signature:     fields["Signature"],
	}, true
}

// check returns an error unless r is signed with the key. Any region will do.
func (a authenticator) check(r *http.Request, body []byte) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return &apiError{http.StatusForbidden, "MissingAuthenticationTokenException", "MissingAuthenticationToken",
			"Request is missing Authentication Token"}
	}
	auth, ok := parseAuthorization(header)
	if !ok {
		return &apiError{http.StatusBadRequest, "IncompleteSignatureException", "IncompleteSignature",
			"The Authorization header is not of the form of " + signAlgorithm}
	}
	if auth.accessKey != a.accessKey {
		return &apiError{http.StatusForbidden, "UnrecognizedClientException", "InvalidClientTokenId",
			"The security token included in the request is invalid."}
	}
	at, err := time.Parse(signTimeFormat, r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > maxClockSkew {
		return errSignature("Signature expired or without date: the clocks of client and server are apart.")
	}
	want, err := a.sign(r, body, auth, at)
	if err != nil {
		return errSignature(err.Error())
	}
	if subtle.ConstantTimeCompare([]byte(want), []byte(auth.signature)) != 1 {
		return errSignature("The request signature we calculated does not match the signature you provided. " +
			"Check your AWS Secret Access Key and signing method.")
	}
	return nil
}

func errSignature(message string) *apiError {
	return &apiError{http.StatusForbidden, "InvalidSignatureException", "SignatureDoesNotMatch", message}
}

// sign returns the signature that r should carry, made over those headers that its sender signed.
func (a authenticator) sign(r *http.Request, body []byte, auth authorization, at time.Time) (string, error) {
	again := &http.Request{
		Method: r.Method, Host: r.Host, Header: http.Header{},
		URL: &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery},
	}
	for _, name := range auth.signedHeaders {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	creds := aws.Credentials{AccessKeyID: a.accessKey, SecretAccessKey: a.secretKey}
	err := v4.NewSigner().SignHTTP(r.Context(), creds, again, hex.EncodeToString(sum[:]), auth.service, auth.region, at)
	if err != nil {
		return "", err
	}
	made, _ := parseAuthorization(again.Header.Get("Authorization"))
	return made.signature, nil
}
