package sqsfake

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A topic is one of SNS. It is guarded by Server.mu.
type topic struct {
	subscriptions []*subscription
}

type subscription struct {
	queue string
	raw   string
}

const topicPrefix = "arn:aws:sns:us-east-1:000000000000:"

// members returns the values of a list or map of the query protocol, by the prefix of
// each.
func members(form url.Values, list string) (prefixes []string) {
	for i := 1; ; i++ {
		prefix := fmt.Sprintf("%s.%d.", list, i)
		found := false
		for name := range form {
			found = found || strings.HasPrefix(name, prefix)
		}
		if !found {
			return prefixes
		}
		prefixes = append(prefixes, prefix)
	}
}

// topicOp carries out an operation of SNS.
func (s *Server) topicOp(op string, form url.Values, f *Fault) (any, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case "CreateTopic":
		name := form.Get("Name")
		if s.topics[name] == nil {
			s.topics[name] = &topic{}
		}
		return "<TopicArn>" + topicPrefix + name + "</TopicArn>", nil
	case "ListTopics":
		var names []string
		for name := range s.topics {
			names = append(names, name)
		}
		slices.Sort(names)
		var out strings.Builder
		for _, name := range names {
			fmt.Fprintf(&out, "<member><TopicArn>%s%s</TopicArn></member>", topicPrefix, name)
		}
		return "<Topics>" + out.String() + "</Topics>", nil
	}
	t := s.topics[strings.TrimPrefix(form.Get("TopicArn"), topicPrefix)]
	if t == nil {
		return nil, &apiError{http.StatusNotFound, "NotFound", "Topic does not exist"}
	}
	switch op {
	case "Subscribe":
		return s.subscribe(t, form)
	case "PublishBatch":
		return s.publish(t, form, f)
	}
	return nil, refuse("InvalidAction", "%s is not known", op)
}

func (s *Server) subscribe(t *topic, form url.Values) (any, *apiError) {
	arn := form.Get("Endpoint")
	name := arn[strings.LastIndexByte(arn, ':')+1:]
	raw := "false"
	for _, p := range members(form, "Attributes.entry") {
		if form.Get(p+"key") == "RawMessageDelivery" {
			raw = form.Get(p + "value")
		}
	}
	for _, sub := range t.subscriptions {
		if sub.queue == name && sub.raw != raw {
			return nil, refuse("InvalidParameter", "Invalid parameter: Attributes Reason: Subscription already exists with different attributes")
		}
		if sub.queue == name {
			return "<SubscriptionArn>" + form.Get("TopicArn") + ":" + name + "</SubscriptionArn>", nil
		}
	}
	t.subscriptions = append(t.subscriptions, &subscription{name, raw})
	return "<SubscriptionArn>" + form.Get("TopicArn") + ":" + name + "</SubscriptionArn>", nil
}

func (s *Server) publish(t *topic, form url.Values, f *Fault) (any, *apiError) {
	var done, failed strings.Builder
	defer s.change()
	for i, p := range members(form, "PublishBatchRequestEntries.member") {
		id := form.Get(p + "Id")
		if f != nil && f.Fail[i] != "" {
			fmt.Fprintf(&failed, "<member><Id>%s</Id><Code>%s</Code><Message>by request</Message><SenderFault>%t</SenderFault></member>",
				id, f.Fail[i], strings.HasPrefix(f.Fail[i], "Sender"))
			continue
		}
		attributes, wrapped := map[string]any{}, map[string]any{}
		for _, a := range members(form, p+"MessageAttributes.entry") {
			kind, value := form.Get(a+"Value.DataType"), form.Get(a+"Value.StringValue")
			attributes[form.Get(a+"Name")] = map[string]any{"DataType": kind, "StringValue": value}
			wrapped[form.Get(a+"Name")] = map[string]any{"Type": kind, "Value": value}
		}
		messageID := s.nextID()
		for _, sub := range t.subscriptions {
			q := s.queues[sub.queue]
			if q == nil {
				continue
			}
			body, with := form.Get(p+"Message"), attributes
			if sub.raw != "true" {
				b, _ := json.Marshal(map[string]any{
					"Type": "Notification", "MessageId": messageID, "TopicArn": form.Get("TopicArn"), "Message": body,
					"Timestamp": time.Now().UTC().Format(time.RFC3339Nano), "MessageAttributes": wrapped,
				})
				body, with = string(b), nil
			}
			in := map[string]any{"MessageBody": body, "MessageGroupId": form.Get(p + "MessageGroupId"), "MessageDeduplicationId": form.Get(p + "MessageDeduplicationId")}
			if with != nil {
				in["MessageAttributes"] = with
			}
			_, _ = q.send(s)(in) // what a queue refuses is lost, as on SNS
		}
		fmt.Fprintf(&done, "<member><Id>%s</Id><MessageId>%s</MessageId></member>", id, messageID)
	}
	return "<Successful>" + done.String() + "</Successful><Failed>" + failed.String() + "</Failed>", nil
}

func replyXML(w http.ResponseWriter, f *Fault, op string, out any, refusal *apiError) {
	if f != nil && f.Lose {
		panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's own way to cut a connection
	}
	w.Header().Set("Content-Type", "text/xml")
	if refusal != nil {
		w.WriteHeader(refusal.status)
		_, _ = fmt.Fprint(w, "<ErrorResponse><Error><Type>Sender</Type><Code>", refusal.code, "</Code><Message>")
		_ = xml.EscapeText(w, []byte(refusal.text))
		_, _ = fmt.Fprint(w, "</Message></Error><RequestId>r</RequestId></ErrorResponse>")
		return
	}
	_, _ = fmt.Fprintf(w, `<%[1]sResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></%[1]sResponse>`, op, out)
}

// Forget deletes a topic.
func (s *Server) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.topics, name)
}
