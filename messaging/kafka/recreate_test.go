package kafka_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// A logbook counts the lines that are logged.
type logbook struct {
	mu    sync.Mutex
	lines int
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func TestATopicThatIsMadeAnewIsConsumedFromItsBeginning(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		topic := newTopic(t, seeds)
		logs := new(logbook)
		b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1, Logger: slog.New(slog.NewTextHandler(logs, nil))})
		come := make(chan arrival, 100)
		sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
		publish(t, b, topic, numbered(3)...)
		for range 2 {
			receive(t, come).settle(t, messaging.Verdict{})
		}
		held := receive(t, come)
		adm := admin(t, seeds)
		eventually(t, "the commit", func() bool { return committed(t, adm, topic+".g", topic, 0) == 2 })
		remake(t, seeds, topic)
		publish(t, newBroker(t, kafka.Config{Seeds: seeds}), topic, numbered(10)...) // before b knows
		if err := receive(t, sub.lost); err == nil {
			t.Error("OnLost(nil), want the reason")
		}
		sub.awaitReady()
		if err := held.Settle(within(t, patience), messaging.Verdict{}); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Settle() = %v of what was in the topic that is gone, want ErrLost", err)
		}
		for n := range 10 {
			a := receive(t, come)
			if string(a.Payload) != strconv.Itoa(n) {
				t.Errorf("received %s, want %d", a.Payload, n)
			}
			a.settle(t, messaging.Verdict{})
		}
		eventually(t, "the commit", func() bool { return committed(t, adm, topic+".g", topic, 0) == 10 })
		sub.stop()
		logs.mu.Lock()
		defer logs.mu.Unlock()
		if logs.lines > 100 {
			t.Errorf("%d lines were logged, want few", logs.lines)
		}
	})
}

// remake deletes a topic and makes it anew.
func remake(t *testing.T, seeds []string, topic string) {
	t.Helper()
	adm := admin(t, seeds)
	if _, err := adm.DeleteTopic(within(t, patience), topic); err != nil {
		t.Fatal(err)
	}
	var made kadm.CreateTopicResponse
	eventually(t, "the making of the topic", func() bool {
		var err error
		made, err = adm.CreateTopic(within(t, patience), 1, 1, nil, topic)
		return err == nil
	})
	eventually(t, "the showing of the topic", func() bool { // the controller is ahead of its brokers
		all, err := adm.ListTopics(within(t, patience), topic)
		return err == nil && all[topic].ID == made.ID
	})
}

func TestTransactGoesOverToATopicThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 1)
		stop := m.start(m.b, m.tx, m.copyOut)
		m.feed(0, 3, 1)
		m.read(m.out, 3)
		remake(t, seeds, m.in)
		m.b = txBroker(t, seeds) // whose client never saw the other
		eventually(t, "publishing", func() bool {
			return m.b.Publish(within(t, patience), m.in, messaging.NewMessage("", []byte("3"))) == nil
		})
		m.read(m.out, 4)
		if err := stop(); err != nil {
			t.Error(err)
		}
		m.exactly(m.out, 4)
	})
}

func TestAnOutputTopicThatIsMadeAnewFailsNoMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 1)
		m.tx.MaxAttempts = 1
		stop := m.start(m.b, m.tx, m.copyOut)
		m.feed(0, 3, 1)
		m.read(m.out, 3)
		remake(t, seeds, m.out)
		m.feed(0, 10, 1)
		m.read(m.out, 10)
		if err := stop(); err != nil {
			t.Error(err)
		}
		m.exactly(m.out, 10)
	})
}

func TestWhatIsPublishedToATopicThatIsMadeAnewReachesIt(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		topic := newTopic(t, seeds)
		b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
		subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, nothing).stop()
		publish(t, b, topic, numbered(1)...)
		remake(t, seeds, topic)
		var calls sync.WaitGroup
		for range 20 { // each of them finds out, and none may fail another
			calls.Go(func() { publish(t, b, topic, numbered(5)...) })
		}
		calls.Wait()
		eventually(t, "all of it", func() bool {
			ends, err := admin(t, seeds).ListEndOffsets(within(t, patience), topic)
			end, ok := ends.Lookup(topic, 0)
			return err == nil && ok && end.Offset == 100
		})
	})
}
