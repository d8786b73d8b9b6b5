package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// AccessLog writes one structured line for each request, when it is over:
// route (the pattern, empty where none matched), upstream, method, status, bytes (of
// the answer's body or, in a tunnel, to the client), duration, target, attempts and
// request_id; aborted where the answer broke off, fallback where a Fallback gave it,
// and err, why the upstream gave none. Status 499 means that the client left first.
//
// Nothing that a client chose freely is written: no path, no query, no header
// and no body. What it may influence is bounded and printable ASCII, so that no
// handler can be made to write a line of the client's invention.
type AccessLog struct {
	// Logger gets the lines, at level Info, with the context of the request.
	// Default: [slog.Default] at the time of Build.
	Logger *slog.Logger
}

func (l *AccessLog) withDefaults() *AccessLog {
	if l == nil {
		return nil
	}
	c := *l
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &c
}

const maxLogText = 512

// of returns what writes the lines of a route: what is the same in all of them, it has
// made ready.
func (l *AccessLog) of(rt *route) slog.Handler {
	if l == nil {
		return nil
	}
	same := []slog.Attr{slog.String("route", rt.Pattern)}
	if rt.split == nil {
		same = append(same, slog.String("upstream", rt.Upstream))
	}
	return l.Logger.Handler().WithAttrs(same)
}

func (l *AccessLog) write(r *http.Request, x *exchange, whole bool) {
	if l == nil || !l.Logger.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	to := x.log
	if to == nil { // no route has matched
		to = l.of(new(route))
	}
	x.mu.Lock() // a Fallback of what middleware has left behind may still be at work
	tale := x.story
	x.mu.Unlock()
	// Made here, a record costs neither a search for the line of code that it comes
	// from, which is always this one, nor a second slice.
	now := time.Now()
	line := slog.NewRecord(now, slog.LevelInfo, "request", 0)
	line.AddAttrs(
		slog.String("method", printable(r.Method, maxMethod)),
		slog.Int("status", x.finalStatus(whole)),
		slog.Int64("bytes", x.written.Load()),
		slog.Duration("duration", now.Sub(x.started)),
		slog.String("target", tale.target),
		slog.Int("attempts", tale.attempts),
		slog.String("request_id", x.id[0]),
	)
	if x.split {
		line.AddAttrs(slog.String("upstream", tale.upstream))
	}
	if !whole {
		line.AddAttrs(slog.Bool("aborted", true))
	}
	if tale.fallback {
		line.AddAttrs(slog.Bool("fallback", true))
	}
	if tale.err != nil {
		line.AddAttrs(slog.String("err", printable(tale.err.Error(), maxLogText)))
	}
	_ = to.Handle(r.Context(), line) // a log that fails stops no request
}

// finalStatus is what the client saw. A handler that writes nothing answers 200;
// one that panics before it writes, nothing.
func (x *exchange) finalStatus(whole bool) int {
	if x.status == 0 && whole {
		return http.StatusOK
	}
	return x.status
}

// printable returns at most n bytes of s, with whatever a terminal or a line of
// text would trip over replaced.
func printable(s string, n int) string {
	s = s[:min(len(s), n)]
	clean := true
	for i := range len(s) {
		clean = clean && s[i] >= ' ' && s[i] <= '~'
	}
	if clean {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
