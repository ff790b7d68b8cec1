package vllm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// MaxBody bounds the answer that Do reads: an answer larger than this is an error of the request. It
// leaves room for thousands of choices with log probabilities.
const MaxBody = 256 << 20

// idleTimeout is how long a connection may rest before it is closed by us: vLLM closes at 5 s
// (VLLM_HTTP_TIMEOUT_KEEP_ALIVE), and who writes into a closing connection sees a reset.
const idleTimeout = 3 * time.Second

// Options of a Client. The zero value is good.
type Options struct {
	APIKey  string // sent as a bearer token if not ""; never logged
	MaxIdle int    // connections kept, at least the requests in flight; default 4096
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	base   url.URL
	name   string
	apiKey string
	http   *http.Transport
	blank  http.Request // what requests are copied from
}

// NewClient makes a client of origin: http://host:port or https://host, where a trailing /v1 is taken
// off, or unix:///path/of/a/socket. It does not connect.
func NewClient(origin string, opt Options) (*Client, error) {
	u, err := url.Parse(strings.TrimRight(origin, "/"))
	if err != nil {
		return nil, fmt.Errorf("engine url %q: %w", origin, err)
	}
	if opt.MaxIdle == 0 {
		opt.MaxIdle = 4096
	}
	t := &http.Transport{
		MaxIdleConns:        opt.MaxIdle,
		MaxIdleConnsPerHost: opt.MaxIdle,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		Proxy:               http.ProxyFromEnvironment,
	}
	c := &Client{
		name: u.Redacted(), apiKey: opt.APIKey, http: t,
		blank: http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1},
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("engine url %q: want unix:///absolute/path", origin)
		}
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", u.Path)
		}
		c.base = url.URL{Scheme: "http", Host: "engine"}
	case "http", "https":
		if u.Host == "" {
			return nil, fmt.Errorf("engine url %q: no host", origin)
		}
		u.Path = strings.TrimSuffix(u.Path, "/v1")
		c.base = *u
	default:
		return nil, fmt.Errorf("engine url %q: want http://host:port, https://host or unix:///path", origin)
	}
	return c, nil
}

// Name is the origin, without secrets.
func (c *Client) Name() string { return c.name }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Request is one call.
type Request struct {
	Path   string      // "/v1/chat/completions"
	Body   []byte      // sent as it is
	ID     string      // X-Request-Id, which vLLM makes its own request id
	Header http.Header // more headers, may be nil
}

// Do asks once and says what came of it. It never fails otherwise than by Answer.Outcome. ctx bounds
// the call; a call that ctx ends frees the slot in vLLM.
func (c *Client) Do(ctx context.Context, r Request) Answer {
	resp, err := c.send(ctx, r)
	if err != nil {
		return transportAnswer(ctx, err)
	}
	defer resp.Body.Close()
	body, err := readBody(resp)
	if err != nil {
		return transportAnswer(ctx, err)
	}
	return classify(resp, body)
}

func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	req, err := c.newRequest(ctx, http.MethodPost, r.Path, r.Body)
	if err != nil {
		return nil, err
	}
	for k, v := range r.Header {
		req.Header[k] = v
	}
	req.Header["Content-Type"] = []string{"application/json"}
	if r.ID != "" {
		req.Header["X-Request-Id"] = []string{r.ID}
	}
	return c.http.RoundTrip(req)
}

// newRequest builds the request by hand of a URL that was parsed once.
func (c *Client) newRequest(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	u := c.base
	u.Path += path
	req := c.blank.WithContext(ctx)
	req.Method, req.URL, req.Host, req.Header = method, &u, u.Host, make(http.Header, 4)
	if body != nil {
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
		// GetBody lets the transport send again on a connection that the server had closed unused.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	if c.apiKey != "" {
		req.Header["Authorization"] = []string{"Bearer " + c.apiKey}
	}
	return req, ctx.Err()
}

var errTooLarge = errors.New("answer is larger than 256 MiB")

// readBody reads to the end, so that the connection can be used again. Servers mostly announce the length.
func readBody(resp *http.Response) ([]byte, error) {
	if n := resp.ContentLength; n > MaxBody {
		return nil, errTooLarge
	} else if n >= 0 {
		body := make([]byte, n)
		_, err := io.ReadFull(resp.Body, body)
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err == nil && len(body) > MaxBody {
		err = errTooLarge
	}
	return body, err
}

// Healthy asks GET /health; nil means 200, or that the server has no such route. It says little: vLLM
// answers 200 while its engine hangs.
func (c *Client) Healthy(ctx context.Context) error {
	status, _, err := c.get(ctx, "/health")
	if err != nil {
		return fmt.Errorf("ask %s/health: %w", c.name, err)
	}
	if status == http.StatusOK || status == http.StatusNotFound {
		return nil
	}
	return fmt.Errorf("ask %s/health: status %d", c.name, status)
}

// ErrNoModels says that a server has no list of models.
var ErrNoModels = errors.New("the server has no /v1/models")

// Models asks GET /v1/models for the names that the server answers to.
func (c *Client) Models(ctx context.Context) ([]string, error) {
	cards, err := c.Cards(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(cards))
	for i, m := range cards {
		names[i] = m.ID
	}
	return names, nil
}

// Card is a name under which a server answers.
type Card struct {
	ID          string `json:"id"`
	MaxModelLen int    `json:"max_model_len"` // tokens of prompt and answer together; 0 if the server does not say
}

// Cards asks GET /v1/models. It fails with ErrNoModels if the server has no list.
func (c *Client) Cards(ctx context.Context) ([]Card, error) {
	status, body, err := c.get(ctx, "/v1/models")
	if err != nil {
		return nil, fmt.Errorf("ask %s/v1/models: %w", c.name, err)
	}
	if status == http.StatusNotFound {
		return nil, ErrNoModels
	}
	if status != http.StatusOK {
		return nil, quoted{fmt.Errorf("ask %s/v1/models: status %d: %.200s", c.name, status, body)}
	}
	var list struct {
		Data []Card `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("ask %s/v1/models: %w", c.name, err)
	}
	return list.Data, nil
}

// Version asks GET /version, and gives "" if the server does not say.
func (c *Client) Version(ctx context.Context) string {
	status, body, err := c.get(ctx, "/version")
	var v struct {
		Version string `json:"version"`
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &v) != nil {
		return ""
	}
	return v.Version
}

func (c *Client) get(ctx context.Context, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := c.newRequest(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = readBody(resp)
	return resp.StatusCode, body, err
}
