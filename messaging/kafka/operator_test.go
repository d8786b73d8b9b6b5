package kafka_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// Some tools write back the metadata that they found.
func TestAGroupThatIsMovedByHandReceivesAllFromThere(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*kadm.Offset){
		"the metadata is kept":    func(*kadm.Offset) {},
		"the metadata is dropped": func(at *kadm.Offset) { at.Metadata = "" },
		"the metadata is foreign": func(at *kadm.Offset) { at.Metadata = "parley1c:x:y" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seeds := fake(t).ListenAddrs()
			b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
			topic := unique("t")
			come := make(chan arrival, 100)
			sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
			publish(t, b, topic, numbered(10)...)
			var fifth arrival
			for i := range 10 {
				if a := receive(t, come); i == 4 {
					fifth = a
				} else {
					a.settle(t, messaging.Verdict{})
				}
			}
			shut(t, b)
			_ = sub.returned()
			if err := fifth.Settle(t.Context(), messaging.Verdict{}); err == nil {
				t.Error("Settle() = nil after the end, want ErrLost")
			}
			adm := admin(t, seeds)
			all, err := adm.FetchOffsets(within(t, patience), topic+".g")
			if err != nil {
				t.Fatal(err)
			}
			at := all[topic][0].Offset
			if at.At != 4 || at.Metadata == "" {
				t.Fatalf("committed are %d and %q, want 4, and what is done beyond", at.At, at.Metadata)
			}
			at.At = 1
			change(&at)
			moved := kadm.Offsets{}
			moved.Add(at)
			if err := adm.CommitAllOffsets(within(t, patience), topic+".g", moved); err != nil {
				t.Fatal(err)
			}
			again := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
			subscribe(t, again, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
			for _, want := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"} {
				a := receive(t, come)
				if string(a.Payload) != want || !a.Redelivered {
					t.Errorf("received %s, Redelivered %t, want %s, true", a.Payload, a.Redelivered, want)
				}
				a.settle(t, messaging.Verdict{})
			}
		})
	}
}

// Offsets that no record has, in the middle of what is settled out of order, and
// records that are deleted under the hands of those who have them.
func TestGapsInATopicNeitherLoseNorRepeatAnything(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, seeds []string) {
		topic := newTopic(t, seeds)
		come := make(chan arrival, 100)
		b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
		sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
		tx := raw(t, seeds, kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic))
		for n, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
			if err := tx.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := tx.ProduceSync(within(t, patience), kgo.StringRecord(fmt.Sprint(n, "a")), kgo.StringRecord(fmt.Sprint(n, "b"))).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := tx.EndTransaction(within(t, patience), commit); err != nil {
				t.Fatal(err)
			}
		}
		// Offsets: 0 1 (2) (3 4 5) 6 7 (8) (9 10 11) 12 13 (14).
		var held []arrival
		for _, want := range []string{"0 a", "0 b", "2 a", "2 b", "4 a", "4 b"} {
			a := receive(t, come)
			if string(a.Payload) != want && string(a.Payload) != strings.ReplaceAll(want, " ", "") {
				t.Errorf("received %q, want %q", a.Payload, want)
			}
			held = append(held, a)
		}
		for _, i := range []int{5, 2, 1} {
			held[i].settle(t, messaging.Verdict{})
		}
		adm := admin(t, seeds)
		eventually(t, "the commit of what is done", func() bool {
			all, err := adm.FetchOffsets(within(t, patience), topic+".g")
			at, _ := all.Lookup(topic, 0)
			return err == nil && at.At == 0 && len(at.Metadata) > len("parley1o:0:xxxx")
		})
		below := kadm.Offsets{}
		below.Add(kadm.Offset{Topic: topic, At: 7, LeaderEpoch: -1})
		if _, err := adm.DeleteRecords(within(t, patience), below); err != nil {
			t.Fatal(err)
		}
		shut(t, b)
		_ = sub.returned()
		again := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
		subscribe(t, again, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
		for _, want := range []arrival{held[3], held[4]} { // the first of all is gone
			a := receive(t, come)
			if a.ID != want.ID || !a.Redelivered {
				t.Errorf("received %q, Redelivered %t, want %q, true", a.Payload, a.Redelivered, want.Payload)
			}
			a.settle(t, messaging.Verdict{})
		}
		publish(t, again, topic, messaging.NewMessage("marker", nil))
		if a := receive(t, come); a.Type != "marker" {
			t.Errorf("received %q, want the marker", a.Payload)
		} else {
			a.settle(t, messaging.Verdict{})
		}
		eventually(t, "the commit of all", func() bool { return committed(t, adm, topic+".g", topic, 0) == 16 })
	})
}

func TestRedrivesOfSeveralProcessesMoveEachDeadLetterOnce(t *testing.T) {
	t.Parallel()
	seeds, topic := fake(t).ListenAddrs(), unique("t")
	conf := kafka.Config{Seeds: seeds, Partitions: 1, RebalanceTimeout: 2 * time.Second}
	b := newBroker(t, conf)
	come := make(chan *messaging.Delivery, 100)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{Kind: messaging.DeadLetter, Reason: "r"}))
	const total = 20
	publish(t, b, topic, numbered(total)...)
	for range total {
		receive(t, come)
	}
	sub.stop()
	back := make(chan *messaging.Delivery, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(back, messaging.Verdict{}))
	type result struct {
		n   int
		err error
	}
	results := make(chan result, 3)
	for range 3 {
		other := newBroker(t, conf)
		go func() {
			done, err := messaging.Redrive(within(t, patience), other, messaging.Subscription{Topic: topic, Group: "g"}, messaging.RedriveConfig{})
			results <- result{done.Moved, err}
		}()
	}
	moved := 0
	for range 3 {
		r := receive(t, results)
		if r.err != nil {
			t.Errorf("Redrive() = %v, want nil", r.err)
		}
		moved += r.n
	}
	if moved != total {
		t.Errorf("%d were moved, want %d", moved, total)
	}
	seen := map[string]bool{}
	for range total {
		seen[receive(t, back).ID] = true
	}
	if len(seen) != total || len(back) > 0 {
		t.Errorf("%d of %d came back, and %d more", len(seen), total, len(back))
	}
}
