package sqs

import (
	"strings"
	"testing"

	"github.com/parley-go/parley/messaging"
)

func TestQueuesAreNamedForOperators(t *testing.T) {
	for _, c := range []struct {
		cfg          Config
		topic, group string
		want         queues
	}{
		{Config{}, "orders", "billing", queues{"orders_to_billing", "orders_to_billing_dlq"}},
		{Config{FIFO: true, Prefix: "prod-"}, "orders", "billing", queues{"prod-orders_to_billing.fifo", "prod-orders_to_billing_dlq.fifo"}},
		{Config{}, "com.shop_1", "mail.v2", queues{"com_pshop__1_to_mail_pv2", "com_pshop__1_to_mail_pv2_dlq"}},
	} {
		if got := c.cfg.queuesOf(c.topic, c.group); got != c.want {
			t.Errorf("queuesOf(%s, %s) = %v, want %v", c.topic, c.group, got, c.want)
		}
	}
}

// FuzzQueuesOf holds that no two groups share a queue, that all names are SQS's, and
// that a topic's prefix finds its own queues alone.
func FuzzQueuesOf(f *testing.F) {
	f.Add("a", "b", "a", "b_dlq", false)
	f.Add("a_", "to_b", "a", "_to_b", true)
	f.Add("a", "dlq", "a_dlq", "a", false)
	f.Add("a.b", "c", "a_b", "c", false)
	f.Add(strings.Repeat("a", 128), "b", strings.Repeat("a", 127), "b", true)
	f.Add("a", strings.Repeat(".", 128), "a", strings.Repeat("_", 128), false)
	f.Fuzz(func(t *testing.T, topic, group, otherTopic, otherGroup string, fifo bool) {
		for _, s := range []messaging.Subscription{{Topic: topic, Group: group}, {Topic: otherTopic, Group: otherGroup}} {
			if _, err := messaging.CheckSubscription(s); err != nil {
				t.Skip("no names")
			}
		}
		c := Config{FIFO: fifo, Prefix: "sixteen-letters-"}
		q, other := c.queuesOf(topic, group), c.queuesOf(otherTopic, otherGroup)
		for _, name := range []string{q.work, q.dead} {
			if len(name) > maxQueueName || strings.ContainsFunc(strings.TrimSuffix(name, fifoSuffix), func(r rune) bool { return !isAlnum(r) && r != '-' && r != '_' }) {
				t.Errorf("%q is no name of a queue", name)
			}
		}
		if q.work == q.dead || q.work == other.dead || (topic != otherTopic || group != otherGroup) && (q.work == other.work || q.dead == other.dead) {
			t.Errorf("%s of %s and %s of %s have %v and %v", group, topic, otherGroup, otherTopic, q, other)
		}
		prefix := c.queuePrefix(topic)
		if !c.isWork(prefix, q.work) || c.isWork(prefix, q.dead) {
			t.Errorf("isWork = %t of %s, %t of %s, want true, false", c.isWork(prefix, q.work), q.work, c.isWork(prefix, q.dead), q.dead)
		}
		if found := strings.HasPrefix(other.work, prefix); found != (topic == otherTopic) {
			t.Errorf("the prefix %s of %s finds %s of %s: %t", prefix, topic, other.work, otherTopic, found)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("customer 7", "customer-7")
	f.Add("hash:a", "a")
	f.Add("", "ключ")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := token(a), token(b)
		if x == "" || len(x) > 128 || strings.ContainsFunc(x, func(r rune) bool { return r < '!' || r > '~' }) {
			t.Errorf("token(%q) = %q, which SQS does not take", a, x)
		}
		if (a == b) != (x == y) {
			t.Errorf("token(%q) = %q and token(%q) = %q", a, x, b, y)
		}
	})
}
