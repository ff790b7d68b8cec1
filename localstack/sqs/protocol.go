package sqs

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/url"
	"strings"

	"spool/localstack/sqs/internal/engine"
)

// protocol turns requests into operations, and results and errors into answers.
type protocol interface {
	// parse names the operation and returns what decodes its request.
	parse(r *http.Request, body []byte) (action string, decode func(request any) error, err error)
	answer(w http.ResponseWriter, result any, requestID string)
	fail(w http.ResponseWriter, err *apiError, requestID string)
}

var (
	_ protocol = jsonProtocol{}
	_ protocol = (*queryProtocol)(nil)
)

const targetPrefix = "AmazonSQS."

func protocolOf(r *http.Request) protocol {
	if strings.HasPrefix(r.Header.Get("X-Amz-Target"), targetPrefix) {
		return jsonProtocol{}
	}
	return &queryProtocol{}
}

// jsonProtocol is AWS JSON 1.0 (smithy.io, "AWS JSON 1.0 protocol"), with the header that clients of the Query
// protocol know errors by (trait awsQueryCompatible).
type jsonProtocol struct{}

func (jsonProtocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), targetPrefix)
	return action, func(request any) error {
		if err := json.Unmarshal(body, request); err != nil {
			return errMalformed(err)
		}
		return nil
	}, nil
}

func (jsonProtocol) answer(w http.ResponseWriter, result any, _ string) {
	writeJSON(w, http.StatusOK, result)
}

// modelled tells the errors of the service's own model from those that all services share.
func modelled(shape string) bool {
	return !strings.HasSuffix(shape, "Exception") || shape == string(engine.CodeNoResource)
}

func (jsonProtocol) fail(w http.ResponseWriter, err *apiError, _ string) {
	shape := "com.amazonaws.sqs#" + err.shape
	if !modelled(err.shape) {
		shape = "com.amazon.coral.service#" + err.shape
	}
	w.Header().Set("x-amzn-query-error", err.queryCode()+";"+err.fault())
	writeJSON(w, err.status, map[string]string{"__type": shape, "message": err.message})
}

// writeJSON answers. Results hold only strings, numbers and bytes, which always marshal; a client that went away
// before the write is nobody's to report to.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"__type":"com.amazonaws.sqs#InternalFailure"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// queryProtocol is AWS Query with XML answers (smithy.io, "AWS Query protocol"). It serves one request.
type queryProtocol struct{ action string }

const queryNamespace = "http://queue.amazonaws.com/doc/2012-11-05/"

func (p *queryProtocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return "", nil, errMalformed(err)
	}
	for name, values := range r.URL.Query() {
		form[name] = append(form[name], values...)
	}
	p.action = form.Get("Action")
	return p.action, func(request any) error { return decodeForm(form, request) }, nil
}

func (p *queryProtocol) answer(w http.ResponseWriter, result any, requestID string) {
	response := xml.StartElement{
		Name: xml.Name{Local: p.action + "Response"},
		Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: queryNamespace}},
	}
	writeXML(w, http.StatusOK, response, queryResponse{
		Result: queryResult{name: p.action + "Result", value: result}, RequestID: requestID,
	})
}

type queryResponse struct {
	Result    queryResult
	RequestID string `xml:"ResponseMetadata>RequestId"`
}

// queryResult is an element whose name depends on the operation.
type queryResult struct {
	name  string
	value any
}

func (q queryResult) MarshalXML(e *xml.Encoder, _ xml.StartElement) error {
	return e.EncodeElement(q.value, xml.StartElement{Name: xml.Name{Local: q.name}})
}

func (p *queryProtocol) fail(w http.ResponseWriter, err *apiError, requestID string) {
	type body struct {
		Type    string `xml:"Error>Type"`
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
		ID      string `xml:"RequestId"`
	}
	start := xml.StartElement{Name: xml.Name{Local: "ErrorResponse"}}
	writeXML(w, err.status, start, body{err.fault(), err.queryCode(), err.message, requestID})
}

func writeXML(w http.ResponseWriter, status int, start xml.StartElement, v any) {
	var out strings.Builder
	out.WriteString(xml.Header)
	if err := xml.NewEncoder(&out).EncodeElement(v, start); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(out.String()))
}
