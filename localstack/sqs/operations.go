package sqs

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"spool/localstack/sqs/internal/engine"
)

// call is one request at work.
type call struct {
	*engine.Engine
	host string // as the client named it: queue URLs lead back the way it came
}

// operation runs one action; decode fills the request from whichever protocol it came by.
type operation func(ctx context.Context, c *call, decode func(request any) error) (result any, err error)

// operations are all actions of the server.
var operations = map[string]operation{ //nolint:gochecknoglobals // never written
	"CreateQueue":                  op((*call).createQueue),
	"GetQueueUrl":                  op((*call).getQueueURL),
	"ListQueues":                   op((*call).listQueues),
	"DeleteQueue":                  op((*call).deleteQueue),
	"PurgeQueue":                   op((*call).purgeQueue),
	"GetQueueAttributes":           op((*call).getAttributes),
	"SetQueueAttributes":           op((*call).setAttributes),
	"TagQueue":                     op((*call).tag),
	"UntagQueue":                   op((*call).untag),
	"ListQueueTags":                op((*call).listTags),
	"SendMessage":                  op((*call).send),
	"SendMessageBatch":             op((*call).sendBatch),
	"ReceiveMessage":               waitingOp((*call).receive),
	"DeleteMessage":                op((*call).deleteMessage),
	"DeleteMessageBatch":           op((*call).deleteBatch),
	"ChangeMessageVisibility":      op((*call).changeVisibility),
	"ChangeMessageVisibilityBatch": op((*call).changeVisibilityBatch),
	"ListDeadLetterSourceQueues":   op((*call).listSources),
	"StartMessageMoveTask":         op((*call).startMove),
	"ListMessageMoveTasks":         op((*call).listMoves),
}

// waitingOp makes an operation of a method that may wait.
func waitingOp[Request, Result any](f func(*call, context.Context, *Request) (Result, error)) operation {
	return func(ctx context.Context, c *call, decode func(any) error) (any, error) {
		var request Request
		if err := decode(&request); err != nil {
			return nil, err
		}
		return f(c, ctx, &request)
	}
}

// op makes an operation of a method that does not wait.
func op[Request, Result any](f func(*call, *Request) (Result, error)) operation {
	return waitingOp(func(c *call, _ context.Context, r *Request) (Result, error) { return f(c, r) })
}

func (c *call) queueURL(name string) string {
	return "http://" + c.host + "/" + c.Account() + "/" + name
}

// name is the last part of the URL of a queue; host and account are not compared, so that a URL got under one name of
// the server works under another.
func (r queueRequest) name() (string, error) {
	u, err := url.Parse(r.QueueURL)
	if err != nil || u.Path == "" {
		return "", engine.Errorf(engine.CodeNoQueue, "The specified queue does not exist: %q is no URL of a queue.", r.QueueURL)
	}
	return u.Path[strings.LastIndexByte(u.Path, '/')+1:], nil
}

func (c *call) createQueue(r *createQueueRequest) (queueURLResult, error) {
	return queueURLResult{c.queueURL(r.QueueName)}, c.CreateQueue(r.QueueName, r.Attributes, r.Tags)
}

func (c *call) getQueueURL(r *getQueueURLRequest) (queueURLResult, error) {
	return queueURLResult{c.queueURL(r.QueueName)}, c.Exists(r.QueueName)
}

func (c *call) listQueues(r *listQueuesRequest) (listQueuesResult, error) {
	urls, next, err := c.page(c.Queues(r.Prefix), r.MaxResults, r.NextToken)
	return listQueuesResult{urls, next}, err
}

// page cuts a listing, and returns the token to go on with: the number of names that came before.
func (c *call) page(names []string, limit *int, token string) (urls []string, next string, err error) {
	from, size := 0, 1000
	if token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 {
			return nil, "", engine.Errorf(engine.CodeInvalidValue, "Invalid NextToken value.")
		}
	}
	if limit != nil {
		if size = *limit; size < 1 || size > 1000 {
			return nil, "", engine.Errorf(engine.CodeInvalidValue, "Value %d for parameter MaxResults is invalid. "+
				"Reason: Must be between 1 and 1000, if provided.", size)
		}
	}
	from = min(from, len(names))
	to := min(from+size, len(names))
	for _, name := range names[from:to] {
		urls = append(urls, c.queueURL(name))
	}
	if limit != nil && to < len(names) {
		next = strconv.Itoa(to)
	}
	return urls, next, nil
}

// onQueue runs f with the name of the queue.
func onQueue[Result any](r queueRequest, f func(name string) (Result, error)) (Result, error) {
	name, err := r.name()
	if err != nil {
		var none Result
		return none, err
	}
	return f(name)
}

// doQueue is onQueue for what has no result.
func doQueue(r queueRequest, f func(name string) error) (empty, error) {
	return onQueue(r, func(name string) (empty, error) { return empty{}, f(name) })
}

func (c *call) deleteQueue(r *queueRequest) (empty, error) { return doQueue(*r, c.DeleteQueue) }
func (c *call) purgeQueue(r *queueRequest) (empty, error)  { return doQueue(*r, c.Purge) }

func (c *call) getAttributes(r *getAttributesRequest) (attributesResult, error) {
	return onQueue(r.queueRequest, func(name string) (attributesResult, error) {
		all, err := c.Attributes(name)
		if err != nil {
			return attributesResult{}, err
		}
		got := pairs{}
		for _, attr := range r.Names {
			if attr == "All" {
				return attributesResult{all}, nil
			}
			if !engine.KnownAttribute(attr) {
				return attributesResult{}, engine.Errorf(engine.CodeInvalidAttributeName, "Unknown Attribute %s.", attr)
			}
			if v, ok := all[attr]; ok {
				got[attr] = v
			}
		}
		return attributesResult{got}, nil
	})
}

func (c *call) setAttributes(r *setAttributesRequest) (empty, error) {
	return doQueue(r.queueRequest, func(name string) error { return c.SetAttributes(name, r.Attributes) })
}

func (c *call) tag(r *tagRequest) (empty, error) {
	return doQueue(r.queueRequest, func(name string) error { return c.Tag(name, r.Tags, nil) })
}

func (c *call) untag(r *untagRequest) (empty, error) {
	return doQueue(r.queueRequest, func(name string) error { return c.Tag(name, nil, r.Keys) })
}

func (c *call) listTags(r *queueRequest) (tagsResult, error) {
	return onQueue(*r, func(name string) (tagsResult, error) {
		tags, err := c.Tags(name)
		return tagsResult{tags}, err
	})
}

func (c *call) send(r *sendRequest) (sendResult, error) {
	return onQueue(r.queueRequest, func(name string) (sendResult, error) { return c.sendOne(name, r.messageBody) })
}

func (c *call) sendOne(name string, b messageBody) (sendResult, error) {
	sent, err := c.Send(name, b.send())
	return sendResult{MessageID: sent.ID, MD5Body: sent.MD5Body, MD5Attributes: sent.MD5Attributes, MD5System: sent.MD5System}, err
}

func (c *call) receive(ctx context.Context, r *receiveRequest) (receiveResult, error) {
	return onQueue(r.queueRequest, func(name string) (receiveResult, error) {
		limit := 1
		if r.Max != nil {
			limit = *r.Max
		}
		got, err := c.Receive(ctx, name, engine.Receive{Max: limit, Visibility: r.VisibilityTimeout, Wait: r.WaitTimeSeconds})
		var result receiveResult
		for _, d := range got {
			result.Messages = append(result.Messages, r.toWire(d))
		}
		return result, err
	})
}

// toWire keeps the attributes that were asked for. The digest is over those that are sent.
func (r *receiveRequest) toWire(d engine.Delivery) message {
	m := message{ID: d.ID, Handle: d.Handle, MD5Body: d.MD5Body, Body: d.Body, System: pairs{}, Attributes: values{}}
	names := slices.Concat(r.SystemNames, r.OldSystemNames)
	for name, v := range d.System {
		if slices.Contains(names, name) || slices.Contains(names, "All") {
			m.System[name] = v
		}
	}
	kept := map[string]engine.Attribute{}
	for name, a := range d.Attributes {
		if slices.ContainsFunc(r.AttributeNames, func(want string) bool { return matches(want, name) }) {
			kept[name] = a
			m.Attributes[name] = attributeValue{DataType: a.DataType, StringValue: a.String, BinaryValue: a.Binary}
		}
	}
	m.MD5Attributes = engine.MD5Attributes(kept)
	return m
}

// matches tells whether a name of MessageAttributeNames means the attribute: All, .*, prefix.* or the name itself.
func matches(want, name string) bool {
	prefix, any := strings.CutSuffix(want, ".*")
	return want == "All" || want == name || any && strings.HasPrefix(name, prefix)
}

func (c *call) deleteMessage(r *handleRequest) (empty, error) {
	return doQueue(r.queueRequest, func(name string) error { return c.Delete(name, r.Handle) })
}

func (c *call) changeVisibility(r *visibilityRequest) (empty, error) {
	return doQueue(r.queueRequest, func(name string) error { return c.change(name, r.Handle, r.VisibilityTimeout) })
}

func (c *call) change(name, handle string, seconds *int) error {
	if seconds == nil {
		return engine.Errorf(engine.CodeMissing, "The request must contain the parameter VisibilityTimeout.")
	}
	return c.ChangeVisibility(name, handle, *seconds)
}

func (c *call) listSources(r *listSourcesRequest) (listSourcesResult, error) {
	return onQueue(r.queueRequest, func(name string) (listSourcesResult, error) {
		names, err := c.Sources(name)
		if err != nil {
			return listSourcesResult{}, err
		}
		urls, next, err := c.page(names, r.MaxResults, r.NextToken)
		return listSourcesResult{append([]string{}, urls...), next}, err
	})
}

// startMove ignores MaxNumberOfMessagesPerSecond: the move is over when the answer goes out.
func (c *call) startMove(r *startMoveRequest) (startMoveResult, error) {
	mv, err := c.StartMove(r.Source, r.Destination)
	return startMoveResult{mv.Handle}, err
}

func (c *call) listMoves(r *listMovesRequest) (listMovesResult, error) {
	limit := 1
	if r.MaxResults != nil {
		limit = *r.MaxResults
	}
	moves, err := c.Moves(r.Source, limit)
	result := listMovesResult{Results: []moveEntry{}}
	for _, mv := range moves {
		status := "COMPLETED"
		if mv.Failure != "" {
			status = "FAILED"
		}
		result.Results = append(result.Results, moveEntry{
			Status: status, Source: mv.Source, Destination: mv.Destination, Moved: mv.Moved,
			ToMove: mv.ToMove, Started: mv.Started.UnixMilli(), Failure: mv.Failure,
		})
	}
	return result, err
}
