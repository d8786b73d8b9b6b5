package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/messaging"
)

// long reports whether the long forms are asked for.
func long() bool { return os.Getenv("PARLEY_CHAOS") == "long" }

// size returns the one that is asked for.
func size[T any](short, longer T) T {
	if long() {
		return longer
	}
	return short
}

// patience ends what hangs. It asserts nothing about speed, and outlasts every
// outage.
const patience = 3 * time.Minute

// within returns a context for what must not hang.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// pause lets time pass where that is what a test is about: the pace of a load,
// the length of an outage.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// eventually asks for what nothing tells of.
func eventually(t testing.TB, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(bound)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Errorf("not within %v: %s", bound, what)
			return
		}
	}
}

// unique returns a name that no other test uses.
func unique(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])
}

// closed closes b when the test ends.
func closed[B messaging.Broker](t testing.TB, b B) B {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}

// logged returns a Logger whose warnings are the test's.
func logged(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// proxied returns a proxy to the server at the URL, and the URL through it.
func proxied(t testing.TB, at string) (*netfault.Proxy, string) {
	t.Helper()
	u := parse(t, at)
	p, err := netfault.Listen(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	u.Host = p.Addr()
	return p, u.String()
}

func parse(t testing.TB, at string) *url.URL {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal("the address of the server is not a URL")
	}
	return u
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
