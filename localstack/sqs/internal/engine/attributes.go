package engine

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
)

// numeric are the attributes of a queue that are numbers, with their bounds and defaults.
// (SQS API reference, SetQueueAttributes.)
var numeric = map[string]struct{ min, max, def int }{ //nolint:gochecknoglobals // never written
	"DelaySeconds":                  {0, maxDelaySeconds, 0},
	"MaximumMessageSize":            {1 << 10, MaxBytes, MaxBytes},
	"MessageRetentionPeriod":        {60, 14 * 86400, 4 * 86400},
	"ReceiveMessageWaitTimeSeconds": {0, maxWaitSeconds, 0},
	"VisibilityTimeout":             {0, maxVisibleSeconds, 30},
	"KmsDataKeyReusePeriodSeconds":  {60, 86400, 300},
}

// textual are the attributes that are kept and given back, but for RedrivePolicy without effect here.
var textual = map[string]bool{ //nolint:gochecknoglobals // never written
	"RedrivePolicy": true, "RedriveAllowPolicy": true, "Policy": true,
	"KmsMasterKeyId": true, "SqsManagedSseEnabled": true,
}

// settings are the attributes of a queue that a client can set.
type settings struct {
	numbers map[string]int
	texts   map[string]string
	redrive redrivePolicy
}

// redrivePolicy says where messages go that were received max times. Zero: nowhere.
type redrivePolicy struct {
	target string // name of the dead-letter queue
	max    int
}

// with returns s with attrs set over it; s itself is not changed. The values must be valid.
func (s settings) with(attrs map[string]string, e *Engine) (settings, error) {
	next := settings{numbers: maps.Clone(s.numbers), texts: maps.Clone(s.texts), redrive: s.redrive}
	if next.numbers == nil {
		next.numbers = map[string]int{}
		next.texts = map[string]string{"SqsManagedSseEnabled": "true"} // the default of AWS since 2022
		for name, n := range numeric {
			next.numbers[name] = n.def
		}
	}
	for name, value := range attrs {
		if err := next.set(name, value, e); err != nil {
			return settings{}, err
		}
	}
	return next, nil
}

func (s *settings) set(name, value string, e *Engine) error {
	if bounds, ok := numeric[name]; ok {
		n, err := strconv.Atoi(value)
		if err != nil || n < bounds.min || n > bounds.max {
			return Errorf(CodeInvalidAttributeValue, "Invalid value for the parameter %s.", name)
		}
		s.numbers[name] = n
		return nil
	}
	switch {
	case name == "FifoQueue" || name == "ContentBasedDeduplication":
		return errFIFO()
	case !textual[name]:
		return Errorf(CodeInvalidAttributeName, "Unknown Attribute %s.", name)
	case name == "RedrivePolicy":
		policy, err := parseRedrive(value, e)
		if err != nil {
			return err
		}
		s.redrive = policy
	}
	if s.texts[name] = value; value == "" {
		delete(s.texts, name)
	}
	return nil
}

// differs names an attribute of attrs that is not as s has it, "" if all are.
func (s settings) differs(attrs map[string]string) string {
	for name, value := range attrs {
		if _, ok := numeric[name]; ok {
			if value != strconv.Itoa(s.numbers[name]) {
				return name
			}
		} else if value != s.texts[name] {
			return name
		}
	}
	return ""
}

func (s settings) seconds(name string) int { return s.numbers[name] }

// parseRedrive reads a RedrivePolicy; maxReceiveCount may be a number or, as many tools write it, a string.
func parseRedrive(value string, e *Engine) (redrivePolicy, error) {
	if value == "" {
		return redrivePolicy{}, nil
	}
	var doc struct {
		Target string          `json:"deadLetterTargetArn"`
		Max    json.RawMessage `json:"maxReceiveCount"`
	}
	invalid := func(reason string) (redrivePolicy, error) {
		return redrivePolicy{}, Errorf(CodeInvalidValue, "Value %s for parameter RedrivePolicy is invalid. Reason: %s", value, reason)
	}
	if err := json.Unmarshal([]byte(value), &doc); err != nil {
		return invalid("Redrive policy is not a valid JSON map.")
	}
	n, err := strconv.Atoi(strings.Trim(string(doc.Max), `"`))
	if err != nil || n < 1 || n > 1000 {
		return invalid("Invalid value for maxReceiveCount, must be between 1 and 1000.")
	}
	target, ok := e.byARN(doc.Target)
	if !ok {
		return invalid("Dead letter target does not exist.")
	}
	return redrivePolicy{target: target.name, max: n}, nil
}

func errFIFO() *Error {
	return Errorf(CodeUnsupported, "FIFO queues are not supported by this local server; use a standard queue.")
}

// KnownAttribute tells whether a standard queue can have an attribute of that name.
func KnownAttribute(name string) bool {
	_, number := numeric[name]
	return number || textual[name] || computed[name]
}

// computed are the attributes that nobody can set.
var computed = map[string]bool{ //nolint:gochecknoglobals // never written
	"QueueArn": true, "CreatedTimestamp": true, "LastModifiedTimestamp": true, "ApproximateNumberOfMessages": true,
	"ApproximateNumberOfMessagesNotVisible": true, "ApproximateNumberOfMessagesDelayed": true,
}
