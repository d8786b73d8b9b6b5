package kafka_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

func TestAMemberThatFallsOutOfTheGroupIsLostAndComesBack(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 10)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, numbered(1)...)
	a := receive(t, come)
	c.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	if err := receive(t, sub.lost); err == nil {
		t.Error("OnLost() was called without a reason")
	}
	receive(t, a.lease.Done())
	if got := context.Cause(a.lease); !errors.Is(got, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", got)
	}
	for range 2 {
		if err := a.Settle(t.Context(), messaging.Verdict{}); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Settle() = %v, want ErrLost", err)
		}
	}
	if err := a.Extend(t.Context(), time.Second); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Extend() = %v, want ErrLost", err)
	}
	sub.awaitReady()
	again := receive(t, come)
	if again.ID != a.ID || !again.Redelivered {
		t.Errorf("received %s, Redelivered %t, want the same again, true", again.Payload, again.Redelivered)
	}
	if err := again.Extend(t.Context(), time.Second); err != nil {
		t.Errorf("Extend() = %v, want nil", err)
	}
	again.settle(t, messaging.Verdict{})
}

func TestADeliveryIsDoneWithOnlyAfterItsSuccessorIsStored(t *testing.T) {
	t.Parallel()
	for _, kind := range []messaging.Kind{messaging.Retry, messaging.DeadLetter} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1})
			topic := unique("t")
			come := make(chan arrival, 10)
			subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
			publish(t, b, topic, numbered(1)...)
			a := receive(t, come)
			fails(c, kerr.InvalidRecord.Code, func(n int) bool { return n == 1 })
			if err := a.Settle(within(t, patience), messaging.Verdict{Kind: kind}); !errors.Is(err, messaging.ErrRefused) {
				t.Errorf("Settle() = %v, want ErrRefused", err)
			}
			again := receive(t, come)
			if again.ID != a.ID || again.Attempt != 1 || !again.Redelivered {
				t.Errorf("received %s at attempt %d, Redelivered %t, want the same again, 1, true", again.Payload, again.Attempt, again.Redelivered)
			}
			again.settle(t, messaging.Verdict{})
		})
	}
}

func TestAVerdictOfUnknownKindHasTheMessageComeAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	publish(t, b, topic, numbered(1)...)
	if err := receive(t, come).Settle(t.Context(), messaging.Verdict{Kind: 99}); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Settle() = %v, want ErrInvalid", err)
	}
	receive(t, come).settle(t, messaging.Verdict{})
}

func TestACommitThatFailsIsRepeated(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1})
	topic := unique("t")
	come := make(chan *messaging.Delivery, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	var refusals atomic.Int64
	c.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		refusals.Add(1)
		return refuseCommit(req, kerr.RebalanceInProgress.Code), nil, true
	})
	publish(t, b, topic, numbered(3)...)
	for range 3 {
		receive(t, come)
	}
	adm := admin(t, c.ListenAddrs())
	eventually(t, "the commit of all", func() bool { return committed(t, adm, topic+".g", topic, 0) == 3 })
	if refusals.Load() != 1 {
		t.Errorf("%d commits were refused, want 1", refusals.Load())
	}
}

// A cluster whose offset.metadata.max.bytes is less than the default.
func TestACommitGoesOnWithoutMetadataWhereKafkaTakesNone(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1})
	topic := unique("t")
	come := make(chan arrival, 10)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	c.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, t := range req.(*kmsg.OffsetCommitRequest).Topics {
			for _, p := range t.Partitions {
				if p.Metadata != nil && *p.Metadata != "" {
					return refuseCommit(req, kerr.OffsetMetadataTooLarge.Code), nil, true
				}
			}
		}
		return nil, nil, false
	})
	publish(t, b, topic, numbered(3)...)
	for range 2 {
		receive(t, come).settle(t, messaging.Verdict{})
	}
	last := receive(t, come)
	adm := admin(t, c.ListenAddrs())
	eventually(t, "the commit", func() bool { return committed(t, adm, topic+".g", topic, 0) == 2 })
	last.settle(t, messaging.Verdict{})
}

// refuseCommit returns the response to a commit, with an error for each partition.
func refuseCommit(req kmsg.Request, code int16) *kmsg.OffsetCommitResponse {
	in := req.(*kmsg.OffsetCommitRequest)
	resp := in.ResponseKind().(*kmsg.OffsetCommitResponse)
	for _, t := range in.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestProcessesThatAreFirstAtOneTimeAgreeOnWhereTheGroupBegins(t *testing.T) {
	t.Parallel()
	c := fake(t)
	topic := unique("t")
	// One of them finds that the group has members by now.
	c.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return refuseCommit(req, kerr.UnknownMemberID.Code), nil, true
	})
	come := make(chan *messaging.Delivery, 1000)
	var running sync.WaitGroup
	for range 3 {
		running.Go(func() {
			b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
			subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
			publish(t, b, topic, numbered(20)...)
		})
	}
	running.Wait()
	seen := map[string]bool{}
	for len(seen) < 60 {
		seen[receive(t, come).ID] = true
	}
}

func TestABrokerThatComesLateIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := fake(t)
	topic := unique("t")
	var asked atomic.Int64
	c.ControlKey(int16(kmsg.CreateTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		if asked.Add(1) > 3 {
			return nil, nil, false
		}
		c.KeepControl()
		return nil, errors.New("cut"), true
	})
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	come := make(chan *messaging.Delivery, 1)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	publish(t, b, topic, numbered(1)...)
	receive(t, come)
}

func TestWhatATopicCannotBeIsATopologyError(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), ReplicationFactor: 100})
	err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: unique("t"), Group: "g"}, nothing)
	if !errors.Is(err, messaging.ErrTopology) {
		t.Errorf("Subscribe() = %v, want ErrTopology", err)
	}
}

func TestCallsThatAreRefusedBeforeTheNetwork(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: []string{"127.0.0.1:1"}})
	if err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "t", Group: "g"}, nil); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Subscribe() without a deliver = %v, want ErrInvalid", err)
	}
	if err := b.Subscribe(t.Context(), messaging.Subscription{Topic: "t.dlq", Group: "g"}, nothing); !errors.Is(err, messaging.ErrInvalid) {
		t.Errorf("Subscribe() to a group's topic = %v, want ErrInvalid", err)
	}
	err := b.Publish(t.Context(), "t.g.retry.5", numbered(2)...)
	batch, ok := errors.AsType[*messaging.BatchError](err)
	if !ok || !errors.Is(batch.Errs[0], messaging.ErrInvalid) || !errors.Is(batch.Errs[1], messaging.ErrInvalid) {
		t.Errorf("Publish() to a group's topic = %v, want a BatchError with twice ErrInvalid", err)
	}
}

func TestSubscribersOfOneProcessKeepTheOrderOfKeysWhenOneLeaves(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 2})
	topic := unique("t")
	first, second := make(chan arrival, 1000), make(chan arrival, 1000)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", Prefetch: 4}, into(first))
	keyed := func(n int) messaging.Message {
		m := messaging.NewMessage("m", []byte(strconv.Itoa(n)))
		m.Key = "k"
		return m
	}
	for n := range 20 {
		publish(t, b, topic, keyed(n))
	}
	held := []arrival{receive(t, first), receive(t, first)}
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(second))
	sub.cancel()
	// The other one gets nothing of the key while the first has some in hand.
	watch := time.NewTimer(moment)
	select {
	case a := <-second:
		t.Errorf("the second subscriber received message %s while the first had two of the key in hand", a.Payload)
	case <-watch.C:
	}
	next := 2
	for _, a := range held {
		a.settle(t, messaging.Verdict{})
	}
	for len(first) > 0 { // what it had accepted beyond them
		a := receive(t, first)
		a.settle(t, messaging.Verdict{})
		next++
	}
	if err := sub.returned(); err != nil {
		t.Errorf("Subscribe() = %v, want nil", err)
	}
	for ; next < 20; next++ {
		a := receive(t, second)
		if string(a.Payload) != strconv.Itoa(next) {
			t.Fatalf("received message %s, want %d", a.Payload, next)
		}
		a.settle(t, messaging.Verdict{})
	}
}

func TestADeliverThatEndsItsGoroutineEndsItsSubscribeAlone(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 2})
	topic := unique("t")
	come := make(chan arrival, 100)
	bad := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(context.Context, *messaging.Delivery, messaging.Settler) error {
		runtime.Goexit()
		return nil
	})
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(come))
	seen := map[string]bool{}
	msgs := numbered(10)
	for i := range msgs {
		msgs[i].Key = strconv.Itoa(i)
	}
	publish(t, b, topic, msgs...)
	if err := bad.returned(); err == nil {
		t.Error("Subscribe() = nil, want an error that says what deliver did")
	}
	for len(seen) < len(msgs) {
		a := receive(t, come)
		seen[a.ID] = true
		a.settle(t, messaging.Verdict{})
	}
}

func TestOneDeadLetterIsDeletedAndItsNeighboursAreLeft(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	topic := unique("t")
	die := make(chan *messaging.Delivery, 10)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(die, messaging.Verdict{Kind: messaging.DeadLetter, Reason: "bad"}))
	publish(t, b, topic, numbered(5)...)
	for range 5 {
		receive(t, die)
	}
	sub.stop()
	come := make(chan arrival, 10)
	reader := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true}, into(come))
	var left []arrival
	for i := range 5 {
		if a := receive(t, come); i%2 == 1 {
			a.settle(t, messaging.Verdict{Kind: messaging.Ack})
		} else {
			left = append(left, a)
		}
	}
	reader.cancel()
	for _, a := range left {
		a.settle(t, messaging.Verdict{Kind: messaging.Release})
	}
	if err := reader.returned(); err != nil {
		t.Errorf("Subscribe() = %v, want nil", err)
	}
	shut(t, b)

	b = newBroker(t, kafka.Config{Seeds: seeds})
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g", DeadLetters: true}, into(come))
	for i := 0; i < 5; i += 2 {
		a := receive(t, come)
		if string(a.Payload) != strconv.Itoa(i) {
			t.Errorf("received dead letter %s, want %d", a.Payload, i)
		}
		a.settle(t, messaging.Verdict{Kind: messaging.Ack})
	}
	watch := time.NewTimer(moment)
	select {
	case a := <-come:
		t.Errorf("received dead letter %s, want no more", a.Payload)
	case <-watch.C:
	}
}

func TestCloseReturnsWithItsContextThoughADeliverIsStuck(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b, err := kafka.New(kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	topic := unique("t")
	let, begun := make(chan struct{}), make(chan struct{})
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(context.Context, *messaging.Delivery, messaging.Settler) error {
		close(begun)
		<-let
		return errors.New("late")
	})
	publish(t, b, topic, numbered(1)...)
	receive(t, begun)
	cause := errors.New("no more patience")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := b.Close(ctx); !errors.Is(err, cause) {
		t.Errorf("Close() = %v, want the cause of its context", err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("Close() = %v the second time, want nil", err)
	}
	close(let)
	if err := sub.returned(); !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Subscribe() = %v, want ErrClosed", err)
	}
}

func TestPublishWaitsForNoAnswerOnceTheBrokerIsClosed(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(1, "t"))
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	publish(t, b, "t", numbered(1)...)
	asked, let := make(chan struct{}), make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(asked)
		c.SleepControl(func() { <-let })
		return nil, nil, false
	})
	failed := make(chan error, 1)
	go func() { failed <- b.Publish(context.Background(), "t", numbered(1)...) }()
	receive(t, asked)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		shut(t, b)
	}()
	if err := receive(t, failed); !errors.Is(err, messaging.ErrClosed) || !errors.Is(err, messaging.ErrNotConfirmed) {
		t.Errorf("Publish() = %v, want ErrClosed and ErrNotConfirmed", err)
	}
	close(let)
	receive(t, closed)
}

func TestAPartitionStopsSomeWayPastARecordThatIsNotSettled(t *testing.T) {
	t.Parallel()
	b := newBroker(t, kafka.Config{Seeds: fake(t).ListenAddrs(), Partitions: 1})
	topic := unique("t")
	const ahead = 10_000
	held, last := make(chan arrival, 1), make(chan struct{})
	var come atomic.Int64
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		n := come.Add(1)
		if n == 1 {
			held <- arrival{d, s, lease}
			return nil
		}
		if n == ahead+5 {
			close(last)
		}
		return s.Settle(lease, messaging.Verdict{})
	})
	publish(t, b, topic, numbered(ahead+5)...)
	first := receive(t, held)
	eventually(t, "the delivery of what may pass it", func() bool { return come.Load() == ahead })
	watch := time.NewTimer(moment)
	<-watch.C
	if n := come.Load(); n != ahead {
		t.Errorf("%d records were delivered, want %d and no more", n, ahead)
	}
	first.settle(t, messaging.Verdict{})
	receive(t, last)
}

func TestAGroupThatAnotherProgramUsesDifferentlyIsATopologyError(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	topic := unique("t")
	b := newBroker(t, kafka.Config{Seeds: seeds, Partitions: 1})
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, nothing).stop()
	joined := make(chan struct{}, 10)
	other := raw(t, seeds, kgo.ConsumerGroup(topic+".g"), kgo.ConsumeTopics(topic), kgo.Balancers(kgo.RangeBalancer()),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { joined <- struct{}{} }))
	polling, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { other.PollFetches(polling) })
	defer running.Wait()
	defer stop()
	receive(t, joined)
	if err := b.Subscribe(within(t, patience), messaging.Subscription{Topic: topic, Group: "g"}, nothing); !errors.Is(err, messaging.ErrTopology) {
		t.Errorf("Subscribe() = %v, want ErrTopology", err)
	}
}
