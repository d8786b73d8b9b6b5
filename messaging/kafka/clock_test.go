package kafka_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// ahead puts a message among the retries of 100ms of a group, as a process does
// whose clock is a day ahead.
func ahead(t *testing.T, seeds []string, group string) {
	t.Helper()
	due := time.Now().Add(24*time.Hour + 100*time.Millisecond).UnixMilli()
	rec := &kgo.Record{Topic: group + ".retry.100", Value: []byte("ahead"), Headers: []kgo.RecordHeader{
		{Key: "ce_id", Value: []byte("ahead")}, {Key: "msg-attempt", Value: []byte("2")}, {Key: "msg-due", Value: strconv.AppendInt(nil, due, 10)},
	}}
	if err := raw(t, seeds).ProduceSync(within(t, patience), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestAProcessWhoseClockIsAheadHoldsUpNoRetriesOfOthers(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	began := time.Now()
	ahead(t, seeds, topic+".g")
	publish(t, b, topic, numbered(1)...)
	receive(t, come).settle(t, messaging.Verdict{Kind: messaging.Retry, After: 100 * time.Millisecond})
	for range 2 {
		a := receive(t, come)
		if took := time.Since(began); took < 100*time.Millisecond || a.Attempt != 2 {
			t.Errorf("%s came after %v at attempt %d, want at least 100ms, 2", a.Payload, took, a.Attempt)
		}
		a.settle(t, messaging.Verdict{})
	}
}

func TestAProcessWhoseClockIsAheadHoldsUpNoRetriesThatTransactTakesOver(t *testing.T) {
	t.Parallel()
	m := newMill(t, fake(t).ListenAddrs(), 1)
	stop := m.start(m.b, m.tx, m.copyOut)
	ahead(t, m.seeds, m.in+".mill")
	m.read(m.out, 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
}
