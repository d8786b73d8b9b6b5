package kafka_test

import (
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// A partition that is paused comes back only with the fetch after the one that waits
// at the broker for the others.
func TestABacklogIsReceivedWithoutAPauseForEachFetch(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1})
	topic := unique("t")
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, nothing).stop()
	const n = 40_000
	for range n / 1000 {
		msgs := numbered(1000)
		for i := range msgs {
			msgs[i].Payload = make([]byte, 256) // which does not compress, so that a fetch is not all there is
			_, _ = rand.Read(msgs[i].Payload)
		}
		publish(t, b, topic, msgs...)
	}
	var pauses atomic.Int64
	c.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if len(req.(*kmsg.FetchRequest).ForgottenTopics) > 0 {
			pauses.Add(1)
		}
		return nil, nil, false
	})
	come := make(chan *messaging.Delivery, n)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	for range n {
		receive(t, come)
	}
	if got := pauses.Load(); got > 3 {
		t.Errorf("fetching was paused %d times, want it paused only for a subscriber that is slow", got)
	}
}

// What a fetch brings is bounded, of all and of each partition, save for the first
// record that it finds: so each of these has to become the first.
func TestMessagesLargerThanAFetchBringsArrive(t *testing.T) {
	t.Parallel()
	seeds := server(t)
	topic := newTopic(t, seeds)
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 3, MaxPayload: 20 << 20})
	sub := messaging.Subscription{Topic: topic, Group: "g"}
	subscribe(t, b, sub, nothing).stop()
	keys := []string{"a", "b", "f"} // of three partitions
	want := map[string][]int{}
	for i, size := range []int{10, 18 << 20, 1000, 5 << 20, 10} {
		for _, key := range keys {
			m := messaging.NewMessage("large", make([]byte, size))
			_, _ = rand.Read(m.Payload) // which does not compress
			m.Key = key
			m.Headers = map[string]string{"n": strconv.Itoa(i), "sum": checksum(m.Payload)}
			publish(t, b, topic, m)
			want[key] = append(want[key], size)
		}
	}
	ends, err := admin(t, seeds).ListEndOffsets(within(t, patience), topic)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset == 0 {
			t.Errorf("partition %d has nothing, want large messages in each", o.Partition)
		}
	})
	come := make(chan *messaging.Delivery)
	subscribe(t, b, sub, settling(come, messaging.Verdict{}))
	got := map[string][]int{}
	for range 5 * len(keys) {
		d := receive(t, come)
		got[d.Key] = append(got[d.Key], len(d.Payload))
		if d.Headers["sum"] != checksum(d.Payload) {
			t.Errorf("message %s of key %s, of %d bytes, is not what was published", d.Headers["n"], d.Key, len(d.Payload))
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("received sizes by key %v, want as they were published: %v", got, want)
	}
}

func checksum(p []byte) string { return fmt.Sprint(crc32.ChecksumIEEE(p)) }
