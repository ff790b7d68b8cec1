package vllmsim

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// planner understands the body of a request to one endpoint.
type planner func(v voice, c *Config, body []byte) (*task, *Error)

// Endpoints are the paths that are answered, all that spool accepts.
func Endpoints() []string {
	return []string{
		"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/score", "/score",
		"/v1/rerank", "/v2/rerank", "/rerank", "/classify", "/pooling",
	}
}

// plannerOf is the planner of an endpoint, nil if there is none.
func plannerOf(path string) planner {
	switch path {
	case "/v1/chat/completions":
		return planChat
	case "/v1/completions":
		return planCompletion
	case "/v1/responses":
		return planResponses
	case "/v1/embeddings":
		return planEmbeddings
	case "/pooling":
		return planPooling
	case "/classify":
		return planClassify
	case "/v1/score", "/score":
		return planScore
	case "/v1/rerank", "/v2/rerank", "/rerank":
		return planRerank
	}
	return nil
}

// understand plans a request as an engine with this configuration does.
func (c *Config) understand(path string, body []byte) (*task, *Error) {
	plan := plannerOf(path)
	if plan == nil {
		return nil, &Error{Message: "Not Found", Type: "Not Found", Code: 404}
	}
	return plan(voiceOf(path, body), c, body)
}

// named is the member that all requests have; absent, null or empty it means the model that there is.
type named struct {
	Model string `json:"model"`
}

// serves refuses a model of another name. vLLM looks at it after the shape of the body.
func (c *Config) serves(n named) *Error {
	if names := c.names(); n.Model != "" && !slices.Contains(names, n.Model) {
		return unknownModel(n.Model, strings.Join(names, ", "))
	}
	return nil
}

func absent(v jsontext.Value) bool { return len(v) == 0 || v.Kind() == 'n' }

// decode reads a body, with pydantic's complaints.
func decode(body []byte, v any) *Error {
	err := unmarshal(body, v)
	if err == nil {
		return nil
	}
	if len(body) == 0 {
		return invalid("missing", "body", "Field required", "None")
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return invalid("json_invalid", fmt.Sprintf("body.%d", syntax.ByteOffset), "JSON decode error", "<dict of 0 items>")
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		if semantic.JSONPointer == "" {
			return invalid("model_attributes_type", "body", "Input should be a valid dictionary or object to extract fields from", "<value>")
		}
		loc := "body" + strings.ReplaceAll(string(semantic.JSONPointer), "/", ".")
		kind := semantic.GoType.Kind().String()
		return invalid(kind+"_type", loc, "Input should be a valid "+kind, "<value>")
	}
	return invalid("json_invalid", "body", "JSON decode error", "<value>")
}

// quote is s as JSON; invalid UTF-8 is replaced.
func quote(s string) jsontext.Value {
	v, _ := jsontext.AppendQuote(nil, s)
	return v
}
