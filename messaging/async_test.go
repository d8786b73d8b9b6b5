package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/messaging"
)

// publishes is a Publisher that notes its calls and does what its function says.
type publishes struct {
	do func(ctx context.Context, topic string, msgs []messaging.Message) error

	mu      sync.Mutex
	batches [][]string // guarded by mu; the payloads of each call
}

func (p *publishes) Publish(ctx context.Context, topic string, msgs ...messaging.Message) error {
	var batch []string
	for _, m := range msgs {
		batch = append(batch, string(m.Payload))
	}
	p.mu.Lock()
	p.batches = append(p.batches, batch)
	p.mu.Unlock()
	if p.do == nil {
		return nil
	}
	return p.do(ctx, topic, msgs)
}

func slow(d time.Duration) func(context.Context, string, []messaging.Message) error {
	return func(ctx context.Context, _ string, _ []messaging.Message) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", messaging.ErrNotConfirmed, context.Cause(ctx))
		}
	}
}

// runAsync runs an AsyncPublisher until the test stops it, and returns what Run
// returned.
func runAsync(t *testing.T, p messaging.Publisher, cfg messaging.AsyncConfig) (a *messaging.AsyncPublisher, stop func() error) {
	t.Helper()
	a, err := messaging.NewAsyncPublisher(p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return a, func() error {
		cancel()
		return <-ended
	}
}

func text(s string) messaging.Message { return messaging.NewMessage("T", []byte(s)) }

func TestNewAsyncPublisherReportsAllFaultsOnOneLine(t *testing.T) {
	var none *publishes
	_, err := messaging.NewAsyncPublisher(none, messaging.AsyncConfig{MaxInFlight: -1, MaxBatch: 10_001, Timeout: -1, DrainTimeout: -1})
	if !errors.Is(err, messaging.ErrInvalid) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("NewAsyncPublisher() = %v, want ErrInvalid on one line", err)
	}
	for _, want := range []string{"MaxInFlight -1", "MaxBatch 10001", "DrainTimeout -1ns", "; Timeout -1ns", "the Publisher is nil"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("NewAsyncPublisher() = %v, want it to name %q", err, want)
		}
	}
}

func TestWhileOneBatchIsOnItsWayTheNextGathersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publishes{do: slow(time.Second)}
		a, stop := runAsync(t, p, messaging.AsyncConfig{MaxBatch: 3})
		var told []string
		for _, s := range strings.Split("abcdef", "") {
			if err := a.Publish(t.Context(), "orders", text(s), func(err error) { told = append(told, fmt.Sprint(s, err)) }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if err := a.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(p.batches), "[[a] [b c d] [e f]]"; got != want {
			t.Errorf("batches = %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(told), "[a<nil> b<nil> c<nil> d<nil> e<nil> f<nil>]"; got != want {
			t.Errorf("done was called with %s, want %s", got, want)
		}
		if err := stop(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestASlowTopicHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publishes{do: func(ctx context.Context, topic string, msgs []messaging.Message) error {
			if topic == "slow" {
				return slow(time.Hour)(ctx, topic, msgs)
			}
			return nil
		}}
		a, stop := runAsync(t, p, messaging.AsyncConfig{Timeout: 2 * time.Hour, DrainTimeout: 2 * time.Hour})
		_ = a.Publish(t.Context(), "slow", text("a"), nil)
		confirmed := make(chan time.Time, 1)
		start := time.Now()
		_ = a.Publish(t.Context(), "quick", text("b"), func(error) { confirmed <- time.Now() })
		if took := (<-confirmed).Sub(start); took != 0 {
			t.Errorf("the quick topic was confirmed after %v, want at once", took)
		}
		if err := stop(); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

func TestPublishWaitsForRoomWhileMaxInFlightAreUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publishes{do: slow(time.Second)}
		a, stop := runAsync(t, p, messaging.AsyncConfig{MaxInFlight: 2})
		start := time.Now()
		for range 2 {
			_ = a.Publish(t.Context(), "orders", text("x"), nil)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second/2, errors.New("hurry"))
		defer cancel()
		called := false
		err := a.Publish(ctx, "orders", text("refused"), func(error) { called = true })
		if err == nil || !strings.Contains(err.Error(), "hurry") || time.Since(start) != time.Second/2 {
			t.Errorf("Publish() = %v after %v, want the context's cause after 500ms", err, time.Since(start))
		}
		if err := a.Publish(ctx, "orders", text("refused"), nil); err == nil {
			t.Error("Publish() with an ended context = nil, want its cause")
		}
		if err := a.Publish(t.Context(), "orders", text("y"), nil); err != nil || time.Since(start) != time.Second {
			t.Errorf("Publish() = %v after %v, want nil after 1s, when there is room", err, time.Since(start))
		}
		if err := stop(); err != nil || called {
			t.Errorf("Run() = %v, done of the refused message called: %v; want nil, false", err, called)
		}
		if strings.Contains(fmt.Sprint(p.batches), "refused") {
			t.Errorf("batches = %v, want nothing that was refused", p.batches)
		}
	})
}

func TestDoneIsToldWhatBecameOfItsOwnMessage(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a BatchError says it of each":               {&messaging.BatchError{Errs: []error{nil, broken}}, "[<nil> broken]"},
		"any other error is everyone's":              {broken, "[broken broken]"},
		"a BatchError of another length is, as well": {&messaging.BatchError{Errs: []error{broken}}, "[messaging: 1 of 1 messages not published, first: broken messaging: 1 of 1 messages not published, first: broken]"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &publishes{do: func(context.Context, string, []messaging.Message) error { return c.err }}
			a, err := messaging.NewAsyncPublisher(p, messaging.AsyncConfig{})
			if err != nil {
				t.Fatal(err)
			}
			var told []error
			for range 2 { // before Run, so that they go out together
				_ = a.Publish(t.Context(), "orders", text("x"), func(err error) { told = append(told, err) })
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := a.Run(ctx); err != nil || fmt.Sprint(told) != c.want {
				t.Errorf("Run() = %v, done was told %v, want nil, %s", err, told, c.want)
			}
		})
	}
}

func TestRunSendsWhatIsInLineAndThenPublishTakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publishes{do: slow(time.Second)}
		a, stop := runAsync(t, p, messaging.AsyncConfig{MaxBatch: 1})
		told := 0
		for range 5 {
			_ = a.Publish(t.Context(), "orders", text("x"), func(err error) {
				if err == nil {
					told++
				}
			})
		}
		if err := stop(); err != nil || told != 5 {
			t.Errorf("Run() = %v with %d of 5 confirmed, want nil with all", err, told)
		}
		if err := a.Publish(t.Context(), "orders", text("late"), nil); !errors.Is(err, messaging.ErrClosed) {
			t.Errorf("Publish() after Run = %v, want ErrClosed", err)
		}
		if err := a.Run(t.Context()); !errors.Is(err, messaging.ErrInvalid) {
			t.Errorf("second Run() = %v, want ErrInvalid", err)
		}
	})
}

func TestWhatIsLeftAfterDrainTimeoutFailsWithErrDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stop := runAsync(t, &publishes{do: slow(time.Hour)}, messaging.AsyncConfig{MaxBatch: 1, DrainTimeout: time.Second})
		var told []error
		for range 3 {
			_ = a.Publish(t.Context(), "orders", text("x"), func(err error) { told = append(told, err) })
		}
		synctest.Wait()
		start := time.Now()
		if err := stop(); !errors.Is(err, messaging.ErrDrain) || time.Since(start) != time.Second {
			t.Errorf("Run() = %v after %v, want ErrDrain after 1s", err, time.Since(start))
		}
		for _, err := range told {
			if !errors.Is(err, messaging.ErrDrain) {
				t.Errorf("done was told %v, want ErrDrain", err)
			}
		}
		if len(told) != 3 {
			t.Errorf("done was called %d times, want 3", len(told))
		}
	})
}

func TestTimeoutBoundsHowLongABatchWaitsForTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stop := runAsync(t, &publishes{do: slow(time.Hour)}, messaging.AsyncConfig{Timeout: time.Second})
		told := make(chan error)
		_ = a.Publish(t.Context(), "orders", text("x"), func(err error) { told <- err })
		if err := <-told; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("done was told %v, want DeadlineExceeded", err)
		}
		_ = stop()
	})
}

func TestFlushEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := messaging.NewAsyncPublisher(&publishes{}, messaging.AsyncConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(t.Context()); err != nil {
			t.Errorf("Flush() of nothing = %v, want nil", err)
		}
		_ = a.Publish(t.Context(), "orders", text("x"), nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush() before Run = %v, want DeadlineExceeded", err)
		}
	})
}

func TestTheCallerMayReuseAMessageOnceItIsInLine(t *testing.T) {
	p := &publishes{}
	a, err := messaging.NewAsyncPublisher(p, messaging.AsyncConfig{})
	if err != nil {
		t.Fatal(err)
	}
	m := text("before")
	_ = a.Publish(t.Context(), "orders", m, nil)
	copy(m.Payload, "AFTER!")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Run(ctx); err != nil || fmt.Sprint(p.batches) != "[[before]]" {
		t.Errorf("Run() = %v, published %v, want nil, before", err, p.batches)
	}
}

func TestDoneIsToldThatNothingIsKnownWhenThePublisherBelowEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publishes{do: func(context.Context, string, []messaging.Message) error {
			runtime.Goexit()
			return nil
		}}
		a, stop := runAsync(t, p, messaging.AsyncConfig{MaxInFlight: 1})
		var told []error
		for range 3 {
			if err := a.Publish(t.Context(), "orders", text("x"), func(err error) { told = append(told, err) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := stop(); err != nil || len(told) != 3 || !errors.Is(told[0], messaging.ErrNotConfirmed) {
			t.Errorf("Run() = %v, done was told %v, want nil, 3 times ErrNotConfirmed", err, told)
		}
	})
}

func TestADoneThatEndsItsGoroutineHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stop := runAsync(t, &publishes{}, messaging.AsyncConfig{MaxInFlight: 2})
		var told atomic.Int32
		for range 10 {
			err := a.Publish(t.Context(), "orders", text("x"), func(error) {
				told.Add(1)
				runtime.Goexit()
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := stop(); err != nil || told.Load() != 10 {
			t.Errorf("Run() = %v, done called %d times, want nil, 10", err, told.Load())
		}
	})
}

func TestEveryMessageInLineIsConfirmedOnceAndInOrderWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const topics, each = 4, 500
	var mu sync.Mutex
	seen := map[string][]int{}
	p := &publishes{do: func(_ context.Context, topic string, msgs []messaging.Message) error {
		errs := make([]error, len(msgs))
		mu.Lock()
		defer mu.Unlock()
		for i, m := range msgs {
			var n int
			_, _ = fmt.Sscan(string(m.Payload), &n)
			seen[topic] = append(seen[topic], n)
			if n%7 == 0 {
				errs[i] = messaging.ErrRefused
			}
		}
		return &messaging.BatchError{Errs: errs}
	}}
	a, stop := runAsync(t, p, messaging.AsyncConfig{MaxInFlight: 1 + rnd.IntN(50), MaxBatch: 1 + rnd.IntN(20)})
	var ok, refused atomic.Int32
	var all sync.WaitGroup
	for topic := range topics {
		all.Go(func() {
			for n := range each {
				err := a.Publish(t.Context(), fmt.Sprint("topic", topic), text(fmt.Sprint(n)), func(err error) {
					switch {
					case err == nil && n%7 != 0:
						ok.Add(1)
					case errors.Is(err, messaging.ErrRefused) && n%7 == 0:
						refused.Add(1)
					default:
						t.Errorf("message %d: done was told %v", n, err)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := stop(); err != nil || ok.Load()+refused.Load() != topics*each {
		t.Errorf("Run() = %v, %d confirmed and %d refused of %d", err, ok.Load(), refused.Load(), topics*each)
	}
	for topic, ns := range seen {
		for i, n := range ns {
			if n != i {
				t.Fatalf("%s: message %d went out in place %d", topic, n, i)
			}
		}
	}
}
