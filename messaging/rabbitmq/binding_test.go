package rabbitmq

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// carried returns p as a consumer receives it.
func carried(p amqp.Publishing) *amqp.Delivery {
	ts := p.Timestamp
	if !ts.IsZero() {
		ts = time.Unix(ts.Unix(), 0)
	}
	return &amqp.Delivery{
		Headers: p.Headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode,
		Priority: p.Priority, CorrelationId: p.CorrelationId, ReplyTo: p.ReplyTo, Expiration: p.Expiration, MessageId: p.MessageId,
		Timestamp: ts, Type: p.Type, UserId: p.UserId, AppId: p.AppId, Body: p.Body,
	}
}

func equal(a, b messaging.Message) string {
	if a.Time.Equal(b.Time) {
		a.Time, b.Time = time.Time{}, time.Time{}
	}
	for _, m := range []*messaging.Message{&a, &b} {
		if len(m.Headers) == 0 {
			m.Headers = nil
		}
		if len(m.Payload) == 0 {
			m.Payload = nil
		}
	}
	return cmp.Diff(a, b)
}

func TestAMessageComesBackAsItWasPublished(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 200) // longer than a property
	for name, m := range map[string]messaging.Message{
		"with everything": {
			ID: "1", Type: "OrderPlaced", Source: "/orders", Subject: "456", Key: "123", ContentType: "application/json",
			Time: time.Now(), Headers: map[string]string{"traceparent": "00-ab", "X.y_z-1": ""}, Payload: []byte{0, 1, 255},
		},
		"with an ID alone":                {ID: "1"},
		"with values too long for AMQP":   {ID: long, Type: long, Source: long, Subject: long, Key: long, ContentType: long},
		"from before 1970":                {ID: "1", Time: time.Date(1815, 12, 10, 1, 2, 3, 4, time.UTC)},
		"from another zone":               {ID: "1", Time: time.Now().In(time.FixedZone("x", 5*3600))},
		"with values that are not words":  {ID: " ", Type: "\n", Subject: "\u2028", Headers: map[string]string{"a": "\r\n", "b": "é"}},
		"with the largest headers":        {ID: "1", Headers: map[string]string{"a": strings.Repeat("v", messaging.MaxHeaderBytes-2)}},
		"with the type of another format": {ID: "1", ContentType: "application/cloudevents+json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, rest := decode(carried(encode(&m, "")), "t", "g")
			if diff := equal(m, d.Message); diff != "" {
				t.Errorf("decode(encode(m)) differs (-want +got):\n%s", diff)
			}
			if d.Topic != "t" || d.Group != "g" || d.Attempt != 1 || rest != 0 {
				t.Errorf("decode() = %q, %q, attempt %d, rest %v", d.Topic, d.Group, d.Attempt, rest)
			}
		})
	}
	t.Run("with the Source of the Config where it has none", func(t *testing.T) {
		t.Parallel()
		d, _ := decode(carried(encode(&messaging.Message{ID: "1"}, "/orders")), "t", "g")
		if d.Source != "/orders" {
			t.Errorf("Source = %q, want /orders", d.Source)
		}
	})
	t.Run("without headers that belong to this package", func(t *testing.T) {
		t.Parallel()
		m := messaging.Message{ID: "1", Headers: map[string]string{"msg-attempt": "9", "msg-x": "y", "mine": "v"}}
		d, _ := decode(carried(encode(&m, "")), "t", "g")
		if diff := cmp.Diff(map[string]string{"mine": "v"}, d.Headers); diff != "" || d.Attempt != 1 {
			t.Errorf("decode() = attempt %d, headers (-want +got):\n%s", d.Attempt, diff)
		}
	})
}

func TestAMessageWithIDTypeAndSourceIsACloudEventInBinaryMode(t *testing.T) {
	t.Parallel()
	m := messaging.Message{
		ID: "1", Type: "OrderPlaced", Source: "/orders", Subject: "456", Key: "123", ContentType: "application/json",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Payload: []byte("{}"),
	}
	p := encode(&m, "")
	want := amqp.Table{
		"cloudEvents_specversion": "1.0", "cloudEvents_id": "1", "cloudEvents_type": "OrderPlaced", "cloudEvents_source": "/orders",
		"cloudEvents_subject": "456", "cloudEvents_partitionkey": "123", "cloudEvents_time": "2026-01-02T03:04:05.000000006Z",
	}
	if diff := cmp.Diff(want, p.Headers); diff != "" || p.ContentType != "application/json" {
		t.Errorf("encode() = %s, headers (-want +got):\n%s", p.ContentType, diff)
	}
	if got := encode(&messaging.Message{ID: "1", Type: "OrderPlaced"}, "/orders").Headers["cloudEvents_specversion"]; got != "1.0" {
		t.Errorf("specversion with the Source of the Config = %v, want 1.0", got)
	}
	for _, m := range []messaging.Message{{ID: "1", Type: "OrderPlaced"}, {ID: "1", Source: "/orders"}} {
		if got := encode(&m, "").Headers["cloudEvents_specversion"]; got != nil {
			t.Errorf("specversion of %+v, which lacks what an event must have, = %v, want none", m, got)
		}
	}
}

func TestEncodeSharesNoMemoryWithTheMessage(t *testing.T) {
	t.Parallel()
	m := messaging.Message{ID: "1", Headers: map[string]string{"a": "b"}, Payload: []byte("payload")}
	p := encode(&m, "")
	copy(m.Payload, "changed")
	m.Headers["a"] = "changed"
	if string(p.Body) != "payload" || p.Headers["a"] != "b" {
		t.Errorf("encode() = %q, %v after the message was changed", p.Body, p.Headers)
	}
}

func TestForeignMessagesAreReadable(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	d := &amqp.Delivery{
		MessageId: "m1", Type: "T", Timestamp: now, ContentType: "text/plain", AppId: "app", Redelivered: true,
		Headers: amqp.Table{
			"n": int32(7), "f": 1.5, "b": true, "t": now, "raw": []byte{0xff, 'x', 0}, "nil": nil, "list": []any{"a"}, "table": amqp.Table{"a": "b"},
			"bad name": "x", "": "x", strings.Repeat("n", 129): "x", "x-death": []any{amqp.Table{}}, "x-first-death-queue": "q", "x-delivery-count": int64(3),
		},
		Body: []byte("hello"),
	}
	got, _ := decode(d, "t", "g")
	want := messaging.Message{
		ID: "m1", Type: "T", ContentType: "text/plain", Time: now, Payload: []byte("hello"),
		Headers: map[string]string{"n": "7", "f": "1.5", "b": "true", "t": "2023-11-14T22:13:20Z", "raw": "\uFFFDx\uFFFD"},
	}
	if diff := equal(want, got.Message); diff != "" || !got.Redelivered {
		t.Errorf("decode() = redelivered %v, (-want +got):\n%s", got.Redelivered, diff)
	}
	t.Run("with an ID that stays the same when they have none", func(t *testing.T) {
		t.Parallel()
		d := amqp.Delivery{Exchange: "e", RoutingKey: "k", Body: []byte("hello")}
		first, _ := decode(&d, "t", "g")
		redelivered := d
		redelivered.Redelivered, redelivered.DeliveryTag = true, 9
		second, _ := decode(&redelivered, "t", "g")
		retried := carried(again(&d, 2, 0))
		retried.RoutingKey = "another"
		third, _ := decode(retried, "t", "g")
		other := d
		other.Body = []byte("hullo")
		fourth, _ := decode(&other, "t", "g")
		if first.ID == "" || first.ID != second.ID || first.ID != third.ID || first.ID == fourth.ID {
			t.Errorf("IDs = %q, redelivered %q, retried %q, of another %q", first.ID, second.ID, third.ID, fourth.ID)
		}
	})
	t.Run("with an attempt and a wait within bounds whatever they claim", func(t *testing.T) {
		t.Parallel()
		for _, v := range []any{int64(math.MinInt64), int64(-1), int64(1 << 60), int64(math.MaxInt64), "x", nil, true, 1.5, amqp.Table{}, uint64(math.MaxUint64)} {
			got, rest := decode(&amqp.Delivery{Headers: amqp.Table{headerAttempt: v, headerWait: v}}, "t", "g")
			if got.Attempt != 1 || rest != 0 {
				t.Errorf("decode(%v) = attempt %d, rest %v, want 1, 0", v, got.Attempt, rest)
			}
		}
		own := amqp.Table{headerAttempt: int64(maxAttempt), headerWait: maxWait.Milliseconds()}
		if got, rest := decode(&amqp.Delivery{Headers: own}, "t", "g"); got.Attempt != maxAttempt || rest != maxWait {
			t.Errorf("decode() of a retry = attempt %d, rest %v, want %d, %v", got.Attempt, rest, maxAttempt, maxWait)
		}
		if got, rest := decode(&amqp.Delivery{Headers: own, Exchange: "t"}, "t", "g"); got.Attempt != 1 || rest != 0 {
			t.Errorf("decode() from the topic = attempt %d, rest %v, want 1, 0", got.Attempt, rest)
		}
		p := again(&amqp.Delivery{}, math.MaxInt, math.MaxInt64)
		if got, rest := decode(carried(p), "t", "g"); got.Attempt != maxAttempt || rest != maxWait {
			t.Errorf("the most that a retry asks for is attempt %d, rest %v, want %d, %v", got.Attempt, rest, maxAttempt, maxWait)
		}
	})
}

func TestSuccessorKeepsTheMessageAndDropsWhatWouldSteerIt(t *testing.T) {
	t.Parallel()
	d := &amqp.Delivery{
		MessageId: "m1", Type: "T", CorrelationId: "c", ReplyTo: "r", ContentEncoding: "gzip", Priority: 3, AppId: "app",
		UserId: "someone", Expiration: "10", DeliveryMode: amqp.Transient, Body: []byte{1, 2, 3},
		Headers: amqp.Table{
			"own": "v", "list": []any{"a"}, "CC": []any{"elsewhere"}, "BCC": []any{"elsewhere"}, "x-death": []any{}, "x-delivery-count": int64(1),
			headerAttempt: int64(1), headerWait: int64(5), headerSeq: int64(8), messaging.HeaderDeadReason: "earlier",
		},
	}
	p := again(d, 2, 1500*time.Microsecond)
	want := amqp.Publishing{
		MessageId: "m1", Type: "T", CorrelationId: "c", ReplyTo: "r", ContentEncoding: "gzip", Priority: 3, AppId: "app",
		DeliveryMode: amqp.Persistent, Body: []byte{1, 2, 3},
		Headers: amqp.Table{"own": "v", "list": []any{"a"}, headerAttempt: int64(2), headerWait: int64(2)},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("again() differs (-want +got):\n%s", diff)
	}
	if _, kept := d.Headers["CC"]; !kept {
		t.Error("again() changed the delivery")
	}

	now := time.Unix(1_700_000_000, 0)
	p = dead(d, messaging.Subscription{Topic: "t", Group: "g"}, messaging.Verdict{
		Reason: messaging.ReasonExhausted, Err: errors.New(strings.Repeat("é", 1000) + "\xff\x00"),
	}, 3, now)
	for name, want := range map[string]any{
		messaging.HeaderDeadReason: "exhausted", messaging.HeaderDeadAttempts: "3", messaging.HeaderDeadTopic: "t",
		messaging.HeaderDeadGroup: "g", messaging.HeaderDeadTime: "2023-11-14T22:13:20Z",
		messaging.HeaderDeadError: strings.Repeat("é", 512), "own": "v", headerAttempt: nil, headerWait: nil,
	} {
		if p.Headers[name] != want {
			t.Errorf("header %s = %v, want %v", name, p.Headers[name], want)
		}
	}
	if !bytes.Equal(p.Body, d.Body) {
		t.Errorf("Body = %v, want %v", p.Body, d.Body)
	}
}

func TestSuccessorFitsInAFrame(t *testing.T) {
	t.Parallel()
	d := &amqp.Delivery{Headers: amqp.Table{"keep": "v"}}
	for i := range 120 {
		d.Headers["h"+strings.Repeat("x", i)] = []any{strings.Repeat("v", 900), amqp.Table{"n": []byte(strings.Repeat("v", 100))}}
	}
	p := dead(d, messaging.Subscription{Topic: "t", Group: "g"}, messaging.Verdict{Reason: strings.Repeat("r", 5000), Err: errors.New(strings.Repeat("e", 5000))}, 1, time.Now())
	if total := size(p.Headers); total > 120<<10 {
		t.Errorf("headers of the successor take %d bytes", total)
	}
}

func TestCheckRefusesWhatHasAMeaningToRabbitMQ(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count", "x-first-death-queue", "x-last-death-reason",
		ceID, ceType, ceSource, ceSubject, ceTime, ceKey, ceContentType,
	} {
		if err := check("t", &messaging.Message{Headers: map[string]string{name: "x"}}); !errors.Is(err, messaging.ErrInvalid) {
			t.Errorf("check() of header %s = %v, want ErrInvalid", name, err)
		}
	}
	if err := check("amq.t", &messaging.Message{}); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("check() of topic amq.t = %v, want ErrInvalid", err)
	}
	if err := check("amqp", &messaging.Message{Headers: map[string]string{"cc": "x", "cloudEvents_specversion": "1.0", "x-deaths": "x"}}); err != nil {
		t.Errorf("check() = %v, want nil", err)
	}
}

func TestAnonymousMessagesThatDifferHaveDifferentIDs(t *testing.T) {
	t.Parallel()
	id := func(change func(*amqp.Delivery)) string {
		d := amqp.Delivery{Exchange: "e", RoutingKey: "k", Body: []byte("b"), Headers: amqp.Table{
			"a": "1", "at": time.Unix(5, 0).UTC(), "nested": amqp.Table{"x": int32(1), "y": []any{"z"}}, ceSubject: "s",
		}}
		change(&d)
		m, _ := decode(&d, "t", "g")
		return m.ID
	}
	same := id(func(*amqp.Delivery) {})
	for name, change := range map[string]func(*amqp.Delivery){
		"in the value of a header":  func(d *amqp.Delivery) { d.Headers["a"] = "2" },
		"in the type of a header":   func(d *amqp.Delivery) { d.Headers["a"] = int32(1) },
		"in the name of a header":   func(d *amqp.Delivery) { delete(d.Headers, "a"); d.Headers["b"] = "1" },
		"in a header more":          func(d *amqp.Delivery) { d.Headers["c"] = nil },
		"in a table":                func(d *amqp.Delivery) { d.Headers["nested"] = amqp.Table{"x": int32(2), "y": []any{"z"}} },
		"in a list":                 func(d *amqp.Delivery) { d.Headers["nested"] = amqp.Table{"x": int32(1), "y": []any{"z", nil}} },
		"in a time":                 func(d *amqp.Delivery) { d.Headers["at"] = time.Unix(6, 0) },
		"in an attribute":           func(d *amqp.Delivery) { d.Headers[ceSubject] = "other" },
		"in the content's encoding": func(d *amqp.Delivery) { d.ContentEncoding = "gzip" },
	} {
		if id(change) == same {
			t.Errorf("messages that differ %s have one ID", name)
		}
	}
	if got := id(func(d *amqp.Delivery) {
		d.Headers["at"] = time.Unix(5, 0).In(time.FixedZone("x", 3600))
		for _, name := range []string{"x-death", "x-delivery-count", "CC", headerAttempt, headerWait, headerSeq} {
			d.Headers[name] = int64(1)
		}
	}); got != same {
		t.Errorf("delivered again, the message has the ID %s, want %s", got, same)
	}
}

func TestCloudEventsWithEitherPrefixHaveTheirAttributes(t *testing.T) {
	t.Parallel()
	when := time.Unix(1_700_000_000, 5).UTC()
	headers := amqp.Table{}
	for name, value := range map[string]string{
		"id": "1", "type": "T", "source": "/s", "subject": "sub", "partitionkey": "k", "datacontenttype": "text/plain",
		"time": when.Format(time.RFC3339Nano), "specversion": "1.0",
	} {
		headers["cloudEvents:"+name] = value
	}
	headers[ceSubject] = "preferred"
	headers["cloudEvents:extension"] = int64(5)
	want := messaging.Message{
		ID: "1", Type: "T", Source: "/s", Subject: "preferred", Key: "k", ContentType: "text/plain", Time: when,
		Headers: map[string]string{"extension": "5"},
	}
	d := &amqp.Delivery{Exchange: "e", Headers: headers}
	retry := again(d, 2, 0)
	letter := dead(d, messaging.Subscription{}, messaging.Verdict{}, 2, when)
	for name, d := range map[string]*amqp.Delivery{"published": d, "retried": carried(retry), "set aside": carried(letter)} {
		got, _ := decode(d, "t", "g")
		maps.DeleteFunc(got.Headers, func(n, _ string) bool { return strings.HasPrefix(n, headersDead) })
		if diff := equal(want, got.Message); diff != "" {
			t.Errorf("%s, it differs (-want +got):\n%s", name, diff)
		}
	}
	for name := range retry.Headers {
		if strings.HasPrefix(name, ceColonPrefix) {
			t.Errorf("the copy has the header %s", name)
		}
	}
	if len(headers) != 10 {
		t.Error("decode() changed the delivery")
	}
}

func TestExtensionsOfCloudEventsTakeNoOtherHeadersPlace(t *testing.T) {
	t.Parallel()
	d := &amqp.Delivery{Headers: amqp.Table{
		"tenant": "own", cePrefix + "tenant": "extension", cePrefix + "msg-dlq-reason": "forged", cePrefix + "x-death": "forged", cePrefix: "nameless",
	}}
	got, _ := decode(d, "t", "g")
	if diff := cmp.Diff(map[string]string{"tenant": "own"}, got.Headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func FuzzBindingRoundTrip(f *testing.F) {
	f.Add("id", "Type", "/s", "sub", "key", "text/plain", "name", "value", []byte("p"), int64(1))
	f.Add(strings.Repeat("i", 300), "", "", "", "", "", "cloudEvents_id", "v", []byte(nil), int64(-1))
	f.Fuzz(func(t *testing.T, id, typ, source, subject, key, contentType, name, value string, payload []byte, nanos int64) {
		m := messaging.Message{
			ID: id, Type: typ, Source: source, Subject: subject, Key: key, ContentType: contentType,
			Headers: map[string]string{name: value}, Payload: payload, Time: time.Unix(0, nanos),
		}
		if messaging.Check("t", maxPayload, []messaging.Message{m}) != nil || check("t", &m) != nil {
			t.Skip()
		}
		d, _ := decode(carried(encode(&m, "")), "t", "g")
		want := m.Clone()
		maps.DeleteFunc(want.Headers, func(n, _ string) bool { return strings.HasPrefix(n, reserved) })
		if diff := equal(want, d.Message); diff != "" {
			t.Errorf("decode(encode(m)) differs (-want +got):\n%s", diff)
		}
	})
}

func FuzzDecodeForeign(f *testing.F) {
	f.Add("id", "type", "name", "value", []byte("raw"), int64(3), "2020-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, id, typ, name, value string, raw []byte, n int64, when string) {
		d := &amqp.Delivery{MessageId: id, Type: typ, Headers: amqp.Table{
			name: value, "raw": raw, headerAttempt: n, headerWait: n, ceTime: when, ceSubject: raw,
		}, Body: raw}
		got, rest := decode(d, "t", "g")
		if got.ID == "" || got.Attempt < 1 || rest < 0 {
			t.Errorf("decode() = ID %q, attempt %d, rest %v", got.ID, got.Attempt, rest)
		}
		for _, s := range []string{got.ID, got.Type, got.Subject} {
			if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				t.Errorf("attribute %q cannot be published again", s)
			}
		}
		for name, value := range got.Headers {
			if !isName(name) || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
				t.Errorf("header %q: %q cannot be published again", name, value)
			}
		}
	})
}
