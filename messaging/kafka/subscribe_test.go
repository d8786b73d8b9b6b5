package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// Pitfall 21.
func TestNothingIsCommittedPastARecordThatFails(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 100)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, numbered(10)...)
	var fifth arrival
	for i := range 10 {
		a := receive(t, come)
		if i == 4 {
			fifth = a
			continue
		}
		a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	}
	adm := admin(t, seeds)
	eventually(t, "a commit", func() bool { return committed(t, adm, topic+".g", topic, 0) > 0 })
	shut(t, b)
	if err := sub.returned(); !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Subscribe() = %v, want ErrClosed", err)
	}
	if got := committed(t, adm, topic+".g", topic, 0); got != 4 {
		t.Errorf("offset %d is committed, want 4: the record there was not settled", got)
	}
	if got := context.Cause(fifth.lease); !errors.Is(got, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", got)
	}

	// It comes again after a restart, alone: what was settled behind it does not.
	again := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	subscribe(t, again, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	a := receive(t, come)
	if a.ID != fifth.ID || !a.Redelivered {
		t.Errorf("received %s, Redelivered %t, want %s, true", a.Payload, a.Redelivered, fifth.Payload)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	publish(t, again, topic, messaging.NewMessage("marker", nil))
	if a := receive(t, come); a.Type != "marker" || a.Redelivered {
		t.Errorf("received the %s message %s, Redelivered %t, want the marker: what was settled comes again", a.Type, a.Payload, a.Redelivered)
	} else {
		a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	}
}

// Pitfall 22.
func TestWhatIsReleasedComesAgainInTheSameProcess(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, numbered(3)...)
	first, second := receive(t, come), receive(t, come)
	second.settle(t, messaging.Verdict{Kind: messaging.Ack})
	receive(t, come).settle(t, messaging.Verdict{Kind: messaging.Ack})
	first.settle(t, messaging.Verdict{Kind: messaging.Release})
	a := receive(t, come)
	if a.ID != first.ID || !a.Redelivered || a.Attempt != 1 {
		t.Errorf("received %s, Redelivered %t, Attempt %d, want %s, true, 1", a.Payload, a.Redelivered, a.Attempt, first.Payload)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

// Pitfall 25, with the real thing.
func TestTheCommitAdvancesOnlyOnceThePrefixIsDone(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", Prefetch: 100}, into(come))
	publish(t, b, topic, numbered(100)...)
	all := make([]arrival, 100)
	for i := range all {
		all[i] = receive(t, come)
	}
	adm := admin(t, seeds)
	for _, a := range slices.Backward(all[1:]) {
		a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	}
	eventually(t, "a commit", func() bool {
		offsets, err := adm.FetchOffsets(within(t, patience), topic+".g")
		at, _ := offsets.Lookup(topic, 0)
		return err == nil && strings.HasPrefix(at.Metadata, "parley1o:0:") && len(at.Metadata) > len("parley1o:0:")
	})
	if got := committed(t, adm, topic+".g", topic, 0); got != 0 {
		t.Errorf("offset %d is committed while the first record is not settled, want 0", got)
	}
	all[0].settle(t, messaging.Verdict{Kind: messaging.Ack})
	eventually(t, "the commit of all", func() bool { return committed(t, adm, topic+".g", topic, 0) == 100 })
}

// A group of several processes, each with a Consumer, of which one, two and then
// one leave while messages come.
//
// Pitfall 23.
func TestRebalancesUnderLoadKeepOrderByKeyAndLoseNothing(t *testing.T) {
	t.Parallel()
	for name, seeds := range map[string]func(t *testing.T) []string{
		"on a fake": func(t *testing.T) []string { return fake(t).ListenAddrs() },
		"on Kafka":  func(t *testing.T) []string { return server(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rebalances(t, seeds(t))
		})
	}
}

func rebalances(t *testing.T, seeds []string) {
	const keys, each = 12, 150
	topic := newTopic(t, seeds)
	var mu sync.Mutex
	seen := map[string]int{}
	last := map[string]int{}
	running := map[string]bool{}
	doubles := 0
	all := make(chan struct{})
	handle := func(ctx context.Context, d *messaging.Delivery) error {
		n, _ := strconv.Atoi(string(d.Payload))
		mu.Lock()
		if running[d.Key] {
			t.Errorf("two handlers of key %s run at one time", d.Key)
		}
		running[d.Key] = true
		if before, ok := last[d.Key]; ok && n != before+1 && n > before {
			t.Errorf("key %s: message %d came after %d", d.Key, n, before)
		}
		if seen[d.ID]++; seen[d.ID] > 1 {
			doubles++
			if !d.Redelivered {
				t.Errorf("message %s of key %s came again, and is not marked as redelivered", d.Payload, d.Key)
			}
		}
		last[d.Key] = max(last[d.Key], n)
		finished := len(seen) == keys*each
		mu.Unlock()
		work := time.NewTimer(time.Millisecond)
		<-work.C
		mu.Lock()
		running[d.Key] = false
		mu.Unlock()
		if finished {
			select {
			case <-all:
			default:
				close(all)
			}
		}
		return nil
	}
	consume := func() (stop func()) {
		b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 6})
		c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{Concurrency: 4})
		if err != nil {
			t.Fatal(err)
		}
		c.Handle(messaging.Subscription{Topic: topic, Group: "g"}, handle)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		t.Cleanup(cancel)
		receive(t, c.Ready())
		return func() {
			cancel()
			if err := receive(t, ended); err != nil {
				t.Errorf("Run() = %v, want nil", err)
			}
			shut(t, b)
		}
	}
	stops := []func(){consume()}
	pub := newBroker(t, kafka.Config{Seeds: seeds})
	published := make(chan struct{})
	step := make(chan struct{}, 10)
	go func() {
		defer close(published)
		for n := range each {
			msgs := make([]messaging.Message, keys)
			for k := range keys {
				msgs[k] = messaging.NewMessage("m", []byte(strconv.Itoa(n)))
				msgs[k].Key = fmt.Sprint("key-", k)
			}
			if err := pub.Publish(within(t, patience), topic, msgs...); err != nil {
				t.Errorf("Publish() = %v, want nil", err)
			}
			if n%30 == 20 {
				step <- struct{}{}
			}
		}
	}()
	receive(t, step)
	stops = append(stops, consume(), consume()) // 1 → 3
	receive(t, step)
	stops[0]() // 3 → 2
	receive(t, step)
	stops = append(stops, consume()) // 2 → 3
	receive(t, step)
	stops[1]() // 3 → 2
	receive(t, published)
	select {
	case <-all:
	case <-time.After(patience):
		mu.Lock()
		t.Errorf("%d of %d messages were handled", len(seen), keys*each)
		mu.Unlock()
	}
	for _, stop := range stops[2:] {
		stop()
	}
	// Handlers take a millisecond, so all that was in hand was settled in time.
	if doubles != 0 {
		t.Errorf("%d messages were handled twice, want 0: none was in hand when its partition went", doubles)
	}
}

// A handler of 60s with a timeout of 10s, at a twentieth.
//
// Pitfall 24.
func TestAHandlerThatOutlivesARebalanceIsCancelledAndTheGroupRecovers(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	conf := kafka.Config{Seeds: seeds, Partitions: 2, RebalanceTimeout: time.Second}
	one := newBroker(t, conf)
	cause := make(chan error, 10)
	c, err := messaging.NewConsumer(one, messaging.ConsumerConfig{Concurrency: 4, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	c.Handle(messaging.Subscription{Topic: topic, Group: "g"}, func(ctx context.Context, _ *messaging.Delivery) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	receive(t, c.Ready())
	const slow = 4 // two in each partition, without keys, so that all are handled at one time
	cl := raw(t, seeds, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range slow {
		rec := &kgo.Record{Topic: topic, Partition: int32(i % 2), Headers: []kgo.RecordHeader{{Key: "ce_type", Value: []byte("slow")}}}
		if err := cl.ProduceSync(within(t, patience), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the running of all handlers", func() bool { return c.Stats()[0].InFlight == slow })

	other := newBroker(t, conf)
	come := make(chan arrival, 100)
	subscribe(t, other, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	if got := receive(t, cause); !errors.Is(got, messaging.ErrLost) {
		t.Errorf("the handler's context ended with %v, want ErrLost", got)
	}
	a := receive(t, come)
	if a.Type != "slow" || !a.Redelivered || a.Attempt != 1 {
		t.Errorf("the other member received the %s message, Redelivered %t, at attempt %d, want the slow one, true, 1", a.Type, a.Redelivered, a.Attempt)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	cancel()
	shut(t, one)
	_ = receive(t, ended) // ErrClosed or nil, by which comes first
	seen := map[string]bool{a.ID: true}
	for len(seen) < slow { // all of both partitions, now that the other one is gone
		a := receive(t, come)
		seen[a.ID] = true
		a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	}
}

func TestTheMembersOfAGroupShareTheWorkEvenly(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	conf := kafka.Config{Seeds: seeds, Partitions: 4}
	for range 2 {
		subscribe(t, newBroker(t, conf), messaging.Subscription{Topic: topic, Group: "g"}, nothing)
	}
	adm := admin(t, seeds)
	eventually(t, "an even share of the topic and of each group's retries", func() bool {
		groups, err := adm.DescribeGroups(within(t, patience), topic+".g")
		if err != nil {
			return false
		}
		members := groups[topic+".g"].Members
		for _, m := range members {
			assigned, ok := m.Assigned.AsConsumer()
			if !ok {
				return false
			}
			all := 0
			for _, at := range assigned.Topics {
				all += len(at.Partitions)
				if at.Topic == topic && len(at.Partitions) != 2 {
					return false
				}
			}
			if all != 12 { // of 4 partitions in the topic and 5 rungs
				return false
			}
		}
		return len(members) == 2
	})
}

func TestAStuckPartitionHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 2})
	topic := unique("t")
	let, come := make(chan struct{}), make(chan string, 10_000)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		if d.Key == "abc" { // of partition 1 of 2
			<-let
		}
		come <- d.Key
		return s.Settle(lease, messaging.Verdict{})
	})
	payload := make([]byte, 64<<10)
	const total = 60 // more of each than lies in memory
	for range total {
		stuck, free := messaging.NewMessage("m", payload), messaging.NewMessage("m", payload)
		stuck.Key, free.Key = "abc", "foobar"
		publish(t, b, topic, stuck, free)
	}
	for range total {
		if got := receive(t, come); got != "foobar" {
			t.Fatalf("received key %s, want what is in the other partition", got)
		}
	}
	close(let)
	for range total {
		if got := receive(t, come); got != "abc" {
			t.Fatalf("received key %s, want what was held up", got)
		}
	}
}

func TestARetryWaitsWithoutHoldingUpAnything(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 1, RetryDelays: []time.Duration{50 * time.Millisecond, 5 * time.Minute}})
	topic := unique("t")
	come := make(chan arrival, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, numbered(3)...)
	receive(t, come).settle(t, messaging.Verdict{Kind: messaging.Retry, After: time.Minute})
	failed := receive(t, come)
	began := time.Now()
	failed.settle(t, messaging.Verdict{Kind: messaging.Retry, After: 50 * time.Millisecond})
	receive(t, come).settle(t, messaging.Verdict{Kind: messaging.Ack})
	a := receive(t, come)
	if a.ID != failed.ID || a.Attempt != 2 || time.Since(began) < 50*time.Millisecond {
		t.Errorf("received %s at attempt %d after %v, want %s, 2, at least 50ms", a.Payload, a.Attempt, time.Since(began), failed.Payload)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

func TestADelayLongerThanTheLongestPassesThroughSeveral(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 1, RetryDelays: []time.Duration{100 * time.Millisecond}})
	topic := unique("t")
	come := make(chan arrival, 100)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, numbered(1)...)
	a := receive(t, come)
	began := time.Now()
	a.settle(t, messaging.Verdict{Kind: messaging.Retry, After: 250 * time.Millisecond})
	a = receive(t, come)
	if took := time.Since(began); took < 250*time.Millisecond || a.Attempt != 2 {
		t.Errorf("it came after %v at attempt %d, want at least 250ms, 2", took, a.Attempt)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

func TestRungsOfAnEarlierConfigurationAreStillRead(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	before := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1, RetryDelays: []time.Duration{300 * time.Millisecond}})
	come := make(chan arrival, 100)
	sub := subscribe(t, before, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, before, topic, numbered(1)...)
	receive(t, come).settle(t, messaging.Verdict{Kind: messaging.Retry, After: 300 * time.Millisecond})
	sub.stop()
	after := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1, RetryDelays: []time.Duration{time.Second}})
	subscribe(t, after, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	a := receive(t, come)
	if a.Attempt != 2 {
		t.Errorf("it came at attempt %d, want 2", a.Attempt)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

func TestANewGroupBeginsAtTheEndAndPartitionsAddedLaterAtTheirBeginning(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	adm := admin(t, seeds)
	if _, err := adm.CreateTopic(within(t, patience), 1, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, kafka.Config{Seeds: seeds})
	publish(t, b, topic, messaging.NewMessage("before", nil))
	come := make(chan arrival, 100)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, messaging.NewMessage("after", nil))
	a := receive(t, come)
	if a.Type != "after" {
		t.Errorf("received the message of %s the first Subscribe, want that of after", a.Type)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	sub.stop()
	if _, err := adm.CreatePartitions(within(t, patience), 1, topic); err != nil {
		t.Fatal(err)
	}
	cl := raw(t, seeds, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := cl.ProduceSync(within(t, patience), &kgo.Record{Topic: topic, Partition: 1, Value: []byte("added")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	a = receive(t, come)
	if string(a.Payload) != "added" {
		t.Errorf("received %q, want what was there before the partition was seen", a.Payload)
	}
	a.settle(t, messaging.Verdict{Kind: messaging.Ack})
}

func TestAGroupThatKafkaHasForgottenBeginsWithTheOldest(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, nothing).stop()
	publish(t, b, topic, numbered(1)...)
	if _, err := admin(t, seeds).DeleteGroup(within(t, patience), topic+".g"); err != nil {
		t.Fatal(err)
	}
	come := make(chan *messaging.Delivery, 1)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	if d := receive(t, come); string(d.Payload) != "0" {
		t.Errorf("received %q, want what was published meanwhile", d.Payload)
	}
}

func TestPassiveMakesNothingAndNamesAllThatIsMissing(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	adm := admin(t, seeds)
	topic := unique("t")
	conf := kafka.Config{Seeds: seeds, Passive: true, Partitions: 3, MaxPayload: 2 << 20, RetryDelays: []time.Duration{time.Second}}
	b := newBroker(t, conf)
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: topic, Group: "g"}, nothing)
	if !errors.Is(err, messaging.ErrNotFound) {
		t.Fatalf("Subscribe() = %v, want ErrNotFound", err)
	}
	for _, want := range []string{
		"topic " + topic + " with 3 partition(s), max.message.bytes=2162688", "topic " + topic + ".g.dlq with 1 partition(s), cleanup.policy=delete, max.message.bytes=2162688, retention.bytes=-1, retention.ms=-1",
		"topic " + topic + ".g.retry.0 with 3", "topic " + topic + ".g.retry.1000 with 3",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Subscribe() = %v, want it to say %q", err, want)
		}
	}
	all, err := adm.ListTopics(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all.Names() {
		if strings.HasPrefix(name, topic) {
			t.Errorf("there is a topic %s, want none", name)
		}
	}
	for name, partitions := range map[string]int32{topic: 3, topic + ".g.dlq": 1, topic + ".g.retry.0": 3, topic + ".g.retry.1000": 3} {
		if _, err := adm.CreateTopic(within(t, patience), partitions, 1, nil, name); err != nil {
			t.Fatal(err)
		}
	}
	come := make(chan *messaging.Delivery, 1)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	publish(t, b, topic, numbered(1)...)
	receive(t, come)
}

func TestDeadLettersOfNobodyAreNotFound(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs()})
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: unique("t"), Group: "g", DeadLetters: true}, nothing)
	if !errors.Is(err, messaging.ErrNotFound) {
		t.Errorf("Subscribe() = %v, want ErrNotFound", err)
	}
}

func TestTopicsAreMadeAsConfigured(t *testing.T) {
	t.Parallel()
	seeds := server(t)
	topic := newTopic(t, seeds)
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 3, ReplicationFactor: 1, MaxPayload: 2 << 20, RetryDelays: []time.Duration{time.Second}})
	come := make(chan *messaging.Delivery, 1)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	publish(t, b, topic, messaging.NewMessage("large", make([]byte, 2<<20)))
	if d := receive(t, come); len(d.Payload) != 2<<20 {
		t.Errorf("received %d bytes, want %d", len(d.Payload), 2<<20)
	}
	adm := admin(t, seeds)
	configs, err := adm.DescribeTopicConfigs(within(t, patience), topic+".g.dlq", topic+".g.retry.1000", topic)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]map[string]string{
		topic:                   {"max.message.bytes": "2162688"},
		topic + ".g.retry.1000": {"max.message.bytes": "2162688", "cleanup.policy": "delete"},
		topic + ".g.dlq":        {"max.message.bytes": "2162688", "cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"},
	} {
		got, err := configs.On(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			i := slices.IndexFunc(got.Configs, func(c kadm.Config) bool { return c.Key == key })
			if i < 0 || got.Configs[i].MaybeValue() != value {
				t.Errorf("topic %s has another %s than %s", name, key, value)
			}
		}
	}
}

func TestNamesThatKafkaConfusesAreATopologyError(t *testing.T) {
	t.Parallel()
	seeds := server(t)
	topic := newTopic(t, seeds)
	if _, err := admin(t, seeds).CreateTopic(within(t, patience), 1, 1, nil, topic+"_a"); err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, kafka.Config{Seeds: seeds})
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: topic + ".a", Group: "g"}, nothing)
	if !errors.Is(err, messaging.ErrTopology) {
		t.Errorf("Subscribe() = %v, want ErrTopology", err)
	}
}
