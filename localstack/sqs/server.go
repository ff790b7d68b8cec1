// Package sqs is an SQS server for one machine: standard queues in memory, over HTTP, for clients that are meant
// for AWS. It is there because none that can be had as a Go library speaks the protocol of today's SDKs, and so that
// tests can ask the queue for what AWS only threatens: a message twice, a lost one, a reply that never comes.
//
// Requests come by AWS JSON 1.0 (X-Amz-Target: AmazonSQS.*), as every SDK since the end of 2023 speaks it, or by the
// older Query protocol with XML answers, as AWS CLI before 2.15 does. Both decode to the same requests and share
// everything behind them. Signatures (version 4) are checked. What a queue does is in internal/engine.
//
// What is AWS's and is not here: FIFO queues (refused), permissions and policies (kept, not enforced), encryption,
// the pause of 60 s before a deleted queue's name may be used again, and loss of order.
package sqs

import (
	"cmp"
	"io"
	"net/http"
	"sync"

	"github.com/google/uuid"

	"spool/localstack/sqs/internal/engine"
)

// Defaults of Config. The keys protect nothing: the server is for the loopback interface.
const (
	DefaultRegion    = "us-east-1"
	DefaultAccount   = "000000000000"
	DefaultAccessKey = "spool"
	DefaultSecretKey = "spool-local-secret"
)

// maxRequest bounds a request: a batch of MaxBytes with every byte escaped as \u00XX fits.
const maxRequest = 8 << 20

// Clock is what the queues know of time; signatures are always judged by the machine's clock.
type Clock = engine.Clock

// Counts are the messages of one queue.
type Counts = engine.Counts

// Config describes a Server. Zero values mean the defaults above, and the machine's clock.
type Config struct {
	Region    string
	Account   string // twelve digits
	AccessKey string
	SecretKey string
	Clock     Clock
}

// Server serves queues. All methods may be called concurrently.
type Server struct {
	engine *engine.Engine
	auth   authenticator

	mu     sync.Mutex
	before engine.Every // requests that fail undone
	after  engine.Every // requests that fail done
}

var _ http.Handler = (*Server)(nil)

// New makes a Server without queues.
func New(cfg Config) *Server {
	clock := cfg.Clock
	if clock == nil {
		clock = engine.SystemClock{}
	}
	region := cmp.Or(cfg.Region, DefaultRegion)
	return &Server{
		engine: engine.New(clock, region, cmp.Or(cfg.Account, DefaultAccount)),
		auth: authenticator{
			accessKey: cmp.Or(cfg.AccessKey, DefaultAccessKey),
			secretKey: cmp.Or(cfg.SecretKey, DefaultSecretKey),
		},
	}
}

// Close ends all long polls at once, and makes later ones short. Call it before http.Server.Shutdown, which would
// wait for them. It may be called twice.
func (s *Server) Close() { s.engine.Close() }

// CreateQueue makes a queue unless it exists; attributes as in the API, nil for the defaults.
func (s *Server) CreateQueue(name string, attributes map[string]string) error {
	return s.engine.CreateQueue(name, attributes, nil)
}

// Counts tells how many messages a queue holds, exactly and now.
func (s *Server) Counts(queue string) (Counts, error) { return s.engine.Counts(queue) }

// Faults are what goes wrong on purpose. Each number n hits every n-th of its kind: 0 never, 1 always.
type Faults struct {
	FailRequest       int // request: answered 500, nothing done
	FailReply         int // request: done, then answered 500 as if the reply was lost
	DropSend          int // message sent: answered with an id, but gone
	LoseMessage       int // message about to be delivered: gone instead
	DuplicateDelivery int // message delivered: stays visible too, and comes again
}

// SetFaults replaces the faults and counts from the start. The zero value ends them.
func (s *Server) SetFaults(f Faults) {
	s.engine.SetFaults(engine.Faults{Drop: f.DropSend, Lose: f.LoseMessage, Duplicate: f.DuplicateDelivery})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = engine.Every{N: f.FailRequest}, engine.Every{N: f.FailReply}
}

func (s *Server) fails(e *engine.Every) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.Hit()
}

// ServeHTTP answers one request of either protocol.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := protocolOf(r)
	id := uuid.NewString()
	w.Header().Set("x-amzn-RequestId", id)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		p.fail(w, &apiError{http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "", err.Error()}, id)
		return
	}
	result, err := s.serve(r, p, body)
	if err != nil {
		p.fail(w, asAPIError(err), id)
		return
	}
	p.answer(w, result, id)
}

func (s *Server) serve(r *http.Request, p protocol, body []byte) (any, error) {
	if err := s.auth.check(r, body); err != nil {
		return nil, err
	}
	action, decode, err := p.parse(r, body)
	if err != nil {
		return nil, err
	}
	op, ok := operations[action]
	if !ok {
		return nil, errUnknownAction(action)
	}
	if s.fails(&s.before) {
		return nil, errInternal("fault on purpose: the request was not done")
	}
	result, err := op(r.Context(), &call{Engine: s.engine, host: r.Host}, decode)
	if s.fails(&s.after) {
		return nil, errInternal("fault on purpose: the request was done")
	}
	return result, err
}
