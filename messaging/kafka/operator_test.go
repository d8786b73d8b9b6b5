package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

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
