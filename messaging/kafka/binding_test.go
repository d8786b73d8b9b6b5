package kafka

import (
	"bytes"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// headersIn returns the headers of rec by name.
func headersIn(rec *kgo.Record) map[string]string {
	m := map[string]string{}
	for _, h := range rec.Headers {
		m[h.Key] = string(h.Value)
	}
	return m
}

func TestAMessageIsACloudEventInBinaryMode(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	m := messaging.Message{
		ID: "id", Type: "T", Subject: "s", Time: at, Key: "k", ContentType: "text/plain",
		Headers: map[string]string{"mine": "kept", "msg-attempt": "9"}, Payload: []byte("p"),
	}
	var o outgoing
	o.encode("t", &m, "/orders")
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": "id", "ce_type": "T", "ce_source": "/orders", "ce_subject": "s", "ce_time": "2026-01-02T03:04:05.000000006Z",
		"ce_partitionkey": "k", "content-type": "text/plain", "mine": "kept",
	}
	if got := headersIn(&o.rec); !maps.Equal(got, want) {
		t.Errorf("headers = %q, want %q", got, want)
	}
	if string(o.rec.Key) != "k" || string(o.rec.Value) != "p" || o.rec.Topic != "t" {
		t.Errorf("record = %q, %q to %s, want k, p, t", o.rec.Key, o.rec.Value, o.rec.Topic)
	}
	if m.Source != "" {
		t.Error("encode changed its argument")
	}
}

func TestWhatLacksATypeOrASourceDoesNotSayThatItIsACloudEvent(t *testing.T) {
	var o outgoing
	o.encode("t", &messaging.Message{ID: "id", Source: "/s"}, "")
	if got := headersIn(&o.rec); got["ce_specversion"] != "" || got["ce_id"] != "id" {
		t.Errorf("headers = %q, want an ID without a specversion", got)
	}
	if o.rec.Key != nil {
		t.Errorf("key = %q, want none", o.rec.Key)
	}
	if o.rec.Value == nil {
		t.Error("the record has no value, want an empty one: without a value it is a tombstone")
	}
}

// What other programs may have sent.
func TestForeignRecordsAreReadWithWhatTheyHave(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	plain := &kgo.Record{Topic: "t", Partition: 3, Offset: 42, Key: []byte("k\x00\xff"), Value: []byte("body"), Timestamp: at}
	var d messaging.Delivery
	new(decoder).decode(&d, plain)
	if d.ID != "kafka-t-3-42" || !d.Time.Equal(at) || d.Key != "k\uFFFD\uFFFD" || string(d.Payload) != "body" || d.Headers != nil || d.Attempt != 1 {
		t.Errorf("decode() = %+v, want an ID of its place, its timestamp, and a key of text", d)
	}

	odd := &kgo.Record{Topic: "t", Headers: []kgo.RecordHeader{
		{Key: "ce_id", Value: []byte("first")},
		{Key: "ce_id", Value: []byte("id")},
		{Key: "ce_time", Value: []byte("yesterday")},
		{Key: "ce_specversion", Value: []byte("0.3")},
		{Key: "ce_dataschema", Value: []byte("/schema")},
		{Key: "ce_tenant", Value: []byte("of ce")},
		{Key: "tenant", Value: []byte("own")},
		{Key: "ce_msg-attempt", Value: []byte("5")},
		{Key: "no spaces", Value: []byte("x")},
		{Key: "", Value: []byte("x")},
		{Key: "binary", Value: []byte{0, 0xff}},
		{Key: "null"},
		{Key: "twice", Value: []byte("1")},
		{Key: "twice", Value: []byte("2")},
		{Key: "content-type", Value: []byte("a/b")},
		{Key: "msg-attempt", Value: []byte("7")},
		{Key: "msg-wait", Value: []byte("7000")},
		{Key: "msg-dlq-reason", Value: []byte("forged")},
	}}
	d = messaging.Delivery{}
	if rest := new(decoder).decode(&d, odd); rest != 0 || d.Attempt != 1 {
		t.Errorf("decode() = attempt %d, rest %v, want 1, 0: whoever publishes to a topic cannot set them", d.Attempt, rest)
	}
	want := map[string]string{"dataschema": "/schema", "tenant": "own", "binary": "\uFFFD\uFFFD", "null": "", "twice": "2"}
	if d.ID != "id" || d.ContentType != "a/b" || !d.Time.IsZero() || !maps.Equal(d.Headers, want) {
		t.Errorf("decode() = %s, %s, %v, %q, want id, a/b, no time, %q", d.ID, d.ContentType, d.Time, d.Headers, want)
	}
	// In a topic of the group, they are this package's own.
	d = messaging.Delivery{}
	if rest := (&decoder{own: true}).decode(&d, odd); rest != 7*time.Second || d.Attempt != 7 || d.Headers["msg-dlq-reason"] != "forged" || d.Headers["msg-attempt"] != "" {
		t.Errorf("decode() = attempt %d, rest %v, %q, want 7, 7s, and the reason among the headers", d.Attempt, rest, d.Headers)
	}
}

func TestTextsThatRecordsRepeatAreThoseOfEachRecord(t *testing.T) {
	d := new(decoder)
	for n, text := range []string{"a", "a", "b", "", "b", "\xff", "\xff", "\uFFFD", "a"} {
		rec := &kgo.Record{Topic: "t"}
		if text != "" {
			for _, name := range []string{"ce_source", "ce_type", "content-type"} {
				rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: name, Value: []byte(text)})
			}
		}
		var m messaging.Delivery
		d.decode(&m, rec)
		if want := strings.ToValidUTF8(text, "\uFFFD"); m.Source != want || m.Type != want || m.ContentType != want {
			t.Errorf("record %d has %q, %q and %q, want %q", n, m.Source, m.Type, m.ContentType, want)
		}
	}
}

// A partition may have no other record for days.
func TestALargeTextIsNotKeptForTheNextRecord(t *testing.T) {
	d := new(decoder)
	large := strings.Repeat("x", 1<<20)
	var m messaging.Delivery
	d.decode(&m, &kgo.Record{Topic: "t", Headers: []kgo.RecordHeader{{Key: "ce_source", Value: []byte(large)}, {Key: "ce_id", Value: []byte(large)}}})
	if m.Source != large || m.ID != large {
		t.Errorf("decode() = %d and %d characters, want all %d", len(m.Source), len(m.ID), len(large))
	}
	if n := len(d.source) + d.texts.Cap() + len(d.payloads); n > 3*shared {
		t.Errorf("%d bytes are kept, want no more than is shared", n)
	}
}

// Small ones lie side by side in memory.
func TestAReceiverMayChangeAndAppendToItsPayload(t *testing.T) {
	d := new(decoder)
	var got [100]messaging.Delivery
	want := func(i int) (id string, body []byte) {
		return strings.Repeat("i", i*i%1500) + strconv.Itoa(i), bytes.Repeat([]byte{byte(i)}, i*i%9000)
	}
	var last *kgo.Record
	for i := range got {
		id, body := want(i)
		last = &kgo.Record{Topic: "t", Value: body, Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte(id)}}}
		d.decode(&got[i], last)
	}
	if d.texts.Cap() > shared || len(d.payloads) > shared {
		t.Errorf("pieces of %d and %d bytes are shared, want at most %d: who keeps one text keeps so much", d.texts.Cap(), len(d.payloads), shared)
	}
	for i := range got {
		id, body := want(i)
		if got[i].ID != id || !bytes.Equal(got[i].Payload, body) {
			t.Fatalf("record %d was read as %s with %d bytes, want %s with %d", i, got[i].ID, len(got[i].Payload), id, len(body))
		}
		clear(got[i].Payload)
		_ = append(got[i].Payload, "more"...)
	}
	if _, body := want(len(got) - 1); !bytes.Equal(last.Value, body) {
		t.Error("the record has changed with the payload, want it as it came")
	}
}

func TestASuccessorKeepsWhatItsRecordHad(t *testing.T) {
	rec := &kgo.Record{
		Topic: "t", Partition: 1, Offset: 2, Key: []byte{0xff}, Value: []byte{0, 1}, Timestamp: time.UnixMilli(1),
		Headers: []kgo.RecordHeader{{Key: "binary", Value: []byte{0xff}}, {Key: "msg-attempt", Value: []byte("2")}, {Key: "msg-dlq-reason", Value: []byte("r")}, {Key: "binary", Value: []byte{0xfe}}},
	}
	next := again(rec, "t.g.retry.5", 3, time.UnixMilli(1000), time.Minute)
	if !bytes.Equal(next.Key, rec.Key) || !bytes.Equal(next.Value, rec.Value) || next.Topic != "t.g.retry.5" || len(rec.Headers) != 4 {
		t.Errorf("again() = %q, %q to %s, want what the record had", next.Key, next.Value, next.Topic)
	}
	if len(next.Headers) != 7 || !bytes.Equal(next.Headers[0].Value, []byte{0xff}) || !bytes.Equal(next.Headers[1].Value, []byte{0xfe}) {
		t.Errorf("again() has headers %q, want both of one name as they were", next.Headers)
	}
	h := headersIn(next)
	if h["ce_id"] != "kafka-t-1-2" || h["msg-attempt"] != "3" || h["msg-due"] != "1000" || h["msg-wait"] != "60000" || h["msg-dlq-reason"] != "" {
		t.Errorf("again() has headers %q, want the ID of the first place and what is to come", h)
	}
	if h := headersIn(again(rec, "x", 1, time.Time{}, 0)); h["msg-attempt"]+h["msg-due"]+h["msg-wait"] != "" {
		t.Errorf("again() of a first attempt has headers %q, want none of this package", h)
	}
	if h := headersIn(dead(rec, "x", map[string]string{"msg-dlq-reason": "new"})); h["msg-dlq-reason"] != "new" || h["msg-attempt"] != "" {
		t.Errorf("dead() has headers %q, want the new reason alone", h)
	}
	if h := headersIn(still(rec, "x")); h["msg-dlq-reason"] != "r" || h["msg-attempt"] != "" {
		t.Errorf("still() has headers %q, want the reason as it was", h)
	}
}

func TestADueTimeThatIsNotOursIsNotWaitedFor(t *testing.T) {
	latest := time.UnixMilli(2000)
	for value, want := range map[string]time.Time{
		"": {}, "soon": {}, "99999999999999999999": {},
		"1000": time.UnixMilli(1000), "-1": time.UnixMilli(-1), "2001": latest, "9223372036854775807": latest,
	} {
		rec := &kgo.Record{Headers: []kgo.RecordHeader{{Key: headerDue, Value: []byte(value)}}}
		if got := due(rec, latest); !got.Equal(want) {
			t.Errorf("due(%q) = %v, want %v", value, got, want)
		}
	}
	if got := due(new(kgo.Record), latest); !got.IsZero() {
		t.Errorf("due() = %v without a header, want none", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("ce_id", []byte("id"), "msg-wait", []byte("-1"), []byte("key"), []byte("value"))
	f.Add("ce_time", []byte("0000-00-00"), "msg-attempt", []byte("99999999999999999999"), []byte{0xff}, []byte(nil))
	f.Add("content-type", []byte{0}, "ce_", []byte("x"), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, name1 string, value1 []byte, name2 string, value2, key, value []byte) {
		rec := &kgo.Record{Topic: "t", Key: key, Value: value, Headers: []kgo.RecordHeader{{Key: name1, Value: value1}, {Key: name2, Value: value2}}}
		for _, own := range []bool{false, true} {
			var d messaging.Delivery
			rest := (&decoder{own: own}).decode(&d, rec)
			if d.ID == "" || d.Attempt < 1 || rest < 0 || rest > maxWait || !bytes.Equal(d.Payload, value) {
				t.Fatalf("decode() = %+v, %v, want an ID, an attempt, the payload and a delay within a year", d, rest)
			}
			for name, value := range d.Headers {
				if !isName(name) || !utf8.ValidString(value) || strings.Contains(value, "\x00") {
					t.Fatalf("header %q = %q, want what a Message may have", name, value)
				}
			}
			for _, next := range []*kgo.Record{again(rec, "r", d.Attempt+1, time.Now(), rest), still(rec, "d")} {
				var e messaging.Delivery
				(&decoder{own: true}).decode(&e, next)
				if e.ID != d.ID || e.Key != d.Key || !bytes.Equal(e.Payload, d.Payload) {
					t.Fatalf("the successor is %+v, want the same message as %+v", e, d)
				}
			}
		}
	})
}
