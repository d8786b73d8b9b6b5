package kafka_test

import (
	"crypto/rand"
	"sync/atomic"
	"testing"

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
