package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// A record is one of Kafka as testdata/client.py reads and prints it.
type record struct {
	Partition int        `json:"partition"`
	Key       []byte     `json:"key"` // base64, or null
	Value     []byte     `json:"value"`
	Headers   [][]string `json:"headers"` // pairs, the values in base64
}

// header returns the value of a header as client.py has it.
func header(name, value string) []string {
	text, _ := json.Marshal([]byte(value)) // which never fails
	return []string{name, strings.Trim(string(text), `"`)}
}

// python runs the client, and returns what it prints.
func python(t *testing.T, input []byte, args ...string) []string {
	t.Helper()
	interpreter := need.Python(t, services.Kafka())
	cmd := exec.CommandContext(within(t), interpreter, append([]string{"testdata/client.py", need.Address(t, services.Kafka())}, args...)...)
	var problem bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("client.py %s: %v\n%s", args, err, &problem)
	}
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

// produce has the client publish records, and returns the partition of each.
func produce(t *testing.T, topic string, records []record) (partitions []int) {
	t.Helper()
	var input bytes.Buffer
	for _, r := range records {
		must(t, json.NewEncoder(&input).Encode(r))
	}
	for _, line := range python(t, input.Bytes(), "produce", topic) {
		p, err := strconv.Atoi(line)
		must(t, err)
		partitions = append(partitions, p)
	}
	if len(partitions) != len(records) {
		t.Fatalf("the client published %d records, want %d", len(partitions), len(records))
	}
	return partitions
}

func newKafka(t *testing.T) *kafka.Broker {
	t.Helper()
	b, err := kafka.New(kafka.Config{
		Seeds: strings.Split(need.Address(t, services.Kafka()), ","), Source: "/interop", ReplicationFactor: 1,
		Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return closing(t, b)
}

// keys are a thousand, long and short, of ASCII and not.
func keys() []string {
	var all []string
	for i := range 1000 {
		key := strings.Repeat("k", i%41) + strconv.Itoa(i)
		if i%3 == 0 {
			key = "Schlüssel №" + key
		}
		all = append(all, key)
	}
	return all
}

func TestAPythonClientReadsOurMessagesAndAgreesOnTheirPartitions(t *testing.T) {
	need.Python(t, services.Kafka())
	b, topic := newKafka(t), unique()
	at := time.Date(2026, 11, 29, 12, 0, 0, 5000, time.UTC)
	var sent []messaging.Message
	of := map[string]messaging.Message{} // by Key
	for i, key := range keys() {
		m := messaging.NewMessage("OrderPlaced", fmt.Appendf(nil, `{"order":%d}`, i))
		m.Key, m.Subject, m.Time, m.ContentType = key, "order "+strconv.Itoa(i), at, "application/json"
		m.Headers = map[string]string{"tenant": "Zürich", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		if i == 0 {
			m.Payload = []byte{0, 0xff, 0xfe}
		}
		sent, of[key] = append(sent, m), m
	}
	receive(t, b, topic, len(sent), func() { must(t, b.Publish(within(t), topic, sent...)) })

	ours := map[string]int{} // partitions, by Key
	for _, line := range python(t, nil, "consume", topic, strconv.Itoa(len(sent))) {
		var r record
		must(t, json.Unmarshal([]byte(line), &r))
		m, ok := of[string(r.Key)]
		if !ok {
			t.Fatalf("the client reads a record with the key %q, which was not published", r.Key)
		}
		delete(of, m.Key)
		ours[m.Key] = r.Partition
		if !bytes.Equal(r.Value, m.Payload) {
			t.Errorf("the value of %s is %q, want the payload %q as it is", m.Key, r.Value, m.Payload)
		}
		want := map[string]string{}
		for _, h := range [][]string{
			header("ce_specversion", "1.0"), header("ce_id", m.ID), header("ce_type", m.Type), header("ce_source", "/interop"),
			header("ce_subject", m.Subject), header("ce_time", "2026-11-29T12:00:00.000005Z"), header("ce_partitionkey", m.Key),
			header("content-type", "application/json"), header("tenant", "Zürich"), header("traceparent", m.Headers["traceparent"]),
		} {
			want[h[0]] = h[1]
		}
		got := map[string]string{}
		for _, h := range r.Headers {
			got[h[0]] = h[1]
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(r.Headers) != len(want) {
			t.Errorf("the headers of %s are %v, want %v", m.Key, r.Headers, want)
		}
	}
	if len(of) > 0 {
		t.Fatalf("the client did not read %d messages", len(of))
	}

	var theirs []record
	for _, key := range keys() {
		theirs = append(theirs, record{Key: []byte(key), Value: []byte("x"), Headers: [][]string{}})
	}
	used, wrong := map[int]bool{}, 0
	for i, partition := range produce(t, topic, theirs) {
		key := string(theirs[i].Key)
		used[partition] = true
		if ours[key] != partition {
			wrong++
			t.Logf("key %q: we publish to partition %d, the client to %d", key, ours[key], partition)
		}
	}
	if wrong > 0 || len(used) < 2 {
		t.Errorf("%d of 1000 keys go to another partition, over %d partitions: want none, and more than one", wrong, len(used))
	}
}

func TestWeReadTheMessagesOfAPythonClient(t *testing.T) {
	need.Python(t, services.Kafka())
	b, topic := newKafka(t), unique()
	event := record{Key: []byte("customer 7"), Value: []byte(`{"order":1}`), Headers: [][]string{
		header("ce_specversion", "1.0"), header("ce_id", "A234-1234"), header("ce_type", "OrderPlaced"), header("ce_source", "/shop"),
		header("ce_subject", "order 1"), header("ce_time", "2026-11-29T12:00:00Z"), header("content-type", "application/json"),
		header("tenant", "Zürich"),
	}}
	plain := record{Value: []byte{0, 0xff}, Headers: [][]string{}}
	tombstone := record{Key: []byte("gone"), Headers: [][]string{header("msg-attempt", "7")}}
	got := map[string]messaging.Message{}
	for _, m := range receive(t, b, topic, 3, func() { produce(t, topic, []record{event, plain, tombstone}) }) {
		got[m.Key] = m
	}
	if m := got["customer 7"]; m.ID != "A234-1234" || m.Type != "OrderPlaced" || m.Source != "/shop" || m.Subject != "order 1" ||
		!m.Time.Equal(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)) || m.ContentType != "application/json" ||
		len(m.Headers) != 1 || m.Headers["tenant"] != "Zürich" || string(m.Payload) != `{"order":1}` {
		t.Errorf("the event arrives as %+v, want all its attributes and headers", m)
	}
	if m := got[""]; !strings.HasPrefix(m.ID, "kafka-"+topic) || !bytes.Equal(m.Payload, plain.Value) || len(m.Headers) != 0 {
		t.Errorf("a record without headers arrives as %+v, want its value, and an ID of where it lies", m)
	}
	if m, ok := got["gone"]; !ok || len(m.Payload) != 0 || len(m.Headers) != 0 {
		t.Errorf("a record without a value arrives as %+v, %v, want an empty payload, and nothing of parley's own headers believed", m, ok)
	}
}
