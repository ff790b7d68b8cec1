// Package pushgateway is a Prometheus Pushgateway in memory, for one machine: enough of it that client_golang's push
// package, curl, a Prometheus and a reaper find what they would find at the real one. The real one cannot be had as
// a library.
//
// As there, a group is the set of labels in the URL. PUT replaces a group, POST those of its metrics that are named in
// the body, DELETE drops it. What would make GET /metrics inconsistent (one name with two types, one series twice, a
// timestamp) is refused with 400 and leaves the group as it was, but for push_failure_time_seconds.
//
// Not here: persistence, the web page, the admin API, compressed bodies.
package pushgateway

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// maxBody bounds a push.
const maxBody = 64 << 20

// The metrics that every group has of its own.
const (
	pushTime    = "push_time_seconds"
	failureTime = "push_failure_time_seconds"
)

// Server keeps what was pushed. All methods may be called concurrently.
type Server struct {
	now     func() time.Time
	metrics http.Handler

	mu     sync.Mutex
	groups map[string]*group
}

var (
	_ http.Handler        = (*Server)(nil)
	_ prometheus.Gatherer = (*Server)(nil)
)

// New makes a Server without groups. now is the clock; nil means that of the machine.
func New(now func() time.Time) *Server {
	if now == nil {
		now = time.Now
	}
	s := &Server{now: now, groups: map[string]*group{}}
	s.metrics = promhttp.HandlerFor(s, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return s
}

// Gather returns all that was pushed.
func (s *Server) Gather() ([]*dto.MetricFamily, error) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.groups))
	s.mu.Unlock()
	return gather(all)
}

// ServeHTTP serves /metrics, /metrics/job/…, /api/v1/metrics, /-/ready and /-/healthy.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	rest, group := strings.CutPrefix(path, "/metrics/")
	switch {
	case group:
		s.serveGroup(w, r, rest)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case path == "/metrics":
		s.metrics.ServeHTTP(w, r)
	case path == "/api/v1/metrics":
		s.serveAPI(w)
	case path == "/-/ready", path == "/-/healthy":
		_, _ = io.WriteString(w, "OK\n")
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveGroup(w http.ResponseWriter, r *http.Request, path string) {
	labels, err := parsePath(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch r.Method {
	case http.MethodPut, http.MethodPost:
		families, err := decode(http.MaxBytesReader(w, r.Body, maxBody), r.Header, labels)
		if err := s.push(labels, families, err, r.Method == http.MethodPut); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	case http.MethodDelete:
		s.mu.Lock()
		delete(s.groups, key(labels))
		s.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	default:
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

// decode reads a push and puts the labels of its group on every metric. What is not said to be protobuf or OpenMetrics
// is taken for text, so that curl needs no header.
func decode(body io.Reader, header http.Header, labels map[string]string) (map[string]*dto.MetricFamily, error) {
	decoder := expfmt.NewDecoder(body, expfmt.ResponseFormat(header))
	families := map[string]*dto.MetricFamily{}
	for {
		f := &dto.MetricFamily{}
		if err := decoder.Decode(f); errors.Is(err, io.EOF) {
			return families, nil
		} else if err != nil {
			return nil, fmt.Errorf("parse metrics: %w", err)
		}
		if families[f.GetName()] != nil {
			return nil, fmt.Errorf("metric %s is there twice", f.GetName())
		}
		if f.GetName() == pushTime || f.GetName() == failureTime {
			return nil, fmt.Errorf("metric %s is the gateway's own", f.GetName())
		}
		for _, m := range f.Metric {
			if m.TimestampMs != nil {
				return nil, fmt.Errorf("metric %s has a timestamp: pushed metrics must not", f.GetName())
			}
			setLabels(m, labels)
		}
		if f.Help == nil {
			f.Help = new("") // as registries have it
		}
		families[f.GetName()] = f
	}
}

// push puts families into a group, or notes the failure if there is an error already or they do not fit to the others.
func (s *Server) push(labels map[string]string, families map[string]*dto.MetricFamily, err error, replace bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := key(labels)
	old := s.groups[id]
	if old == nil {
		old = &group{labels: labels}
	}
	next := &group{labels: labels, families: map[string]*dto.MetricFamily{}, pushed: s.now(), failed: old.failed}
	if !replace {
		maps.Copy(next.families, old.families)
	}
	for name, f := range families {
		next.families[name] = s.sameHelp(f)
	}
	if err == nil {
		_, err = gather(append(s.others(id), next))
	}
	if err != nil {
		next = &group{labels: labels, families: old.families, pushed: old.pushed, failed: s.now()}
	}
	s.groups[id] = next
	return err
}

// sameHelp gives f the help text that its name has in another group: one name can have one only, and the first wins.
func (s *Server) sameHelp(f *dto.MetricFamily) *dto.MetricFamily {
	for _, g := range s.groups {
		if other := g.families[f.GetName()]; other != nil {
			f.Help = other.Help
		}
	}
	return f
}

func (s *Server) others(id string) []*group {
	var others []*group
	for other, g := range s.groups {
		if other != id {
			others = append(others, g)
		}
	}
	return others
}
