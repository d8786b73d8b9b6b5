package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

func TestRungRoundsADelayUp(t *testing.T) {
	t.Parallel()
	set, err := Config{URL: "amqp://host/", RetryDelays: []time.Duration{5 * time.Second, time.Second, 1500 * time.Microsecond, 5 * time.Second}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ after, delay, rest time.Duration }{
		{-time.Second, 0, 0},
		{0, 0, 0},
		{1, 2 * time.Millisecond, 0},
		{time.Second, time.Second, 0},
		{time.Second + 1, 5 * time.Second, 0},
		{5 * time.Second, 5 * time.Second, 0},
		{12 * time.Second, 5 * time.Second, 7 * time.Second},
	} {
		delay, rest := set.rung(c.after)
		if delay != c.delay || rest != c.rest {
			t.Errorf("rung(%v) = %v, %v, want %v, %v", c.after, delay, rest, c.delay, c.rest)
		}
	}
}

func TestConfigKeepsNoReferenceToTheCallersValues(t *testing.T) {
	t.Parallel()
	delays := []time.Duration{2 * time.Second, time.Second}
	own := &tls.Config{MinVersion: tls.VersionTLS13}
	set, err := Config{URL: "amqps://host/", TLS: own, RetryDelays: delays}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if delays[0] != 2*time.Second || own.ServerName != "" {
		t.Error("withDefaults() changed the caller's Config")
	}
	if set.TLS.ServerName != "host" || set.RetryDelays[0] != time.Second {
		t.Errorf("withDefaults() = ServerName %q, RetryDelays %v", set.TLS.ServerName, set.RetryDelays)
	}
}

func TestBackoffGrowsToItsBoundWithJitter(t *testing.T) {
	t.Parallel()
	if got := backoff(0); got != 0 {
		t.Errorf("backoff(0) = %v, want 0", got)
	}
	for n, bound := range map[int]time.Duration{1: firstDelay, 2: 2 * firstDelay, 5: 16 * firstDelay, 6: maxBackoff, 1 << 40: maxBackoff} {
		for range 100 {
			if got := backoff(n); got <= 0 || got > bound {
				t.Fatalf("backoff(%d) = %v, want within (0, %v]", n, got, bound)
			}
		}
	}
	if got := failuresAfter(7, stable); got != 1 {
		t.Errorf("failuresAfter(7, %v) = %d, want 1", stable, got)
	}
	if got := failuresAfter(7, stable-1); got != 8 {
		t.Errorf("failuresAfter(7, less) = %d, want 8", got)
	}
}

func TestQueueNames(t *testing.T) {
	t.Parallel()
	t.Run("are T.G and its suffixes", func(t *testing.T) {
		t.Parallel()
		q := queuesOf("orders", "billing")
		if q.work != "orders.billing" || q.dead != "orders.billing.dlq" || q.rung(5*time.Second) != "orders.billing.retry.5000" {
			t.Errorf("queuesOf() = %+v, rung %s", q, q.rung(5*time.Second))
		}
	})
	t.Run("of different groups never meet", func(t *testing.T) {
		t.Parallel()
		long := strings.Repeat("x", 128)
		seen := map[string]string{}
		for _, g := range [][2]string{
			{"a", "b.c"},
			{"a.b", "c"},
			{"a.b", "dlq"},
			{"a", "b"},
			{"a", "b.dlq"},
			{"a.b.retry", "1000"},
			{"a", "b.retry.1000"},
			{"a.b.dlq", "dlq"},
			{"a.", "b"},
			{"a", "1000"},
			{long, long},
			{long, long[1:]},
			{long[1:], long},
			{long[:127] + "y", long},
		} {
			q := queuesOf(g[0], g[1])
			for _, name := range []string{q.work, q.dead, q.rung(time.Second), q.rung(maxDelay)} {
				if len(name) > 255 {
					t.Errorf("queuesOf(%q) has a name of %d bytes", g, len(name))
				}
				who := fmt.Sprint(g)
				if other, ok := seen[name]; ok {
					t.Errorf("%s and %s share the queue %s", who, other, name)
				}
				seen[name] = who
			}
		}
	})
}

func FuzzQueueNamesNeverMeet(f *testing.F) {
	f.Add("a", "b.c", "a.b", "c")
	f.Add("a.b", "dlq", "a", "b")
	f.Add("a.b.retry", "1000", "a", "b")
	f.Fuzz(func(t *testing.T, t1, g1, t2, g2 string) {
		for _, s := range [][2]string{{t1, g1}, {t2, g2}} {
			if _, err := messaging.CheckSubscription(messaging.Subscription{Topic: s[0], Group: s[1]}); err != nil {
				t.Skip()
			}
		}
		if t1 == t2 && g1 == g2 {
			return
		}
		first, second := queuesOf(t1, g1), queuesOf(t2, g2)
		if first.work == second.work || first.work == second.dead || first.dead == second.work {
			t.Errorf("%q of %q and %q of %q share a queue", g1, t1, g2, t2)
		}
		for _, d := range []time.Duration{time.Millisecond, time.Second, maxDelay} {
			if first.rung(d) == second.work || first.work == second.rung(d) {
				t.Errorf("%q of %q and %q of %q share a rung", g1, t1, g2, t2)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	t.Parallel()
	server := func(code int, reason string) *amqp.Error {
		return &amqp.Error{Code: code, Reason: reason, Server: true, Recover: code != amqp.ConnectionForced}
	}
	t.Run("dialError tells what trying again cannot mend", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			err    error
			denied bool
		}{
			{server(amqp.AccessRefused, "ACCESS_REFUSED - Login was refused"), true},
			{server(amqp.NotAllowed, "NOT_ALLOWED - vhost nowhere not found"), true},
			{server(amqp.NotAllowed, "NOT_ALLOWED - vhost limits not found"), true},
			{server(amqp.NotAllowed, "NOT_ALLOWED - access to vhost '/' refused: connection limit (10) is reached"), false},
			{&amqp.Error{Code: amqp.AccessRefused, Reason: "made up by the client when the socket closes"}, false},
			{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, true},
			{fmt.Errorf("open: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}), true},
			{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
		} {
			err := dialError(c.err)
			if permanent(err) != c.denied || errors.Is(err, messaging.ErrDenied) != c.denied {
				t.Errorf("dialError(%v) = %v, want denied %v", c.err, err, c.denied)
			}
		}
	})
	t.Run("refused tells a refused declaration from a lost connection", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct{ err, want error }{
			{server(amqp.AccessRefused, "x"), messaging.ErrDenied},
			{server(amqp.PreconditionFailed, "x"), messaging.ErrTopology},
			{server(amqp.ResourceLocked, "x"), messaging.ErrRefused},
			{server(amqp.ConnectionForced, "x"), nil},
			{amqp.ErrClosed, nil},
			{net.ErrClosed, nil},
		} {
			if err := refused(c.err); !errors.Is(err, c.want) {
				t.Errorf("refused(%v) = %v, want %v", c.err, err, c.want)
			}
		}
	})
	t.Run("blame names the message that closed the channel, and no other", func(t *testing.T) {
		t.Parallel()
		noWrite := server(amqp.AccessRefused, "ACCESS_REFUSED - access to exchange 'orders' in vhost '/' refused for user 'u'")
		noRetry := server(amqp.AccessRefused, "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'")
		tooLarge := server(amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 700 is larger than configured max size 500")
		for _, c := range []struct {
			cause    *amqp.Error
			exchange string
			size     int
			want     error
		}{
			{noWrite, "orders", 1, messaging.ErrDenied},
			{noWrite, "order", 1, nil},
			{noWrite, "", 1, nil},
			{noRetry, "", 1, messaging.ErrDenied},
			{noRetry, "orders", 1, nil},
			{tooLarge, "orders", 700, messaging.ErrTooLarge},
			{tooLarge, "orders", 70, nil},
			{server(amqp.NotFound, "NOT_FOUND - no exchange 'orders' in vhost '/'"), "orders", 1, nil},
			{nil, "orders", 1, nil},
			{amqp.ErrClosed, "orders", 1, nil},
		} {
			if err := blame(c.cause, c.exchange, c.size); !errors.Is(err, c.want) {
				t.Errorf("blame(%v, %q, %d) = %v, want %v", c.cause, c.exchange, c.size, err, c.want)
			}
		}
	})
}

func TestSubmitForgetsOnlyWhatItsOwnBatchHasSent(t *testing.T) {
	t.Parallel()
	// Numbers begin anew on each connection: the 5 of a message that was lost
	// with the last one is that of another message on this one.
	other := &item{seq: 5}
	o := &outlet{connection: &connection{gone: make(chan struct{})}, batches: make(chan *batch), waiting: map[int64]*item{5: other}}
	b := &Broker{closing: make(chan struct{})}
	c := &batch{items: []*item{{seq: 5, sent: true}}, written: make(chan struct{})}
	go func() { // a writer that finds the connection lost
		c := <-o.batches
		o.shut()
		close(c.written)
	}()
	if again := b.submit(t.Context(), o, c); len(again) != 1 {
		t.Errorf("submit() = %d items to send again, want 1", len(again))
	}
	if o.waiting[5] != other {
		t.Error("submit() forgot the message of another call")
	}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	t.Run("sends what is written, in order, in fewer writes", func(t *testing.T) {
		t.Parallel()
		here, there := net.Pipe()
		s := newSocket(here)
		done := make(chan struct{})
		go func() { defer close(done); s.flush() }()
		var want strings.Builder
		go func() {
			for i := range 10_000 {
				_, _ = fmt.Fprintf(s, "%d,", i)
			}
		}()
		for i := range 10_000 {
			_, _ = fmt.Fprintf(&want, "%d,", i)
		}
		got, reads := make([]byte, 0, want.Len()), 0
		buf := make([]byte, 1<<20)
		for len(got) < want.Len() {
			n, err := there.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got, reads = append(got, buf[:n]...), reads+1
		}
		if string(got) != want.String() {
			t.Error("the bytes differ from those written")
		}
		if reads == 10_000 {
			t.Error("each write was sent by itself")
		}
		_ = s.Close()
		<-done
	})
	t.Run("is alive while anything comes in, and no longer", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			s := newSocket(here)
			if err := s.expect(time.Second); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			go func() {
				for range 5 {
					time.Sleep(900 * time.Millisecond)
					_, _ = there.Write([]byte{1})
				}
			}()
			n := 0
			for {
				if _, err := s.Read(make([]byte, 1)); err != nil {
					break
				}
				n++
			}
			if took := time.Since(began); n != 5 || took != 5*900*time.Millisecond+time.Second {
				t.Errorf("%d reads until %v, want 5, and the end a second after the last", n, took)
			}
			_ = there.Close()
		})
	})
	t.Run("ends at its last deadline, whatever comes in", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			s := newSocket(here)
			if err := errors.Join(s.expect(time.Second), s.SetDeadline(time.Now().Add(2*time.Second)), s.SetReadDeadline(time.Now().Add(time.Hour))); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var writing sync.WaitGroup
			defer writing.Wait()
			writing.Go(func() {
				for {
					time.Sleep(900 * time.Millisecond)
					if _, err := there.Write([]byte{1}); err != nil {
						return
					}
				}
			})
			for {
				if _, err := s.Read(make([]byte, 1)); err != nil {
					break
				}
			}
			if took := time.Since(began); took != 2*time.Second {
				t.Errorf("the last read failed after %v, want 2s", took)
			}
		})
	})
	t.Run("a failed read ends a write that the peer holds up", func(t *testing.T) {
		t.Parallel()
		here, there := net.Pipe()
		s := newSocket(here)
		go s.flush()
		failed := make(chan error)
		go func() {
			for {
				if _, err := s.Write(make([]byte, maxPending)); err != nil {
					failed <- err
					return
				}
			}
		}()
		_ = here.SetReadDeadline(time.Unix(1, 0)) // as when heartbeats stay away
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("Read() = nil, want an error")
		}
		if err := <-failed; err == nil {
			t.Error("Write() = nil, want an error")
		}
		if s.failed.Load() == nil {
			t.Error("the socket does not tell why reading failed")
		}
		_ = there.Close()
	})
}
