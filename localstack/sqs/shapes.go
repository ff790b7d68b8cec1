package sqs

import (
	"encoding/base64"
	"encoding/xml"
	"maps"
	"slices"

	"spool/localstack/sqs/internal/engine"
)

// The requests and results of the API, as far as this server knows them. JSON names are those of the API model. The tag
// `query` names a parameter, `xml` an element, where the Query protocol differs.

type queueRequest struct {
	QueueURL string `json:"QueueUrl"`
}

type empty struct{}

type createQueueRequest struct {
	QueueName  string            `json:"QueueName"`
	Attributes map[string]string `json:"Attributes" query:"Attribute"`
	Tags       map[string]string `json:"tags" query:"Tag"`
}

type queueURLResult struct {
	QueueURL string `json:"QueueUrl" xml:"QueueUrl"`
}

type getQueueURLRequest struct {
	QueueName string `json:"QueueName"`
}

type listQueuesRequest struct {
	Prefix     string `json:"QueueNamePrefix"`
	MaxResults *int   `json:"MaxResults"`
	NextToken  string `json:"NextToken"`
}

type listQueuesResult struct {
	QueueURLs []string `json:"QueueUrls,omitempty" xml:"QueueUrl"`
	NextToken string   `json:"NextToken,omitempty" xml:"NextToken,omitempty"`
}

type getAttributesRequest struct {
	queueRequest
	Names []string `json:"AttributeNames" query:"AttributeName"`
}

type attributesResult struct {
	Attributes pairs `json:"Attributes,omitempty" xml:"Attribute"`
}

type setAttributesRequest struct {
	queueRequest
	Attributes map[string]string `json:"Attributes" query:"Attribute"`
}

type tagRequest struct {
	queueRequest
	Tags map[string]string `json:"Tags" query:"Tag"`
}

type untagRequest struct {
	queueRequest
	Keys []string `json:"TagKeys" query:"TagKey"`
}

type tagsResult struct {
	Tags tags `json:"Tags,omitempty" xml:"Tag"`
}

type attributeValue struct {
	DataType    string `json:"DataType" xml:"DataType"`
	StringValue string `json:"StringValue,omitempty" xml:"StringValue,omitempty"`
	BinaryValue blob   `json:"BinaryValue,omitempty" xml:"BinaryValue,omitempty"`
}

// blob is bytes that are base64 in JSON, in XML and in forms.
type blob []byte

func (b blob) MarshalText() ([]byte, error) { return base64.StdEncoding.AppendEncode(nil, b), nil }

func (b *blob) UnmarshalText(text []byte) (err error) {
	*b, err = base64.StdEncoding.AppendDecode(nil, text)
	return err
}

type messageBody struct {
	Body         string                    `json:"MessageBody"`
	DelaySeconds *int                      `json:"DelaySeconds"`
	Attributes   map[string]attributeValue `json:"MessageAttributes" query:"MessageAttribute"`
	System       map[string]attributeValue `json:"MessageSystemAttributes" query:"MessageSystemAttribute"`
	GroupID      string                    `json:"MessageGroupId"`
	DedupID      string                    `json:"MessageDeduplicationId"`
}

func (b messageBody) send() engine.Send {
	return engine.Send{
		Body: b.Body, Delay: b.DelaySeconds, GroupID: b.GroupID, DedupID: b.DedupID,
		Attributes: fromWire(b.Attributes), System: fromWire(b.System),
	}
}

func fromWire(attrs map[string]attributeValue) map[string]engine.Attribute {
	m := make(map[string]engine.Attribute, len(attrs))
	for name, a := range attrs {
		m[name] = engine.Attribute{DataType: a.DataType, String: a.StringValue, Binary: a.BinaryValue}
	}
	return m
}

type sendRequest struct {
	queueRequest
	messageBody
}

type sendResult struct {
	MessageID     string `json:"MessageId" xml:"MessageId"`
	MD5Body       string `json:"MD5OfMessageBody" xml:"MD5OfMessageBody"`
	MD5Attributes string `json:"MD5OfMessageAttributes,omitempty" xml:"MD5OfMessageAttributes,omitempty"`
	MD5System     string `json:"MD5OfMessageSystemAttributes,omitempty" xml:"MD5OfMessageSystemAttributes,omitempty"`
}

type receiveRequest struct {
	queueRequest
	Max               *int     `json:"MaxNumberOfMessages"`
	VisibilityTimeout *int     `json:"VisibilityTimeout"`
	WaitTimeSeconds   *int     `json:"WaitTimeSeconds"`
	OldSystemNames    []string `json:"AttributeNames" query:"AttributeName"` // before MessageSystemAttributeNames
	SystemNames       []string `json:"MessageSystemAttributeNames" query:"MessageSystemAttributeName"`
	AttributeNames    []string `json:"MessageAttributeNames" query:"MessageAttributeName"`
}

type receiveResult struct {
	Messages []message `json:"Messages,omitempty" xml:"Message"`
}

type message struct {
	ID            string `json:"MessageId" xml:"MessageId"`
	Handle        string `json:"ReceiptHandle" xml:"ReceiptHandle"`
	MD5Body       string `json:"MD5OfBody" xml:"MD5OfBody"`
	Body          string `json:"Body" xml:"Body"`
	System        pairs  `json:"Attributes,omitempty" xml:"Attribute"`
	MD5Attributes string `json:"MD5OfMessageAttributes,omitempty" xml:"MD5OfMessageAttributes,omitempty"`
	Attributes    values `json:"MessageAttributes,omitempty" xml:"MessageAttribute"`
}

type handleRequest struct {
	queueRequest
	Handle string `json:"ReceiptHandle"`
}

type visibilityRequest struct {
	handleRequest
	VisibilityTimeout *int `json:"VisibilityTimeout"`
}

type sendEntry struct {
	ID string `json:"Id"`
	messageBody
}

type deleteEntry struct {
	ID     string `json:"Id"`
	Handle string `json:"ReceiptHandle"`
}

type visibilityEntry struct {
	ID                string `json:"Id"`
	Handle            string `json:"ReceiptHandle"`
	VisibilityTimeout *int   `json:"VisibilityTimeout"`
}

func (e sendEntry) entryID() string       { return e.ID }
func (e deleteEntry) entryID() string     { return e.ID }
func (e visibilityEntry) entryID() string { return e.ID }

type sendBatchRequest struct {
	queueRequest
	Entries []sendEntry `json:"Entries" query:"SendMessageBatchRequestEntry"`
}

type deleteBatchRequest struct {
	queueRequest
	Entries []deleteEntry `json:"Entries" query:"DeleteMessageBatchRequestEntry"`
}

type visibilityBatchRequest struct {
	queueRequest
	Entries []visibilityEntry `json:"Entries" query:"ChangeMessageVisibilityBatchRequestEntry"`
}

type sentEntry struct {
	ID string `json:"Id" xml:"Id"`
	sendResult
}

type doneEntry struct {
	ID string `json:"Id" xml:"Id"`
}

type failedEntry struct {
	ID          string `json:"Id" xml:"Id"`
	SenderFault bool   `json:"SenderFault" xml:"SenderFault"`
	Code        string `json:"Code" xml:"Code"`
	Message     string `json:"Message" xml:"Message"`
}

type sendBatchResult struct {
	Successful []sentEntry   `json:"Successful" xml:"SendMessageBatchResultEntry"`
	Failed     []failedEntry `json:"Failed,omitempty" xml:"BatchResultErrorEntry"`
}

type deleteBatchResult struct {
	Successful []doneEntry   `json:"Successful" xml:"DeleteMessageBatchResultEntry"`
	Failed     []failedEntry `json:"Failed,omitempty" xml:"BatchResultErrorEntry"`
}

type visibilityBatchResult struct {
	Successful []doneEntry   `json:"Successful" xml:"ChangeMessageVisibilityBatchResultEntry"`
	Failed     []failedEntry `json:"Failed,omitempty" xml:"BatchResultErrorEntry"`
}

type listSourcesRequest struct {
	queueRequest
	MaxResults *int   `json:"MaxResults"`
	NextToken  string `json:"NextToken"`
}

// listSourcesResult has queueUrls in lower case, unlike listQueuesResult: so has the API model.
type listSourcesResult struct {
	QueueURLs []string `json:"queueUrls" xml:"QueueUrl"`
	NextToken string   `json:"NextToken,omitempty" xml:"NextToken,omitempty"`
}

type startMoveRequest struct {
	Source      string `json:"SourceArn"`
	Destination string `json:"DestinationArn"`
	Rate        *int   `json:"MaxNumberOfMessagesPerSecond"`
}

type startMoveResult struct {
	Handle string `json:"TaskHandle" xml:"TaskHandle"`
}

type listMovesRequest struct {
	Source     string `json:"SourceArn"`
	MaxResults *int   `json:"MaxResults"`
}

type listMovesResult struct {
	Results []moveEntry `json:"Results" xml:"ListMessageMoveTasksResultEntry"`
}

type moveEntry struct {
	Status      string `json:"Status" xml:"Status"`
	Source      string `json:"SourceArn" xml:"SourceArn"`
	Destination string `json:"DestinationArn,omitempty" xml:"DestinationArn,omitempty"`
	Moved       int    `json:"ApproximateNumberOfMessagesMoved" xml:"ApproximateNumberOfMessagesMoved"`
	ToMove      int    `json:"ApproximateNumberOfMessagesToMove" xml:"ApproximateNumberOfMessagesToMove"`
	Started     int64  `json:"StartedTimestamp" xml:"StartedTimestamp"` // ms
	Failure     string `json:"FailureReason,omitempty" xml:"FailureReason,omitempty"`
}

// pairs is a map that is a list of Name and Value in XML.
type pairs map[string]string

func (p pairs) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	return encodePairs(e, start, "Name", p)
}

// values is pairs for message attributes.
type values map[string]attributeValue

func (v values) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	return encodePairs(e, start, "Name", v)
}

// tags is pairs with Key for Name.
type tags map[string]string

func (t tags) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	return encodePairs(e, start, "Key", t)
}

func encodePairs[V any](e *xml.Encoder, start xml.StartElement, key string, m map[string]V) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := e.EncodeToken(start); err != nil {
			return err
		}
		if err := e.EncodeElement(name, xml.StartElement{Name: xml.Name{Local: key}}); err != nil {
			return err
		}
		if err := e.EncodeElement(m[name], xml.StartElement{Name: xml.Name{Local: "Value"}}); err != nil {
			return err
		}
		if err := e.EncodeToken(start.End()); err != nil {
			return err
		}
	}
	return nil
}
