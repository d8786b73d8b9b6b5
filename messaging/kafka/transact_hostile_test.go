package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// A record of another program that fits in the topic, and not in what this Broker
// sends.
func TestADeadLetterThatIsTooLargeHoldsUpItsPartitionAlone(t *testing.T) {
	t.Parallel()
	c := fake(t)
	m := newMill(t, c.ListenAddrs(), 2)
	large := "3000000"
	if _, err := admin(t, m.seeds).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &large}}, m.in); err != nil {
		t.Fatal(err)
	}
	poison := make(chan int, 1000)
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if len(d.Payload) > 1<<20 {
			poison <- d.Attempt
			return messaging.Permanent(errors.New("what is this"))
		}
		return m.copyOut(ctx, out, d)
	})
	var joins atomic.Int32
	c.ControlKey(kmsg.JoinGroup.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		joins.Add(1)
		return nil, nil, false
	})
	cl := m.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(3_000_000))
	noise := make([]byte, 2_000_000)
	_, _ = rand.Read(noise)
	produce := func(partition int32, value []byte) {
		t.Helper()
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: m.in, Partition: partition, Key: fmt.Append(nil, partition), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce(0, []byte("0"))
	produce(0, noise)
	for n := range 10 {
		produce(1, fmt.Append(nil, n+1))
		m.read(m.out, n+1)
		if n == 4 { // it has been refused for good by then
			receive(t, poison)
		}
	}
	m.read(m.out, 11)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := joins.Load(); n != 0 {
		t.Errorf("the group was joined %d times more, want never: its other partitions wait meanwhile", n)
	}
	m.exactly(m.out, 11)
	if at := committed(t, admin(t, m.seeds), m.in+".mill", m.in, 0); at != 1 {
		t.Errorf("offset %d is committed, want 1: the record there is nowhere else", at)
	}
}

func TestTransactReturnsAtOnceWhenTheBrokersDoNotAllowItsCommitTimeout(t *testing.T) {
	t.Parallel()
	c, m := newFakeMill(t)
	c.ControlKey(kmsg.InitProducerID.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if req.(*kmsg.InitProducerIDRequest).TransactionalID == nil {
			return nil, nil, false
		}
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.InvalidTransactionTimeout.Code
		return resp, nil, true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := m.b.Transact(ctx, m.tx, handleNothing); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "transaction.max.timeout.ms") {
		t.Errorf("Transact() = %v, want ErrInvalid that names the setting", err)
	}
}

// The dots of topic, group and ID must not be taken for one another.
func TestNoTwoGroupsShareATransactionalID(t *testing.T) {
	t.Parallel()
	c := fake(t)
	ids := make(chan string, 100)
	c.ControlKey(kmsg.InitProducerID.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if id := req.(*kmsg.InitProducerIDRequest).TransactionalID; id != nil {
			ids <- *id
		}
		return nil, nil, false
	})
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs(), Partitions: 1})
	seen := map[string]kafka.Transaction{}
	for _, tx := range []kafka.Transaction{{Topic: "a", Group: "b", ID: "c.d"}, {Topic: "a.b", Group: "c", ID: "d"}, {Topic: "a", Group: "b.c", ID: "d"}} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Transact(ctx, tx, handleNothing) }()
		id := receive(t, ids)
		cancel()
		if err := receive(t, ended); err != nil {
			t.Errorf("Transact() = %v, want nil", err)
		}
		if other, ok := seen[id]; ok {
			t.Errorf("%s is the transactional ID of %v and of %v", id, tx, other)
		}
		seen[id] = tx
	}
}

func TestABatchWhosePlacesAreRefusedIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	cluster, m := newFakeMill(t)
	cluster.ControlKey(kmsg.TxnOffsetCommit.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return refusePlaces(req, kerr.RebalanceInProgress), nil, true
	})
	calls := make(chan time.Time, 1000)
	stop := m.start(m.b, m.tx, func(context.Context, messaging.Publisher, *messaging.Delivery) error {
		calls <- time.Now()
		return nil
	})
	m.feed(0, 1, 1)
	last := receive(t, calls)
	for range 4 {
		at := receive(t, calls)
		if after := at.Sub(last); after < 90*time.Millisecond {
			t.Errorf("the handler was called again after %v, want at least 100ms", after)
		}
		last = at
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTransactReturnsErrDeniedWhenThePlacesOfTheGroupAreNotTheUsers(t *testing.T) {
	t.Parallel()
	cluster, m := newFakeMill(t)
	cluster.ControlKey(kmsg.TxnOffsetCommit.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return refusePlaces(req, kerr.GroupAuthorizationFailed), nil, true
	})
	ended := make(chan error, 1)
	ready := make(chan struct{}, 100)
	m.tx.OnReady = func() { ready <- struct{}{} }
	go func() { ended <- m.b.Transact(within(t, patience), m.tx, m.copyOut) }()
	receive(t, ready)
	m.feed(0, 1, 1)
	if err := receive(t, ended); !errors.Is(err, messaging.ErrDenied) {
		t.Errorf("Transact() = %v, want ErrDenied", err)
	}
}
