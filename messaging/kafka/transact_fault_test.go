package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

func handleNothing(context.Context, messaging.Publisher, *messaging.Delivery) error { return nil }

func TestTransactRefusesAtOnceWhatIsPointless(t *testing.T) {
	seeds := fake(t).ListenAddrs()
	for name, c := range map[string]struct {
		tx   kafka.Transaction
		h    process
		text string
	}{
		"no topic":           {kafka.Transaction{Group: "g"}, handleNothing, "topic"},
		"no group":           {kafka.Transaction{Topic: "t"}, handleNothing, "group"},
		"a topic of a group": {kafka.Transaction{Topic: "t.g.dlq", Group: "g"}, handleNothing, "t.g.dlq"},
		"no handler":         {kafka.Transaction{Topic: "t", Group: "g"}, nil, "handle is nil"},
		"names too long":     {kafka.Transaction{Topic: strings.Repeat("t", 128), Group: strings.Repeat("g", 128)}, handleNothing, "shorter names"},
		"all faults on one line": {
			kafka.Transaction{
				Topic: "t", Group: "g", ID: "a b", MaxAttempts: -1, BatchSize: 10_001, MaxOutput: -1, MaxOutputBytes: 1 << 30,
				Timeout: -1, DrainTimeout: -1, CommitTimeout: time.Millisecond,
			},
			handleNothing,
			`ID "a b" must be 1 to 128 letters, digits, '-', '_' or '.', beginning with a letter or digit; MaxAttempts -1 is outside 1..1048576; ` +
				`BatchSize 10001 is outside 1..10000; MaxOutput -1 is outside 1..100000; MaxOutputBytes 1073741824 is outside 1..268435456; ` +
				`Timeout -1ns is negative; DrainTimeout -1ns is negative; CommitTimeout 1ms is outside 1s..15m`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := txBroker(t, seeds).Transact(t.Context(), c.tx, c.h); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Transact() = %v, want ErrInvalid with %q", err, c.text)
			}
		})
	}
	t.Run("a closed broker", func(t *testing.T) {
		b := txBroker(t, seeds)
		shut(t, b)
		if err := b.Transact(t.Context(), kafka.Transaction{Topic: "t", Group: "g"}, handleNothing); !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Transact() = %v, want ErrClosed", err)
		}
	})
	t.Run("topics that Passive does not make", func(t *testing.T) {
		cfg := brokerConfig(seeds)
		cfg.Passive = true
		b, err := kafka.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer shut(t, b)
		if err := b.Transact(t.Context(), kafka.Transaction{Topic: "t", Group: "g"}, handleNothing); !errors.Is(err, messaging.ErrNotFound) || !strings.Contains(err.Error(), "t.g.dlq") {
			t.Errorf("Transact() = %v, want ErrNotFound that names what is missing", err)
		}
	})
	t.Run("a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := txBroker(t, seeds).Transact(ctx, kafka.Transaction{Topic: "t", Group: "g"}, handleNothing); err != nil {
			t.Errorf("Transact() = %v, want nil", err)
		}
	})
}

func TestTransactReturnsErrDeniedForATransactionalIDThatIsNotTheUsers(t *testing.T) {
	c, m := newFakeMill(t)
	c.ControlKey(kmsg.InitProducerID.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if req.(*kmsg.InitProducerIDRequest).TransactionalID == nil {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp, nil, true
	})
	if err := m.b.Transact(t.Context(), m.tx, handleNothing); !errors.Is(err, messaging.ErrDenied) || !strings.Contains(err.Error(), "transactional ID") {
		t.Errorf("Transact() = %v, want ErrDenied that names the permission", err)
	}
}

func newFakeMill(t *testing.T) (*kfake.Cluster, *mill) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, newMill(t, c.ListenAddrs(), 2)
}

// Each fault hits the first transaction; the next one has its messages.
func TestWhatAnAbortedTransactionHadComesAgainAndNothingOfItIsSeen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key    kmsg.Key
		inject func(kmsg.Request) kmsg.Response
	}{
		"the places are refused by a rebalance": {kmsg.TxnOffsetCommit, func(req kmsg.Request) kmsg.Response { return refusePlaces(req, kerr.RebalanceInProgress) }},
		"the member is unknown":                 {kmsg.TxnOffsetCommit, func(req kmsg.Request) kmsg.Response { return refusePlaces(req, kerr.UnknownMemberID) }},
		"the places are refused for good":       {kmsg.TxnOffsetCommit, func(req kmsg.Request) kmsg.Response { return refusePlaces(req, kerr.OffsetMetadataTooLarge) }},
		"the end is refused": {kmsg.EndTxn, func(req kmsg.Request) kmsg.Response {
			resp := req.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = kerr.InvalidTxnState.Code
			return resp
		}},
		"the producer is fenced": {kmsg.EndTxn, func(req kmsg.Request) kmsg.Response {
			resp := req.ResponseKind().(*kmsg.EndTxnResponse)
			resp.ErrorCode = kerr.ProducerFenced.Code
			return resp
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, m := newFakeMill(t)
			var hits atomic.Int32
			cluster.ControlKey(c.key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				if hits.Add(1) > 1 {
					return nil, nil, false
				}
				return c.inject(req), nil, true
			})
			stop := m.start(m.b, m.tx, m.copyOut)
			m.feed(0, 50, 8)
			m.read(m.out, 50)
			if err := stop(); err != nil {
				t.Error(err)
			}
			m.exactly(m.out, 50)
			if hits.Load() < 2 {
				t.Error("the fault was not met")
			}
		})
	}
}

func refusePlaces(req kmsg.Request, why *kerr.Error) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	for _, t := range req.(*kmsg.TxnOffsetCommitRequest).Topics {
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, why.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestAnOutputThatKafkaRefusesFailsItsMessageAndNoOther(t *testing.T) {
	m := newMill(t, server(t), 1)
	adm := kadm.NewClient(m.client())
	small := "1000"
	if _, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &small}}, m.out); err != nil {
		t.Fatal(err)
	}
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if string(d.Payload) == "5" {
			noise := make([]byte, 5000) // which cannot be compressed
			_, _ = rand.Read(noise)
			return out.Publish(ctx, m.out, messaging.NewMessage("", noise))
		}
		return m.copyOut(ctx, out, d)
	})
	m.feed(0, 10, 1)
	m.read(m.out, 9)
	dead := m.read(m.in+".mill.dlq", 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if len(dead) != 1 || string(dead[0].Value) != "5" || header(dead[0], messaging.HeaderDeadReason) != messaging.ReasonPermanent ||
		!strings.Contains(header(dead[0], messaging.HeaderDeadError), "max.message.bytes of topic "+m.out) {
		t.Errorf("%d dead letters, the first %q for %q: %s", len(dead), dead[0].Value, header(dead[0], messaging.HeaderDeadReason), header(dead[0], messaging.HeaderDeadError))
	}
	m.exactly(m.out, 9)
}

func TestTransactRidesOutARestartOfTheBroker(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.Kafka())
	m := newMill(t, []string{node.URL()}, 3)
	m.tx.BatchSize = 50
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		time.Sleep(time.Millisecond) // the work that the crash interrupts
		return m.copyOut(ctx, out, d)
	})
	m.feed(0, 2000, 12)
	m.read(m.out, 300)
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.read(m.out, 2000)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 2000)
}

func TestHandlersEndWithErrTimeoutAndErrDrain(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	m.tx.Timeout, m.tx.DrainTimeout = 50*time.Millisecond, 50*time.Millisecond
	causes, second := make(chan error, 10), make(chan struct{}, 10)
	wait := func(ctx context.Context, _ messaging.Publisher, d *messaging.Delivery) error {
		if d.Attempt > 1 {
			second <- struct{}{}
			return nil
		}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	}
	stop := m.start(m.b, m.tx, wait)
	m.feed(0, 1, 1)
	if err := <-causes; !errors.Is(err, messaging.ErrTimeout) {
		t.Errorf("the context ended with %v, want ErrTimeout", err)
	}
	<-second // which is committed by the end, for it runs
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.tx.Timeout = 0
	inHand := make(chan struct{})
	stop = m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		close(inHand)
		return wait(ctx, out, d)
	})
	m.feed(1, 2, 1)
	<-inHand
	if err := stop(); err != nil {
		t.Errorf("Transact() = %v, want nil", err)
	}
	if err := <-causes; !errors.Is(err, messaging.ErrDrain) {
		t.Errorf("the context ended with %v, want ErrDrain", err)
	}
	// It was not handled, and so it comes again.
	again := make(chan int, 1)
	stop = m.start(m.b, m.tx, func(_ context.Context, _ messaging.Publisher, d *messaging.Delivery) error {
		again <- d.Attempt
		if string(d.Payload) != "1" || !d.Redelivered {
			t.Errorf("%s came, redelivered: %t; want what was in hand, as redelivered", d.Payload, d.Redelivered)
		}
		return nil
	})
	if n := <-again; n != 1 {
		t.Errorf("attempt %d, want 1: the end of the process is no failure", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTransactFinishesWhatRunsBeforeItEnds(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	inHand, gate := make(chan struct{}), make(chan struct{})
	var handled atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	m.tx.OnReady = sync.OnceFunc(func() { close(ready) })
	go func() {
		ended <- m.b.Transact(ctx, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			if handled.Add(1) == 1 {
				close(inHand)
				<-gate
			}
			return m.copyOut(ctx, out, d)
		})
	}()
	<-ready
	m.feed(0, 10, 1)
	<-inHand
	cancel()
	close(gate)
	if err := <-ended; err != nil {
		t.Errorf("Transact() = %v, want nil", err)
	}
	if n := handled.Load(); n != 1 {
		t.Errorf("%d messages were handled, want the one that was in hand", n)
	}
	m.exactly(m.out, 1)
}

func TestCloseEndsTransactWithErrClosedAndCommitsNothingThatRuns(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	b := txBroker(t, m.seeds)
	inHand, ready := make(chan struct{}, 1), make(chan struct{})
	m.tx.OnReady = sync.OnceFunc(func() { close(ready) })
	ended := make(chan error, 1)
	go func() {
		ended <- b.Transact(t.Context(), m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			inHand <- struct{}{}
			<-ctx.Done()
			if !isLost(context.Cause(ctx)) {
				t.Errorf("the context ended with %v, want ErrLost", context.Cause(ctx))
			}
			return m.copyOut(context.WithoutCancel(ctx), out, d)
		})
	}()
	<-ready
	m.feed(0, 1, 1)
	<-inHand
	shut(t, b)
	if err := <-ended; !errors.Is(err, messaging.ErrClosed) {
		t.Errorf("Transact() = %v, want ErrClosed", err)
	}
	m.exactly(m.out, 0)
}

func TestWhatPanicsAfterTheHandlerIsAFailedAttemptToo(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	m.tx.Backoff = func(int) time.Duration { panic("no delay") }
	m.tx.MaxAttempts = 2
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if d.Attempt == 1 && string(d.Payload) == "1" {
			return errors.New("once")
		}
		return m.copyOut(ctx, out, d)
	})
	m.feed(0, 3, 1)
	m.read(m.out, 3)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 3)
}

// busy is an error of a dependency that was never reached.
type busy struct{ error }

func (busy) Rejected() bool { return true }

func TestAnErrorWithRejectedCountsAsNoAttempt(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	m.tx.MaxAttempts = 1
	var calls atomic.Int32
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if calls.Add(1) < 4 {
			return busy{errors.New("open")}
		}
		if d.Attempt != 1 {
			t.Errorf("attempt %d, want 1", d.Attempt)
		}
		return m.copyOut(ctx, out, d)
	})
	m.feed(0, 1, 1)
	m.read(m.out, 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 1)
}

// refuseProduce answers the produce requests of transactions for which refuse says
// so.
func refuseProduce(c *kfake.Cluster, why *kerr.Error, refuse func() bool) {
	c.ControlKey(kmsg.Produce.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		if req.TransactionID == nil || !refuse() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, why.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

func TestABrokerThatTakesNothingForAWhileCostsNoMessage(t *testing.T) {
	t.Parallel()
	cluster, m := newFakeMill(t)
	m.tx.CommitTimeout = time.Second
	var began atomic.Int64
	refuseProduce(cluster, kerr.NotLeaderForPartition, func() bool {
		now := time.Now().UnixMilli()
		began.CompareAndSwap(0, now)
		return now-began.Load() < 1500 // longer than CommitTimeout
	})
	stop := m.start(m.b, m.tx, m.copyOut)
	m.feed(0, 20, 4)
	m.read(m.out, 20)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 20)
}

func TestAnOutputThatIsDeniedFailsItsMessageAsAnErrorOfTheHandler(t *testing.T) {
	cluster, m := newFakeMill(t)
	m.tx.MaxAttempts = 2
	var hits, calls atomic.Int32
	refuseProduce(cluster, kerr.TopicAuthorizationFailed, func() bool { return hits.Add(1) <= 2 })
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		calls.Add(1)
		return m.copyOut(ctx, out, d)
	})
	m.feed(0, 1, 1)
	dead := m.read(m.in+".mill.dlq", 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if header(dead[0], messaging.HeaderDeadReason) != messaging.ReasonExhausted || !strings.Contains(header(dead[0], messaging.HeaderDeadError), "access denied") {
		t.Errorf("dead letter for %q: %s", header(dead[0], messaging.HeaderDeadReason), header(dead[0], messaging.HeaderDeadError))
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("the handler was called %d times, want twice", n)
	}
	m.exactly(m.out, 0)
}

func TestTransactReturnsAtOnceWhenItMayNotJoinTheGroup(t *testing.T) {
	for name, c := range map[string]struct {
		why  *kerr.Error
		want error
		text string
	}{
		"denied":                  {kerr.GroupAuthorizationFailed, messaging.ErrDenied, "Read on the group"},
		"another program's group": {kerr.InconsistentGroupProtocol, messaging.ErrTopology, "another program"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, m := newFakeMill(t)
			cluster.ControlKey(kmsg.JoinGroup.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
				resp.ErrorCode = c.why.Code
				return resp, nil, true
			})
			if err := m.b.Transact(t.Context(), m.tx, handleNothing); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Transact() = %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestPublishInATransactionSaysWhenItsTopicCannotBeAskedFor(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	result := make(chan error, 1)
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		result <- out.Publish(ctx, m.out, messaging.NewMessage("", nil))
		return nil
	})
	m.feed(0, 1, 1)
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Publish() = %v, want context.Canceled", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAMessageOfARetryTopicComesAgainWhenItsTransactionIsAborted(t *testing.T) {
	cluster, m := newFakeMill(t)
	m.toRetry(map[string]time.Duration{"0": 100 * time.Millisecond})
	var hits atomic.Int32
	cluster.ControlKey(kmsg.TxnOffsetCommit.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if hits.Add(1) > 1 {
			return nil, nil, false
		}
		return refusePlaces(req, kerr.RebalanceInProgress), nil, true
	})
	stop := m.start(m.b, m.tx, m.copyOut)
	m.read(m.out, 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 1)
}
