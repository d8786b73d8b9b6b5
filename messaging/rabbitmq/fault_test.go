package rabbitmq_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
)

func TestWhatIsConfirmedIsReceivedThoughConnectionsAreCut(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	p, via := newProxy(t)
	b := newBroker(t, rabbitmq.Config{URL: via, Heartbeat: time.Second})
	const publishers, rounds, size = 8, 25, 10
	var mu sync.Mutex
	received := map[string]int{}
	more := make(chan struct{}, 1)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		mu.Lock()
		received[d.ID]++
		mu.Unlock()
		select {
		case more <- struct{}{}:
		default:
		}
		return s.Settle(lease, messaging.Verdict{})
	})
	ctx := within(t, 2*time.Minute)
	confirmed := make(chan string, publishers*rounds*size)
	progress := make(chan int, publishers*rounds)
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for range rounds {
				msgs := numbered(size)
				if err := b.Publish(ctx, topic, msgs...); err != nil {
					t.Errorf("Publish() = %v, want nil: its context outlives the cuts", err)
					return
				}
				for _, m := range msgs {
					confirmed <- m.ID
				}
				progress <- 1
			}
		})
	}
	for n := range publishers * rounds { // a cut for every quarter of the work
		select {
		case <-progress:
		case <-ctx.Done():
			t.Fatal("publishing does not come forward")
		}
		if n%(publishers*rounds/4) == 5 {
			p.Cut()
		}
	}
	wg.Wait()
	close(confirmed)
	for id := range confirmed {
		for {
			mu.Lock()
			n := received[id]
			mu.Unlock()
			if n > 0 {
				break
			}
			select {
			case <-more:
			case <-ctx.Done():
				t.Fatalf("message %s was confirmed and not received", id)
			}
		}
	}
	sub.stop()
}

func TestASettleAfterTheLossDoesNothingAndReturnsErrLost(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	p, via := newProxy(t)
	b := newBroker(t, rabbitmq.Config{URL: via})
	type held struct {
		lease context.Context
		d     *messaging.Delivery
		s     messaging.Settler
	}
	accepted := make(chan held, 10)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, func(lease context.Context, d *messaging.Delivery, s messaging.Settler) error {
		accepted <- held{lease, d, s}
		return nil
	})
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	first := receive(t, accepted)
	p.Cut()
	receive(t, first.lease.Done())
	if cause := context.Cause(first.lease); !errors.Is(cause, messaging.ErrLost) {
		t.Errorf("the lease ended with %v, want ErrLost", cause)
	}
	sub.awaitReady()
	second := receive(t, accepted)
	for _, k := range []messaging.Kind{messaging.Ack, messaging.Retry} {
		if err := first.s.Settle(t.Context(), messaging.Verdict{Kind: k}); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Settle(%v) after the lease = %v, want ErrLost", k, err)
		}
	}
	if !second.d.Redelivered || second.d.ID != first.d.ID || second.d.Attempt != 1 {
		t.Errorf("delivered again as %+v", second.d)
	}
	if err := second.s.Settle(second.lease, messaging.Verdict{}); err != nil {
		t.Errorf("Settle() = %v, want nil", err)
	}
	sub.stop()
	if n := a.count(topic + ".g"); n != 0 || len(accepted) != 0 || len(sub.ready) != 0 {
		t.Errorf("%d messages are left, %d more deliveries, %d more subscriptions, want none", n, len(accepted), len(sub.ready))
	}
}

func TestASilentBrokerHoldsUpNoContext(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	p, via := newProxy(t)
	b := newBroker(t, rabbitmq.Config{URL: via, Heartbeat: time.Second})
	got := make(chan *messaging.Delivery, 1000)
	sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	p.Hold(netfault.Both)
	stop := errors.New("enough")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, stop)
			defer cancel()
			large := messaging.NewMessage("Large", make([]byte, 4<<20)) // more than the sockets take
			if err := b.Publish(ctx, topic, large); !errors.Is(err, stop) {
				t.Errorf("Publish() = %v, want the cause of its context", err)
			}
		})
	}
	wg.Wait()
	// Heartbeats stay away; both connections are given up and made again.
	p.Heal()
	ctx := within(t, patience)
	last := messaging.NewMessage("Last", nil)
	if err := b.Publish(ctx, topic, last); err != nil {
		t.Errorf("Publish() after the silence = %v, want nil", err)
	}
	for d := receive(t, got); d.ID != last.ID; d = receive(t, got) {
	}
	sub.stop()
}

func TestAMessageSentIntoSilenceIsReportedAsNotConfirmed(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	topic := a.topic("g")
	p, via := newProxy(t)
	b := newBroker(t, rabbitmq.Config{URL: via})
	a.declare(b, topic, "g")
	if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
		t.Fatalf("Publish() = %v, want nil", err)
	}
	p.Hold(netfault.Both)
	stop := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, stop)
	defer cancel()
	if err := b.Publish(ctx, topic, numbered(1)...); !errors.Is(err, messaging.ErrNotConfirmed) || !errors.Is(err, stop) {
		t.Errorf("Publish() = %v, want ErrNotConfirmed and the cause of its context", err)
	}
	// Close is bounded by its context too, and cuts what does not answer.
	if err := b.Close(ctx); !errors.Is(err, stop) {
		t.Errorf("Close() = %v, want the cause of its context", err)
	}
}

func TestAConnectionLostInTheHandshakeIsNotADenial(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	b := newBroker(t, rabbitmq.Config{URL: "amqp://guest:guest@" + l.Addr().String() + "/"})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := b.Publish(ctx, "t", numbered(1)...); errors.Is(err, messaging.ErrDenied) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish() = %v, want the end of its context: the broker may come back", err)
	}
}

func TestWrongCredentialsAreDeniedAndNeverTold(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(serverURL(t))
	if err != nil {
		t.Fatal("PARLEY_RABBITMQ_URL is not a URL")
	}
	var log bytes.Buffer
	u.User = url.UserPassword("guest", "hush-hush")
	b := newBroker(t, rabbitmq.Config{URL: u.String(), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ctx := within(t, patience)
	pub := b.Publish(ctx, "t", numbered(1)...)
	sub := b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g"}, into(nil, messaging.Verdict{}))
	u.User = url.UserPassword("guest", "guest")
	u.Path = "/nowhere-" + unique("v")
	none := newBroker(t, rabbitmq.Config{URL: u.String()}).Publish(ctx, "t", numbered(1)...)
	for name, err := range map[string]error{"Publish() with a wrong password": pub, "Subscribe() with a wrong password": sub, "Publish() to no virtual host": none} {
		if !errors.Is(err, messaging.ErrDenied) {
			t.Errorf("%s = %v, want ErrDenied", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hush-hush") {
			t.Errorf("%s tells the password: %v", name, err)
		}
	}
	if err := b.Close(ctx); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	if strings.Contains(log.String(), "hush-hush") || !strings.Contains(log.String(), "cannot connect") {
		t.Errorf("the log tells the password, or not the failure: %s", log.String())
	}
}

func TestGoroutinesStayFlatOverManyBrokers(t *testing.T) {
	a := newAdmin(t) // not parallel: it counts the goroutines of the whole process
	topic, nobody := a.topic("g"), a.topic()
	cycle := func(deliver bool) {
		b, err := rabbitmq.New(rabbitmq.Config{URL: serverURL(t), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan *messaging.Delivery, 1)
		sub := subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
		if deliver {
			if err := b.Publish(within(t, patience), topic, numbered(1)...); err != nil {
				t.Fatalf("Publish() = %v, want nil", err)
			}
		} else if err := b.Publish(within(t, patience), nobody, numbered(1)...); !errors.Is(err, messaging.ErrUnroutable) {
			t.Fatalf("Publish() to nobody = %v, want ErrUnroutable", err)
		}
		if deliver {
			receive(t, got)
		}
		sub.stop()
		if err := b.Close(within(t, patience)); err != nil {
			t.Fatalf("Close() = %v, want nil", err)
		}
	}
	cycle(true)
	before := runtime.NumGoroutine()
	for i := range 100 {
		cycle(i%10 == 0)
	}
	// amqp091's own goroutines end a moment after the connection has closed.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for runtime.NumGoroutine() > before+2 {
		select {
		case <-tick.C:
		case <-deadline:
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines after 100 cycles, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
