// Package infra_test checks what infra holds: that the IAM policies allow what spool does and nothing more,
// by evaluating them, and that the container images are built the way the rest of the project expects.
package infra_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What the placeholders of the policies stand for in these tests.
const (
	bucket  = "spool"
	region  = "eu-central-1"
	account = "123456789012"
	pool    = "default"
)

// policy is an IAM policy document, with the elements that are used here: decoding refuses others, so that
// none is ever ignored.
type policy struct {
	Version   string
	Statement []statement
}

type statement struct {
	Sid       string
	Effect    string
	Principal json.RawMessage // of resource policies: "*" or {"Service": "…"}
	Action    list
	Resource  list
	Condition map[string]map[string]list // operator, key, values
}

// list is a string or a list of strings.
type list []string

func (l *list) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = make(list, 1)
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// request is one thing that somebody wants to do, as AWS sees it.
type request struct {
	service  string // the principal is this AWS service; "": a user or role of the account
	action   string
	resource string
	context  map[string]string // condition keys that are present
}

// evaluate follows AWS's rule for one account: an explicit deny wins, then an explicit allow, else it is
// denied. identity are the policies of the caller, resource those of the bucket or queue.
func evaluate(r request, identity, resource []policy) (allowed bool, why string, err error) {
	for i, p := range slices.Concat(identity, resource) {
		for _, s := range p.Statement {
			ok, err := s.applies(r, i >= len(identity))
			switch {
			case err != nil:
				return false, "", fmt.Errorf("statement %q: %w", s.Sid, err)
			case ok && s.Effect == "Deny":
				return false, "denied by " + s.Sid, nil
			case ok:
				allowed, why = true, "allowed by "+s.Sid
			}
		}
	}
	if !allowed {
		why = "allowed by nothing"
	}
	return allowed, why, nil
}

func (s statement) applies(r request, hasPrincipal bool) (bool, error) {
	if hasPrincipal {
		ok, err := s.isPrincipal(r)
		if !ok || err != nil {
			return false, err
		}
	}
	// Actions are compared without regard to case, resources with.
	action := func(pattern string) bool { return like(strings.ToLower(pattern), strings.ToLower(r.action)) }
	resource := func(pattern string) bool { return like(pattern, r.resource) }
	if !slices.ContainsFunc(s.Action, action) || !slices.ContainsFunc(s.Resource, resource) {
		return false, nil
	}
	for operator, keys := range s.Condition { // all of them, each with any of its values
		for key, values := range keys {
			ok, err := holds(operator, values, r.context, key)
			if !ok || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

func (s statement) isPrincipal(r request) (bool, error) {
	if string(s.Principal) == `"*"` {
		return true, nil
	}
	var p struct{ Service string }
	if err := strict(s.Principal, &p); err != nil {
		return false, fmt.Errorf("principal %s: %w", s.Principal, err)
	}
	return p.Service == r.service, nil
}

// holds evaluates one key of a condition. A key that is absent from the request matches nothing but Null.
func holds(operator string, values list, context map[string]string, key string) (bool, error) {
	got, present := context[key]
	matches := func(match func(want string) bool) bool { return present && slices.ContainsFunc(values, match) }
	switch operator {
	case "StringEquals":
		return matches(func(want string) bool { return got == want }), nil
	case "StringLike", "ArnEquals", "ArnLike": // the two last ones are the same, and know wildcards
		return matches(func(want string) bool { return like(want, got) }), nil
	case "Bool":
		return matches(func(want string) bool { return strings.EqualFold(got, want) }), nil
	case "Null":
		absent, err := strconv.ParseBool(strings.Join(values, ","))
		return absent == !present, err
	}
	return false, fmt.Errorf("condition operator %q is not known to this test", operator)
}

// like matches with the wildcards of IAM: * is any run of characters, slashes too, and ? any one.
func like(pattern, s string) bool {
	expr := regexp.QuoteMeta(pattern)
	expr = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(expr)
	return regexp.MustCompile(`(?s)^` + expr + `$`).MatchString(s)
}

// readTemplate reads a file with its placeholders filled in.
func readTemplate(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("aws", name))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"BUCKET": bucket, "REGION": region, "ACCOUNT": account, "POOL": pool}
	return []byte(os.Expand(string(body), func(key string) string {
		value, ok := values[key]
		if !ok {
			t.Errorf("%s has the placeholder ${%s}, which README.md does not fill in", name, key)
		}
		return value
	}))
}

func readPolicy(t *testing.T, name string) policy {
	t.Helper()
	var p policy
	if err := strict(readTemplate(t, name), &p); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

// strict decodes exactly one JSON value without unknown members.
func strict(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return fmt.Errorf("more than one value")
	}
	return nil
}

func TestEvaluatorFollowsTheRulesOfIAM(t *testing.T) {
	allow := statement{Sid: "allow", Effect: "Allow", Action: list{"s3:Get*"}, Resource: list{"arn:aws:s3:::b/in/*"}}
	deny := statement{
		Sid: "deny", Effect: "Deny", Principal: json.RawMessage(`"*"`), Action: list{"s3:*"}, Resource: list{"*"},
		Condition: map[string]map[string]list{"Null": {"k1": {"true"}, "k2": {"true"}}, "Bool": {"on": {"true"}}},
	}
	identity := []policy{{Statement: []statement{allow}}}
	resource := []policy{{Statement: []statement{deny}}}
	tests := []struct {
		name string
		r    request
		want bool
	}{
		{"a wildcard crosses slashes", request{action: "s3:GetObject", resource: "arn:aws:s3:::b/in/x/y"}, true},
		{"actions have no case", request{action: "S3:getobject", resource: "arn:aws:s3:::b/in/x"}, true},
		{"resources have case", request{action: "s3:GetObject", resource: "arn:aws:s3:::b/IN/x"}, false},
		{"a prefix is not a match", request{action: "s3:GetObject", resource: "arn:aws:s3:::b/in"}, false},
		{"nothing allows it", request{action: "s3:PutObject", resource: "arn:aws:s3:::b/in/x"}, false},
		{"deny wins", request{action: "s3:GetObject", resource: "arn:aws:s3:::b/in/x", context: map[string]string{"on": "true"}}, false},
		{"all keys of a condition must hold", request{
			action: "s3:GetObject", resource: "arn:aws:s3:::b/in/x",
			context: map[string]string{"on": "true", "k2": "present"},
		}, true},
		{"all operators of a condition must hold", request{
			action: "s3:GetObject", resource: "arn:aws:s3:::b/in/x",
			context: map[string]string{"on": "false"},
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, why, err := evaluate(tt.r, identity, resource)
			if got != tt.want || err != nil {
				t.Errorf("allowed = %t (%s), %v; want %t", got, why, err, tt.want)
			}
		})
	}
}
