package kafka

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// sayAgain is how soon one line of the client's may come again as a warning.
	sayAgain = time.Minute
	// maxTroubles bounds what is remembered to be in trouble, and maxLines which lines
	// of the client's were told.
	maxTroubles = 1000
	maxLines    = 1000
)

// A troubles has each trouble told once when it begins and once when it ends, however
// often it is met in between, at a level that wakes no one. Whoever is on call gets
// two lines for an outage that fails ten thousand calls. It is told of connections
// by the clients, as one of their hooks.
type troubles struct {
	log *slog.Logger
	any atomic.Int64 // how many are open, so that success costs a load

	mu    sync.Mutex
	open  map[string]time.Time // guarded by mu; since when
	out   int                  // guarded by mu; those of open that are brokers
	last  time.Time            // guarded by mu; when one of them was tried last
	lines map[string]time.Time // guarded by mu; when the client's were told
}

func newTroubles(log *slog.Logger) *troubles {
	return &troubles{log: log, open: map[string]time.Time{}, lines: map[string]time.Time{}}
}

// met notes a failure of what, which is nothing new while a broker is known to be
// out of reach.
func (t *troubles) met(log *slog.Logger, what, msg string, args ...any) {
	level := slog.LevelDebug
	t.mu.Lock()
	if !t.outage() && t.begin(what) {
		level = slog.LevelWarn
	}
	t.mu.Unlock()
	log.Log(context.Background(), level, msg, args...) //nolint:sloglint // each caller passes a constant
}

// outage reports whether a broker is known to be out of reach. One that has left the
// cluster for good is tried no more, and hides nothing. The caller holds mu.
func (t *troubles) outage() bool { return t.out > 0 && time.Since(t.last) < sayAgain }

// begin notes what as in trouble, and reports whether that is new. The caller holds
// mu.
func (t *troubles) begin(what string) bool {
	if _, ok := t.open[what]; ok || len(t.open) >= maxTroubles {
		return false
	}
	t.open[what] = time.Now()
	t.any.Add(1)
	return true
}

// over notes that what succeeds, and reports whether that is new, and how long it
// did not.
func (t *troubles) over(what string, broker bool) (lasted time.Duration, ended bool) {
	if t.any.Load() == 0 {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	since, ok := t.open[what]
	if !ok {
		return 0, false
	}
	delete(t.open, what)
	t.any.Add(-1)
	if broker {
		t.out--
	}
	return time.Since(since), true
}

// well notes that what succeeds.
func (t *troubles) well(log *slog.Logger, what, msg string, args ...any) {
	if lasted, ended := t.over(what, false); ended {
		log.Warn(msg, append(args, slog.Duration("after", lasted))...) //nolint:sloglint // likewise
	}
}

// OnBrokerConnect implements [kgo.HookBrokerConnect].
func (t *troubles) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil { // a connection proves nothing yet: an answer does
		t.unanswered(meta, err)
	}
}

// OnBrokerE2E implements [kgo.HookBrokerE2E].
func (t *troubles) OnBrokerE2E(meta kgo.BrokerMetadata, _ int16, e kgo.BrokerE2E) {
	if err := errors.Join(e.WriteErr, e.ReadErr); err != nil {
		t.unanswered(meta, err)
		return
	}
	if t.any.Load() == 0 {
		return
	}
	addr := address(meta)
	if lasted, ended := t.over(addr, true); ended {
		t.log.Warn("kafka: a broker answers again", slog.String("addr", addr), slog.Duration("after", lasted))
	}
}

// unanswered notes that a broker was not reached, or went away.
func (t *troubles) unanswered(meta kgo.BrokerMetadata, err error) {
	if ours(err) {
		return
	}
	addr := address(meta)
	t.mu.Lock()
	began := t.begin(addr)
	if began {
		t.out++
	}
	t.last = time.Now()
	t.mu.Unlock()
	if began {
		t.log.Warn("kafka: a broker does not answer", slog.String("addr", addr), slog.Any("err", err))
	}
}

func address(meta kgo.BrokerMetadata) string {
	return net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port)))
}

// ours reports whether err comes from a call that ended, or from Close.
func ours(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, net.ErrClosed)
}

// news reports whether a line of the client's is a warning: the first of its kind
// for a while, and no part of an outage that is known.
func (t *troubles) news(line string, err error) bool {
	if _, network := errors.AsType[net.Error](err); network || errors.Is(err, io.EOF) || ours(err) {
		return false // OnBrokerConnect and OnBrokerE2E have it too
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outage() {
		return false
	}
	if at, ok := t.lines[line]; ok && now.Sub(at) < sayAgain {
		return false
	}
	if len(t.lines) >= maxLines {
		clear(t.lines)
	}
	t.lines[line] = now
	return true
}

// A clientLog passes on what the client has to say that operators must know.
type clientLog struct{ *troubles }

// Level implements [kgo.Logger].
func (l clientLog) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelWarn
}

// Log implements [kgo.Logger].
func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	switch level {
	case kgo.LogLevelError, kgo.LogLevelWarn:
		var errs []error
		for _, v := range keyvals {
			if err, ok := v.(error); ok {
				errs = append(errs, err)
			}
		}
		if l.news(msg, errors.Join(errs...)) {
			to = slog.LevelWarn
		}
	case kgo.LogLevelNone, kgo.LogLevelInfo, kgo.LogLevelDebug:
	}
	l.log.Log(context.Background(), to, "kafka: client", slog.String("event", msg), slog.Group("detail", keyvals...))
}
