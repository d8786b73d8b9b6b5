package sqsfake

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A queue is one of SQS. It is guarded by Server.mu.
type queue struct {
	fifo       bool
	attributes map[string]string
	messages   []*message
	seen       map[string]time.Time // when a deduplication ID came
}

type message struct {
	id, body, group string
	attributes      map[string]any
	system          map[string]string
	sent, from      time.Time // from when it is visible
	receipt         string    // of the last receive
	received        time.Time
	receives        int
}

func sizeOf(entries []any) (n int) {
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		n += len(text(entry, "MessageBody"))
		attributes, _ := entry["MessageAttributes"].(map[string]any)
		for name, v := range attributes {
			value, _ := v.(map[string]any)
			n += len(name) + len(text(value, "DataType")) + len(text(value, "StringValue"))
		}
	}
	return n
}

// send returns what takes one message in.
func (q *queue) send(s *Server) func(map[string]any) (map[string]any, *apiError) {
	return func(in map[string]any) (map[string]any, *apiError) {
		body := text(in, "MessageBody")
		attributes, _ := in["MessageAttributes"].(map[string]any)
		limit, _ := strconv.Atoi(q.attributes["MaximumMessageSize"])
		switch {
		case body == "" || strings.ContainsFunc(body, func(r rune) bool {
			return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
		}):
			return nil, refuse("InvalidMessageContents", "The message contains characters outside the allowed set.")
		case len(attributes) > 10:
			return nil, refuse("InvalidParameterValue", "Number of message attributes [%d] exceeds the allowed maximum [10].", len(attributes))
		case sizeOf([]any{in}) > limit:
			return nil, refuse("InvalidParameterValue", "One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", limit)
		case q.fifo && text(in, "MessageGroupId") == "":
			return nil, refuse("MissingParameter", "The request must contain the parameter MessageGroupId.")
		}
		m := &message{id: s.nextID(), body: body, group: text(in, "MessageGroupId"), attributes: attributes, sent: time.Now(), from: time.Now(), system: map[string]string{}}
		out := map[string]any{"MessageId": m.id, "MD5OfMessageBody": sum(body)}
		once := text(in, "MessageDeduplicationId")
		if q.fifo {
			if at, ok := q.seen[once]; ok && time.Since(at) < 5*time.Minute {
				return out, nil
			}
			if q.seen == nil {
				q.seen = map[string]time.Time{}
			}
			q.seen[once] = time.Now()
		}
		q.messages = append(q.messages, m)
		return out, nil
	}
}

// inFlight returns the message that a receipt names, if it is still valid.
func (q *queue) inFlight(receipt string) (int, *apiError) {
	for i, m := range q.messages {
		if m.receipt == receipt && m.from.After(time.Now()) {
			return i, nil
		}
	}
	return 0, refuse("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
}

// delete is idempotent: what is gone already has been deleted.
func (q *queue) delete(in map[string]any) (map[string]any, *apiError) {
	id, _, _ := strings.Cut(text(in, "ReceiptHandle"), "#")
	if !slices.ContainsFunc(q.messages, func(m *message) bool { return m.id == id }) {
		return map[string]any{}, nil
	}
	i, refusal := q.inFlight(text(in, "ReceiptHandle"))
	if refusal != nil {
		return nil, refusal
	}
	q.messages = append(q.messages[:i], q.messages[i+1:]...)
	return map[string]any{}, nil
}

func (q *queue) stay(in map[string]any) (map[string]any, *apiError) {
	i, refusal := q.inFlight(text(in, "ReceiptHandle"))
	if refusal != nil {
		return nil, refusal
	}
	m := q.messages[i]
	d := time.Duration(number(in, "VisibilityTimeout", 0)) * time.Second
	if time.Since(m.received)+d > 12*time.Hour {
		return nil, refuse("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]")
	}
	m.from = time.Now().Add(d)
	return map[string]any{}, nil
}

// receive waits for messages.
func (s *Server) receive(r *http.Request, in map[string]any) (any, *apiError) {
	url := text(in, "QueueUrl")
	name := url[strings.LastIndexByte(url, '/')+1:]
	deadline := time.Now().Add(time.Duration(number(in, "WaitTimeSeconds", 0)) * time.Second)
	for {
		s.mu.Lock()
		q := s.queues[name]
		if q == nil {
			s.mu.Unlock()
			return nil, refuse("QueueDoesNotExist", "The specified queue does not exist.")
		}
		got, next := s.take(q, number(in, "MaxNumberOfMessages", 1), time.Duration(number(in, "VisibilityTimeout", 30))*time.Second)
		changed := s.changed
		s.mu.Unlock()
		if len(got) > 0 || !time.Now().Before(deadline) || r.Context().Err() != nil {
			return map[string]any{"Messages": got}, nil
		}
		if next.IsZero() || next.After(deadline) {
			next = deadline
		}
		t := time.NewTimer(time.Until(next))
		select {
		case <-t.C:
		case <-changed:
		case <-r.Context().Done():
		}
		t.Stop()
	}
}

// take receives what is visible. It returns when the next will be.
func (s *Server) take(q *queue, limit int, visibility time.Duration) (got []any, next time.Time) {
	now := time.Now()
	blocked := map[string]bool{}
	var dead []*message
	var policy struct {
		DeadLetterTargetArn string `json:"deadLetterTargetArn"` //nolint:tagliatelle // SQS's own
		MaxReceiveCount     int    `json:"maxReceiveCount"`     //nolint:tagliatelle // SQS's own
	}
	_ = json.Unmarshal([]byte(q.attributes["RedrivePolicy"]), &policy)
	for _, m := range q.messages {
		if m.from.After(now) {
			blocked[m.group] = q.fifo
			if next.IsZero() || m.from.Before(next) {
				next = m.from
			}
			continue
		}
		if blocked[m.group] || len(got) == limit {
			continue
		}
		if policy.MaxReceiveCount > 0 && m.receives >= policy.MaxReceiveCount {
			dead = append(dead, m)
			continue
		}
		m.receives++
		m.receipt = fmt.Sprintf("%s#%d", m.id, m.receives)
		m.received, m.from = now, now.Add(visibility)
		system := map[string]string{
			"ApproximateReceiveCount": strconv.Itoa(m.receives), "SentTimestamp": strconv.FormatInt(m.sent.UnixMilli(), 10),
		}
		for name, v := range m.system {
			system[name] = v
		}
		if m.group != "" {
			system["MessageGroupId"] = m.group
		}
		got = append(got, map[string]any{
			"MessageId": m.id, "ReceiptHandle": m.receipt, "Body": m.body, "MD5OfBody": sum(m.body),
			"Attributes": system, "MessageAttributes": m.attributes,
		})
	}
	for _, m := range dead {
		for i := range q.messages {
			if q.messages[i] == m {
				q.messages = append(q.messages[:i], q.messages[i+1:]...)
				break
			}
		}
		arn := policy.DeadLetterTargetArn
		to := s.queues[arn[strings.LastIndexByte(arn, ':')+1:]]
		m.system["DeadLetterQueueSourceArn"], m.receives = q.attributes["QueueArn"], 0
		to.messages = append(to.messages, m)
	}
	return got, next
}
