package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
)

// onLog is a [slog.Handler] that calls itself with each message.
type onLog func(level slog.Level, msg string)

func (f onLog) Enabled(context.Context, slog.Level) bool { return true }
func (f onLog) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f onLog) WithGroup(string) slog.Handler            { return f }

func (f onLog) Handle(_ context.Context, r slog.Record) error {
	f(r.Level, r.Message)
	return nil
}

// The client counts the time that it keeps a record from the record's Timestamp.
func TestARecordThatGoesOutAgainHasAllItsTimeOnceMore(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The first time around no attempt succeeds. The second time the first fails, and
	// what follows it must not find that the record is too old.
	var round, refused atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if round.Load() > 0 && refused.Add(1) > 1 {
			return nil, nil, false
		}
		in := req.(*kmsg.ProduceRequest)
		resp := in.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range in.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.ErrorCode = kerr.NotLeaderForPartition.Code
			rt.Partitions = append(rt.Partitions, rp)
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	b, err := New(Config{Seeds: c.ListenAddrs(), Logger: slog.New(onLog(func(_ slog.Level, msg string) {
		if msg == "kafka: messages go out again" {
			round.Add(1)
		}
	}))})
	if err != nil {
		t.Fatal(err)
	}
	b.out.Close()
	if b.out, err = kgo.NewClient(append(b.producer(), kgo.RecordDeliveryTimeout(2*time.Second))...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.Publish(ctx, "t", messaging.NewMessage("T", []byte("x"))); err != nil {
		t.Errorf("Publish() = %v, want nil", err)
	}
	if n := round.Load(); n != 1 {
		t.Errorf("the record went out again %d times, want 1", n)
	}
	if err := b.Close(ctx); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

func TestOnlyAnAnswerOfABrokerRefusesARecord(t *testing.T) {
	b := &Broker{closing: make(chan struct{})}
	dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, err := range []error{
		fmt.Errorf("unable to dial: %w", dial),
		fmt.Errorf("unable to dial: %w", &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}),
		&net.DNSError{IsNotFound: true},
		&kgo.ErrFirstReadEOF{},
		kgo.ErrRecordTimeout,
		fmt.Errorf("%w, last err: %w", kgo.ErrRecordTimeout, kerr.InvalidRecord),
		kerr.NotEnoughReplicas,
		context.Canceled,
		errors.New("what no version of the client says yet"),
	} {
		if got, again := b.unpublished("t", err); !again || errors.Is(got, messaging.ErrRefused) {
			t.Errorf("unpublished(%v) = %v, %t, want that it goes out again", err, got, again)
		}
	}
	for _, err := range []error{kerr.InvalidRecord, kerr.InvalidRequiredAcks, fmt.Errorf("because: %w", kerr.PolicyViolation)} {
		if got, again := b.unpublished("t", err); again || !errors.Is(got, messaging.ErrRefused) {
			t.Errorf("unpublished(%v) = %v, %t, want ErrRefused for good", err, got, again)
		}
	}
}

// In an outage the client has something to say some hundred times a minute.
func TestAnOutageIsTwoLinesInTheLogHoweverLongItIs(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var mu sync.Mutex
	var lines []string
	conns := map[net.Conn]struct{}{}
	cut, dials, tried := false, 0, make(chan struct{})
	b, err := New(Config{
		Seeds: c.ListenAddrs(), Partitions: 4,
		Logger: slog.New(onLog(func(level slog.Level, msg string) {
			mu.Lock()
			defer mu.Unlock()
			if level >= slog.LevelWarn {
				lines = append(lines, msg)
			}
		})),
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if cut {
				if dials++; dials == 30 {
					close(tried)
				}
				return nil, errors.New("a dialer's own words")
			}
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				conns[conn] = struct{}{}
			}
			return conn, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reading, stop := context.WithCancel(ctx)
	ready := make(chan struct{}, 1)
	var running sync.WaitGroup
	running.Go(func() {
		s := messaging.Subscription{Topic: "t", Group: "g", OnReady: func() { tell(ready) }}
		if err := b.Subscribe(reading, s, func(ctx context.Context, _ *messaging.Delivery, s messaging.Settler) error {
			return s.Settle(ctx, messaging.Verdict{})
		}); err != nil {
			t.Errorf("Subscribe() = %v, want nil", err)
		}
	})
	<-ready
	publish := func(n int) {
		var calls sync.WaitGroup
		for i := range n {
			calls.Go(func() {
				m := messaging.NewMessage("T", []byte("x"))
				m.Key = strconv.Itoa(i)
				if err := b.Publish(ctx, "t", m); err != nil {
					t.Errorf("Publish() = %v, want nil", err)
				}
			})
		}
		calls.Wait()
	}
	publish(20)
	mu.Lock()
	if len(lines) != 0 {
		t.Errorf("without an outage the log has %q", lines)
	}
	cut = true
	for conn := range conns {
		_ = conn.Close()
	}
	mu.Unlock()
	running.Go(func() { publish(20) })
	<-tried
	mu.Lock()
	cut = false
	mu.Unlock()
	publish(20)
	stop()
	running.Wait()
	if err := b.Close(ctx); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	// What was read before the cut may be told after it, which makes two of one.
	want := []string{"kafka: a broker does not answer", "kafka: a broker answers again"}
	if !slices.Equal(lines, want) && !slices.Equal(lines, slices.Concat(want, want)) {
		t.Errorf("the log has %q, want %q", lines, want)
	}
}
