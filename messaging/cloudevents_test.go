package messaging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-go/parley/messaging"
)

func event() messaging.Message {
	return messaging.Message{ID: "A234-1234", Source: "/mycontext", Type: "com.example.someevent"}
}

func eventWith(change func(*messaging.Message)) messaging.Message {
	m := event()
	change(&m)
	return m
}

// sameMessage returns how two messages differ, nil and empty being the same.
func sameMessage(a, b messaging.Message) string {
	for _, m := range []*messaging.Message{&a, &b} {
		m.Time = m.Time.UTC()
		if len(m.Headers) == 0 {
			m.Headers = nil
		}
		if len(m.Payload) == 0 {
			m.Payload = nil
		}
	}
	return cmp.Diff(a, b)
}

// The forms of data are those of §3.1.1 of the JSON format.
func TestMarshalCloudEventWritesTheJSONFormat(t *testing.T) {
	const head = `{"specversion":"1.0","id":"A234-1234","source":"/mycontext","type":"com.example.someevent"`
	for name, c := range map[string]struct {
		m    messaging.Message
		want string
	}{
		"the required attributes alone": {event(), head + `}`},
		"all attributes": {eventWith(func(m *messaging.Message) {
			m.Subject, m.Key, m.ContentType = "larger-context", "customer 7", "application/json"
			m.Time = time.Date(2018, 4, 5, 19, 31, 0, 5000, time.FixedZone("", 7200))
			m.Headers = map[string]string{"traceparent": "00-ab", "ext2": "ü", "msg-dlq-reason": "left out", "dataschema": "https://example.com/s"}
			m.Payload = []byte("{\n \"a\": 1}")
		}), head + `,"subject":"larger-context","time":"2018-04-05T17:31:00.000005Z","partitionkey":"customer 7","datacontenttype":"application/json",` +
			`"dataschema":"https://example.com/s","ext2":"ü","traceparent":"00-ab","data":` + "{\n \"a\": 1}}"},
		"another kind of JSON": {
			eventWith(func(m *messaging.Message) {
				m.ContentType, m.Payload = `Application/Problem+JSON; charset=utf-8`, []byte(`"x"`)
			}),
			head + `,"datacontenttype":"Application/Problem+JSON; charset=utf-8","data":"x"}`,
		},
		"what only claims to be JSON": {
			eventWith(func(m *messaging.Message) { m.ContentType, m.Payload = `application/json`, []byte(`{`) }),
			head + `,"datacontenttype":"application/json","data_base64":"ew=="}`,
		},
		"JSON that is not UTF-8": {
			eventWith(func(m *messaging.Message) { m.ContentType, m.Payload = `application/json`, []byte("\"\xff\"") }),
			head + `,"datacontenttype":"application/json","data_base64":"Iv8i"}`,
		},
		"text":                     {eventWith(func(m *messaging.Message) { m.ContentType, m.Payload = `text/xml`, []byte(`much "wow"`) }), head + `,"datacontenttype":"text/xml","data":"much \"wow\""}`},
		"text in another encoding": {eventWith(func(m *messaging.Message) { m.ContentType, m.Payload = `text/plain; charset=latin1`, []byte("a") }), head + `,"datacontenttype":"text/plain; charset=latin1","data_base64":"YQ=="}`},
		"bytes":                    {eventWith(func(m *messaging.Message) { m.ContentType, m.Payload = `application/x`, []byte{0, 255} }), head + `,"datacontenttype":"application/x","data_base64":"AP8="}`},
		// Without a ContentType, data would be taken for JSON.
		"a payload without a ContentType": {eventWith(func(m *messaging.Message) { m.Payload = []byte(`1`) }), head + `,"data_base64":"MQ=="}`},
		"JSON without a payload":          {eventWith(func(m *messaging.Message) { m.ContentType = "application/json" }), head + `,"datacontenttype":"application/json"}`},
	} {
		got, err := messaging.MarshalCloudEvent(c.m)
		if err != nil || string(got) != c.want {
			t.Errorf("MarshalCloudEvent() with %s = %s, %v, want %s", name, got, err, c.want)
			continue
		}
		back, err := messaging.UnmarshalCloudEvent(got)
		maps.DeleteFunc(c.m.Headers, func(name, _ string) bool { return strings.HasPrefix(name, "msg-") })
		if diff := sameMessage(c.m, back); diff != "" || err != nil {
			t.Errorf("%s does not come back (%v) (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestMarshalCloudEventReportsAllFaults(t *testing.T) {
	_, err := messaging.MarshalCloudEvent(messaging.Message{
		Subject: "a\nb", Key: "\xff", Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		Headers: map[string]string{"X-Request-ID": "1", "id": "2", "data": "3", "ext": "\u0085", "fine": "1"},
	})
	want := `messaging: invalid: CloudEvent: ID is empty, and required; Source is empty, and required; Type is empty, and required; ` +
		`Time is in the year 10000, outside 0..9999; the attribute subject is not UTF-8 or contains control characters; ` +
		`the attribute partitionkey is not UTF-8 or contains control characters; the header "X-Request-ID" cannot be an extension, ` +
		`whose name is of lower-case letters and digits and not that of an attribute: rename it, or see Structured; ` +
		`the header "data" cannot be an extension, whose name is of lower-case letters and digits and not that of an attribute: rename it, or see Structured; ` +
		`the header ext is not UTF-8 or contains control characters; ` +
		`the header "id" cannot be an extension, whose name is of lower-case letters and digits and not that of an attribute: rename it, or see Structured`
	if !errors.Is(err, messaging.ErrInvalid) || err.Error() != want {
		t.Errorf("MarshalCloudEvent() = %v, want %s", err, want)
	}
	_, err = messaging.MarshalCloudEvent(eventWith(func(m *messaging.Message) { m.Source = "%zz" }))
	if !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "Source is no URI reference: invalid URL escape") {
		t.Errorf("MarshalCloudEvent() = %v, want ErrInvalid for the Source", err)
	}
}

// The first four are the examples of §3.2 of the JSON format.
func TestUnmarshalCloudEventReadsWhatOthersWrite(t *testing.T) {
	const head = `"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","id":"A234-1234"`
	at := time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC)
	extensions := map[string]string{"comexampleextension1": "value", "comexampleothervalue": "5"}
	for name, c := range map[string]struct {
		event string
		want  messaging.Message
	}{
		"bytes": {
			`{` + head + `,"time":"2018-04-05T17:31:00Z","comexampleextension1":"value","comexampleothervalue":5,"datacontenttype":"application/vnd.apache.thrift.binary","data_base64":"AP8="}`,
			eventWith(func(m *messaging.Message) {
				m.Time, m.Headers, m.ContentType, m.Payload = at, extensions, "application/vnd.apache.thrift.binary", []byte{0, 255}
			}),
		},
		"XML": {
			`{` + head + `,"time":"2018-04-05T17:31:00Z","unsetextension":null,"datacontenttype":"application/xml","data":"<much wow=\"xml\"/>"}`,
			eventWith(func(m *messaging.Message) {
				m.Time, m.ContentType, m.Payload = at, "application/xml", []byte(`<much wow="xml"/>`)
			}),
		},
		"an object": {
			"{" + head + `,"subject":null,"comexampleextension1":"value","comexampleothervalue":5,"datacontenttype":"application/json","data": { "appinfoB" : 123 } }` + "\n",
			eventWith(func(m *messaging.Message) {
				m.Headers, m.ContentType, m.Payload = extensions, "application/json", []byte(`{ "appinfoB" : 123 }`)
			}),
		},
		"a string, implied to be JSON": {
			`{` + head + `,"data":"I'm just a string"}`,
			eventWith(func(m *messaging.Message) {
				m.ContentType, m.Payload = "application/json", []byte(`"I'm just a string"`)
			}),
		},
		"a payload of null": {
			`{` + head + `,"data":null}`, eventWith(func(m *messaging.Message) { m.ContentType, m.Payload = "application/json", []byte(`null`) }),
		},
		"text of null":          {`{` + head + `,"datacontenttype":"text/plain","data":null}`, eventWith(func(m *messaging.Message) { m.ContentType = "text/plain" })},
		"an unset data_base64":  {`{` + head + `,"data_base64":null}`, event()},
		"bytes of unknown type": {`{` + head + `,"data_base64":""}`, event()},
		"booleans and big numbers": {`{` + head + `,"yes":true,"big":12345678901234567890}`, eventWith(func(m *messaging.Message) {
			m.Headers = map[string]string{"yes": "true", "big": "12345678901234567890"}
		})},
		"a time in lower case":       {`{` + head + `,"time":"2018-04-05t19:31:00+02:00"}`, eventWith(func(m *messaging.Message) { m.Time = at })},
		"a name in camel case":       {`{` + head + `,"someExt":"v","cc":"w"}`, eventWith(func(m *messaging.Message) { m.Headers = map[string]string{"someExt": "v", "cc": "w"} })},
		"the partitioning extension": {`{` + head + `,"partitionkey":"k"}`, eventWith(func(m *messaging.Message) { m.Key = "k" })},
	} {
		got, err := messaging.UnmarshalCloudEvent([]byte(c.event))
		if diff := sameMessage(c.want, got); diff != "" || err != nil {
			t.Errorf("UnmarshalCloudEvent() of %s = %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestUnmarshalCloudEventSaysWhatIsWrong(t *testing.T) {
	const head = `"specversion":"1.0","type":"t","source":"/s","id":"1"`
	for event, says := range map[string]string{
		``:                                    "it is not one JSON object",
		`[]`:                                  "it is not one JSON object",
		`null`:                                "it is not one JSON object",
		`{` + head:                            "it is not one JSON object",
		`{` + head + `,}`:                     "it is not one JSON object",
		`{` + head + `}{}`:                    "it is not one JSON object",
		`{` + head + `,"x":}`:                 "it is not one JSON object",
		`{` + head + `,"x":"` + "\xff" + `"}`: "it is not UTF-8",
		`{}`:                                  `its specversion is "", and only "1.0" is known`,
		`{"specversion":"0.3","type":"t","source":"/s","id":"1"}`: `its specversion is "0.3"`,
		`{"specversion":1.0,"type":"t","source":"/s","id":"1"}`:   "the attribute specversion is not a string",
		`{"specversion":"1.0"}`:                                   "it lacks the required id and source and type",
		`{"specversion":"1.0","type":"t","source":"","id":"1"}`:   "it lacks the required source",
		`{"specversion":"1.0","type":"t","source":"/s","id":1}`:   "the attribute id is not a string",
		`{` + head + `,"id":"2"}`:                                 `the member "id" stands in it twice`,
		`{` + head + `,"data":1,"data":2}`:                        `the member "data" stands in it twice`,
		`{` + head + `,"data":1,"data_base64":"YQ=="}`:            "it has both data and data_base64",
		`{` + head + `,"data_base64":1}`:                          "data_base64 is not a string",
		`{` + head + `,"data_base64":"?"}`:                        "data_base64: illegal base64",
		`{` + head + `,"datacontenttype":"text/plain","data":1}`:  `data is not a string, and "text/plain" is no kind of JSON`,
		`{` + head + `,"time":"yesterday"}`:                       `the time "YESTERDAY" is not in RFC 3339 form`,
		`{` + head + `,"time":5}`:                                 `the time "5" is not in RFC 3339 form`,
		`{` + head + `,"ext":{}}`:                                 `the attribute "ext" is a list or an object, and no attribute is`,
		`{` + head + `,"ext":[]}`:                                 `the attribute "ext" is a list or an object, and no attribute is`,
		`{` + head + `,"subject":"a\u0000b"}`:                     `the attribute "subject" contains NUL`,
		`{` + head + `,"no name":"v"}`:                            `"no name" cannot be the name of an extension`,
		`{` + head + `,"msg-dlq-reason":"v"}`:                     `"msg-dlq-reason" cannot be the name of an extension`,
	} {
		_, err := messaging.UnmarshalCloudEvent([]byte(event))
		if !errors.Is(err, messaging.ErrInvalid) || !strings.HasPrefix(err.Error(), "messaging: invalid: CloudEvent: "+says) {
			t.Errorf("UnmarshalCloudEvent(%s) = %v, want ErrInvalid that says %q", event, err, says)
		}
	}
}

func TestUnmarshalCloudEventBoundsWhatAStrangerCanGrow(t *testing.T) {
	const head = `{"specversion":"1.0","type":"t","source":"/s","id":"1"`
	var many, nulls strings.Builder
	for i := range 10_000 {
		many.WriteString(`,"x` + strconv.Itoa(i) + `":"v"`)
		nulls.WriteString(`,"x` + strconv.Itoa(i) + `":null`)
	}
	for name, members := range map[string]string{
		"a long attribute": `,"subject":"` + strings.Repeat("v", messaging.MaxHeaderBytes) + `"`, "many extensions": many.String(), "many members of null": nulls.String(),
	} {
		if _, err := messaging.UnmarshalCloudEvent([]byte(head + members + `}`)); !errors.Is(err, messaging.ErrTooLarge) {
			t.Errorf("UnmarshalCloudEvent() with %s = %v, want ErrTooLarge", name, err)
		}
	}
	deep := head + `,"data":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`
	if _, err := messaging.UnmarshalCloudEvent([]byte(deep)); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("UnmarshalCloudEvent() of data that nests deeply = %v, want ErrInvalid", err)
	}
	large := head + `,"data":"` + strings.Repeat("v", 1<<20) + `"}`
	if m, err := messaging.UnmarshalCloudEvent([]byte(large)); err != nil || len(m.Payload) != 1<<20+2 {
		t.Errorf("UnmarshalCloudEvent() of a large payload = %d bytes, %v, want all", len(m.Payload), err)
	}
}

func TestUnmarshalCloudEventSharesNoMemoryWithItsArgument(t *testing.T) {
	data := []byte(`{"specversion":"1.0","type":"t","source":"/s","id":"1","data":"payload"}`)
	m, err := messaging.UnmarshalCloudEvent(data)
	if err != nil {
		t.Fatal(err)
	}
	copy(data, bytes.Repeat([]byte("x"), len(data)))
	if string(m.Payload) != `"payload"` || m.ID != "1" {
		t.Errorf("the event changed with the bytes that it was read from: %+v", m)
	}
}

func TestStructuredMessageReachesTheHandlerAsTheEvent(t *testing.T) {
	want := eventWith(func(m *messaging.Message) {
		m.Subject, m.Key, m.Time = "s", "k", time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		m.ContentType, m.Payload = "text/plain", []byte("hello")
		m.Headers = map[string]string{"traceparent": "00-ab", "X-Tenant": "7"}
	})
	m, err := messaging.Structured(want)
	if err != nil {
		t.Fatalf("Structured() = %v, want nil", err)
	}
	if m.ContentType != messaging.CloudEventsJSON || m.ID != want.ID || m.Key != want.Key || !json.Valid(m.Payload) || len(m.Headers) != 1 || m.Headers["X-Tenant"] != "7" {
		t.Errorf("Structured() = %+v, want the same attributes, the event as payload, and the header that it cannot have", m)
	}
	if len(want.Headers) != 2 {
		t.Errorf("Structured changed the headers of its argument to %q", want.Headers)
	}
	m.ContentType += "; charset=UTF-8" // as others write it
	var got messaging.Message
	h := messaging.CloudEvents(func(_ context.Context, d *messaging.Delivery) error {
		got = d.Message
		return nil
	})
	if v := verdictOf(t, h, m); v.Kind != messaging.Ack {
		t.Errorf("verdict = %v %v, want ack", v.Kind, v.Err)
	}
	if diff := sameMessage(want, got); diff != "" {
		t.Errorf("the handler got (-want +got):\n%s", diff)
	}
}

func TestCloudEventsPassesOtherMessagesOnAsTheyAre(t *testing.T) {
	for _, contentType := range []string{"", "application/json", "application/cloudevents+avro", "application/cloudevents-batch+json"} {
		want := messaging.Message{ID: "id", ContentType: contentType, Payload: []byte(`{"specversion":"1.0"}`)}
		h := messaging.CloudEvents(func(_ context.Context, d *messaging.Delivery) error {
			if diff := sameMessage(want, d.Message); diff != "" {
				t.Errorf("%q: the handler got (-want +got):\n%s", contentType, diff)
			}
			return errFailed
		})
		if err := h(t.Context(), &messaging.Delivery{Message: want}); err != errFailed { //nolint:errorlint // the same, not one that wraps it
			t.Errorf("%q: Handler = %v, want what the handler returned", contentType, err)
		}
	}
	if messaging.CloudEvents(nil) != nil {
		t.Error("CloudEvents(nil) is a handler, want nil, which Run reports")
	}
}

func TestCloudEventsKeepsWhatTheBrokerCarriedWhereTheEventSaysNothing(t *testing.T) {
	for event, key := range map[string]string{
		`{"specversion":"1.0","type":"t","source":"/s","id":"1","a":"inner"}`:                        "outer",
		`{"specversion":"1.0","type":"t","source":"/s","id":"1","a":"inner","partitionkey":"inner"}`: "inner",
	} {
		h := messaging.CloudEvents(func(_ context.Context, d *messaging.Delivery) error {
			if d.Key != key || d.ID != "1" || d.Attempt != 3 || d.Headers["a"] != "inner" || d.Headers["b"] != "outer" {
				t.Errorf("the handler of %s got %+v, want the event's own over what came with it", event, d)
			}
			return nil
		})
		err := h(t.Context(), &messaging.Delivery{Attempt: 3, Message: messaging.Message{
			ID: "outer", Key: "outer", ContentType: messaging.CloudEventsJSON, Headers: map[string]string{"a": "outer", "b": "outer"}, Payload: []byte(event),
		}})
		if err != nil {
			t.Errorf("Handler = %v, want nil", err)
		}
	}
}

// The payload would decode into a type without required members.
func TestAnInvalidStructuredEventIsDeadLetteredByteForByte(t *testing.T) {
	b := newMemory(t)
	done := make(chan messaging.Verdict, 1)
	r := runOne(t, b, messaging.ConsumerConfig{OnSettle: func(s messaging.Settled) { done <- s.Verdict }},
		messaging.CloudEvents(func(context.Context, *messaging.Delivery) error {
			t.Error("the handler was called")
			return nil
		}))
	m := messaging.NewMessage("T", []byte(`{"specversion":"1.0","type":"t","data":{}}`))
	m.ContentType = messaging.CloudEventsJSON
	publish(t, b, m)
	v := <-done
	if err := r.end(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	dead := b.DeadLetters("t", "g")
	if v.Reason != messaging.ReasonDecode || !strings.Contains(v.Err.Error(), "it lacks the required id and source") || len(dead) != 1 || !bytes.Equal(dead[0].Payload, m.Payload) {
		t.Errorf("verdict = %v %q %v with %d dead letters, want decode that says what is missing and the message as it was", v.Kind, v.Reason, v.Err, len(dead))
	}
}

func TestAttributesAndSetAttributeAreTheReverseOfEachOther(t *testing.T) {
	want := messaging.Message{
		ID: "1", Source: "/s", Type: "t", Subject: "s", Key: "k", ContentType: "text/plain", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)),
	}
	var got messaging.Message
	var names []string
	for name, value := range want.Attributes() {
		names = append(names, name)
		if !got.SetAttribute(name, value) {
			t.Errorf("SetAttribute(%s) = false, want true", name)
		}
	}
	if diff := sameMessage(want, got); diff != "" {
		t.Errorf("the message does not come back (-want +got):\n%s", diff)
	}
	if all := strings.Join(names, " "); all != "specversion id source type subject time partitionkey datacontenttype" {
		t.Errorf("Attributes() yields %s", all)
	}
	for name, value := range new(messaging.Message).Attributes() {
		if name != "specversion" || value != "1.0" {
			t.Errorf("Attributes() of an empty message yields %s = %s, want specversion alone", name, value)
		}
	}
	for name := range want.Attributes() {
		if name == "id" { // a range that ends early
			break
		}
	}
	if got.SetAttribute("traceparent", "x") || !got.SetAttribute("time", "yesterday") || !got.Time.Equal(want.Time) {
		t.Error("SetAttribute took an extension for an attribute, or a time that is none")
	}
}

func FuzzCloudEvent(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `[1]`, `{"specversion":"1.0","type":"t","source":"/s","id":"1"}`,
		`{"specversion":"1.0","type":"t","source":"/s","id":"1","data":{"a":[1,2]},"ext":true,"n":-5,"time":"2018-04-05t17:31:00.5z"}`,
		`{"specversion":"1.0","type":"t","source":"/s","id":"1","data_base64":"AP8=","datacontenttype":"text/plain","partitionkey":"k"}`,
		`{"specversion":"1.0","type":"t","source":"/s","id":"1","datacontenttype":"text/plain","data":"\ud800\u0000"}`,
		`{"specversion":"1.0","type":"t","source":"/s","id":"1","datacontenttype":"application/json","data": null }`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := messaging.UnmarshalCloudEvent(data)
		if err != nil {
			if !errors.Is(err, messaging.ErrInvalid) && !errors.Is(err, messaging.ErrTooLarge) {
				t.Errorf("UnmarshalCloudEvent() = %v, want ErrInvalid or ErrTooLarge", err)
			}
			return
		}
		if len(m.Payload) > len(data) || !json.Valid(data) || !utf8.Valid(data) {
			t.Errorf("%q was read as an event with %d bytes of payload", data, len(m.Payload))
		}
		// What can be read can be published, save for names that brokers own.
		for _, name := range []string{"cc", "bcc"} {
			delete(m.Headers, name)
		}
		maps.DeleteFunc(m.Headers, func(name, _ string) bool {
			probe := messaging.Message{ID: "1", Headers: map[string]string{name: ""}}
			return messaging.Check("t", 0, []messaging.Message{probe}) != nil
		})
		if err := messaging.Check("t", len(data), []messaging.Message{m}); err != nil {
			t.Errorf("Check() of what was read = %v, want nil", err)
		}
		// What can be written again comes back the same.
		again, err := messaging.MarshalCloudEvent(m)
		if err != nil {
			return
		}
		back, err := messaging.UnmarshalCloudEvent(again)
		if diff := sameMessage(m, back); diff != "" || err != nil {
			t.Errorf("%s does not come back (%v) (-want +got):\n%s", again, err, diff)
		}
	})
}

func BenchmarkCloudEvent(b *testing.B) {
	m := eventWith(func(m *messaging.Message) {
		m.Key, m.Time, m.ContentType, m.Payload = "k", time.Now(), "application/json", []byte(`{"orderId":456,"items":["item1","item2"]}`)
		m.Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	})
	data, err := messaging.MarshalCloudEvent(m)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := messaging.MarshalCloudEvent(m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := messaging.UnmarshalCloudEvent(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
