package netfault_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/netfault"
)

// bound ends what should not hang; moment is how long a test watches that
// nothing happens.
const (
	bound  = 10 * time.Second
	moment = 50 * time.Millisecond
)

// pair returns a Proxy and both ends of a connection through it.
func pair(t *testing.T) (p *netfault.Proxy, client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if p, err = netfault.Listen(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if client, err = net.Dial("tcp", p.Addr()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = client.Close(), server.Close()
		if err := p.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
			t.Fatal(err)
		}
	}
	return p, client, server
}

// passes sends a word and expects it at the other end.
func passes(t *testing.T, from, to net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(from, word); err != nil {
		t.Fatalf("Write() = %v, want nil", err)
	}
	arrives(t, to, word)
}

func arrives(t *testing.T, to net.Conn, word string) {
	t.Helper()
	got := make([]byte, len(word))
	if _, err := io.ReadFull(to, got); string(got) != word || err != nil {
		t.Fatalf("Read() = %q, %v, want %q", got, err, word)
	}
}

// stuck sends a word and expects nothing at the other end for a moment.
func stuck(t *testing.T, from, to net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(from, word); err != nil {
		t.Fatalf("Write() = %v, want nil", err)
	}
	if err := to.SetReadDeadline(time.Now().Add(moment)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := to.Read(make([]byte, 1)); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("Read() = %d, %v, want nothing for a moment", n, err)
	}
	if err := to.SetReadDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
}

func TestBytesPassBothWaysAndSoDoesTheEnd(t *testing.T) {
	_, client, server := pair(t)
	passes(t, client, server, "ping")
	passes(t, server, client, "pong")
	_ = client.Close()
	if n, err := server.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read() after the other end closed = %d, %v, want EOF", n, err)
	}
}

func TestHoldStopsOneWayOrBothUntilHeal(t *testing.T) {
	for name, c := range map[string]struct {
		way      netfault.Way
		up, down bool // whether bytes pass
	}{
		"up":   {netfault.Up, false, true},
		"down": {netfault.Down, true, false},
		"both": {netfault.Both, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := pair(t)
			p.Hold(c.way)
			p.Hold(c.way) // twice is once
			way := map[bool]func(*testing.T, net.Conn, net.Conn, string){true: passes, false: stuck}
			way[c.up](t, client, server, "ping")
			way[c.down](t, server, client, "pong")
			p.Heal()
			if !c.up {
				arrives(t, server, "ping")
			}
			if !c.down {
				arrives(t, client, "pong")
			}
			passes(t, client, server, "again")
		})
	}
}

func TestCutResetsWhatIsOpenAndLetsNewConnectionsPass(t *testing.T) {
	p, client, server := pair(t)
	passes(t, client, server, "ping")
	p.Cut()
	for _, c := range []net.Conn{client, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read() after Cut = %v, want a reset", err)
		}
	}
	again, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatalf("Dial() after Cut = %v, want nil", err)
	}
	_ = again.Close()
}

func TestLoseDropsWhatItIsTold(t *testing.T) {
	p, client, server := pair(t)
	p.Lose(func(sent []byte) bool { return bytes.Equal(sent, []byte("bad")) })
	stuck(t, client, server, "bad")
	passes(t, client, server, "good")
	passes(t, server, client, "bad") // the way down is not looked at
	p.Heal()
	passes(t, client, server, "bad")
}

func TestDelayHoldsUpOneWay(t *testing.T) {
	p, client, server := pair(t)
	p.Delay(netfault.Up, moment)
	began := time.Now()
	passes(t, client, server, "slow")
	if took := time.Since(began); took < moment {
		t.Errorf("the delayed way took %v, want at least %v", took, moment)
	}
	p.Delay(netfault.Up, time.Hour)
	passes(t, server, client, "fast")
	stuck(t, client, server, "late") // and Close does not wait for it
}

func TestCloseEndsAllAlsoWhileNothingPasses(t *testing.T) {
	p, client, server := pair(t)
	p.Hold(netfault.Both)
	stuck(t, client, server, "ping")
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	}
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial() after Close = %v, want a refusal", err)
	}
}

func TestAServerThatIsAwayEndsTheConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	p, err := netfault.Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("Read() = %d, %v, want the end of the connection", n, err)
	}
}
