package sqs_test

import (
	"testing"

	"spool/localstack/localtest"
	"spool/localstack/sqs/sqstest"
)

// Two independent servers judge the suite: what they pass too is not a mistake of ours alone.

func TestConformanceOfMoto(t *testing.T) {
	sqstest.RunConformance(t, judge(localtest.Moto(t), map[string]string{ // moto 5.2.1
		"a move task needs a dead-letter queue":                       "moto answers StartMessageMoveTask with 500",
		"a move task brings dead letters back":                        "moto answers StartMessageMoveTask with 500",
		"a batch send fails in part":                                  "moto sends SenderFault as a string, which the client cannot read",
		"a stale handle deletes nothing and cannot extend":            "moto deletes by any handle that it ever gave out",
		"visibility of a message that is not in flight cannot change": "moto changes it",
		"a wrong send is refused":                                     "moto accepts a deduplication id, an empty attribute and an empty body",
		"a message with a control character is refused":               "moto accepts it",
		"attributes count against the size":                           "moto counts the body only",
		"eight consumers get each message once":                       "moto has no lock: sometimes two consumers get one message",
		"a wrong secret is refused":                                   "moto checks no signatures",
		"an unknown access key is refused":                            "moto checks no signatures",
		"a wrong attribute is refused":                                "moto accepts any attribute",
		"queues are listed by prefix, in pages":                       "moto ignores MaxResults",
	}))
}

func TestConformanceOfLocalStack(t *testing.T) {
	sqstest.RunConformance(t, judge(localtest.LocalStack(t), map[string]string{ // LocalStack 4.12.0
		"a move task brings dead letters back":                        "LocalStack keeps the receive count; AWS makes new messages",
		"a batch send fails in part":                                  "LocalStack accepts a delay over 900 s",
		"a batch delete fails in part":                                "LocalStack says that a wrong handle is not the sender's fault",
		"a batch change of visibility fails in part":                  "LocalStack says that a wrong handle is not the sender's fault",
		"a stale handle deletes nothing and cannot extend":            "LocalStack deletes by any handle that it ever gave out",
		"a lease cannot exceed 12 hours":                              "LocalStack has no such limit",
		"visibility of a message that is not in flight cannot change": "LocalStack changes it",
		"a wrong send is refused":                                     "LocalStack accepts a delay over 900 s",
		"a wrong secret is refused":                                   "LocalStack checks no signatures",
		"an unknown access key is refused":                            "LocalStack checks no signatures",
		"a wrong attribute is refused":                                "LocalStack accepts any value",
	}))
}

func judge(endpoint string, skip map[string]string) sqstest.Target {
	return sqstest.Target{
		Endpoint: endpoint, Region: localtest.Region, AccessKey: localtest.AccessKey, SecretKey: localtest.SecretKey, Skip: skip,
	}
}
