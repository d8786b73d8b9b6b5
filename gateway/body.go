package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxReplay is how much of a request body is kept for another attempt.
const maxReplay = 64 << 10

// clientBody is the body of a request as the client sends it. It remembers how
// reading ended: a body that fails is the client's failure, not the upstream's.
type clientBody struct {
	io.ReadCloser
	x        *exchange
	patience time.Duration         // for which a Read waits, while timed
	waiting  atomic.Bool           // a Read is in progress
	ended    atomic.Pointer[error] // how reading ended, io.EOF where all was well
	last     atomic.Int64          // when it ended, since the exchange started; 0 until then
	clock    atomic.Int32          // timed, untimed, broken or stopped
	mu       sync.Mutex            // held to set a deadline, so that stopped means that none will be
}

// What bounds the reading of a body.
const (
	timed   = iota // each Read, by patience
	untimed        // nothing here: the answer has begun, and silence is for the trip to judge
	broken         // nothing is read any more
	stopped        // likewise, and the connection is not the request's any more
)

// Read implements [io.Reader].
func (b *clientBody) Read(p []byte) (int, error) {
	if b.clock.Load() == stopped {
		return 0, http.ErrBodyReadAfterClose
	}
	b.waiting.Store(true)
	b.wind()
	n, err := b.ReadCloser.Read(p)
	b.waiting.Store(false)
	if n > 0 {
		b.x.move()
	}
	if err != nil {
		b.last.CompareAndSwap(0, int64(time.Since(b.x.started)))
		b.ended.CompareAndSwap(nil, &err)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b.clock.CompareAndSwap(timed, broken)
		} else if b.clock.CompareAndSwap(timed, untimed) {
			b.deadline(time.Time{}) // the server goes on reading, to notice that the client leaves
		}
	}
	return n, err
}

// wind sets the deadline of one Read. Should the clock be stopped meanwhile, by
// another goroutine, its deadline holds.
func (b *clientBody) wind() {
	if b.clock.Load() != timed || b.patience == 0 {
		return
	}
	if !b.deadline(time.Now().Add(b.patience)) {
		b.clock.CompareAndSwap(timed, untimed)
		return
	}
	switch b.clock.Load() {
	case untimed:
		b.deadline(time.Time{})
	case broken:
		b.deadline(time.Now())
	}
}

// stop changes the clock, which only goes forward, and the deadline with it.
func (b *clientBody) stop(to int32) {
	if b == nil {
		return
	}
	if to == stopped { // once no deadline is being set
		b.mu.Lock()
		defer b.mu.Unlock()
	}
	for {
		now := b.clock.Load()
		if now >= to {
			return
		}
		if b.clock.CompareAndSwap(now, to) {
			break
		}
	}
	switch {
	case to == untimed && b.ended.Load() == nil:
		b.deadline(time.Time{})
	case to == broken && b.unfinished():
		b.deadline(time.Now())
	}
}

// deadline bounds reading, as long as the writer is the request's. A transport may
// read the body after it has given up, when the handler has returned: the server's
// writer is gone by then, or another request's.
func (b *clientBody) deadline(at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clock.Load() == stopped {
		return true
	}
	return http.NewResponseController(b.x.ResponseWriter).SetReadDeadline(at) == nil
}

// unfinished reports whether the client has, as far as is known, more to send.
// A body above its limit is: the rest of it stays unread.
func (b *clientBody) unfinished() bool {
	if b == nil {
		return false
	}
	err := b.ended.Load()
	if err == nil {
		return true
	}
	_, above := errors.AsType[*http.MaxBytesError](*err)
	return above
}

// since is for how long the client has had nothing more to send, false where it
// still has or never had anything.
func (b *clientBody) since() (time.Duration, bool) {
	if b == nil || b.last.Load() == 0 {
		return 0, false
	}
	return time.Since(b.x.started) - time.Duration(b.last.Load()), true
}

// failure returns the error that ended reading, nil where all is well.
func (b *clientBody) failure() error {
	if b == nil {
		return nil
	}
	if err := b.ended.Load(); err != nil && !errors.Is(*err, io.EOF) {
		return *err
	}
	return nil
}

// clientFailure is what an attempt returns that failed by the client. It counts as
// rejected, so that neither breaker nor retry blames the upstream.
type clientFailure struct{ error }

func (e *clientFailure) Unwrap() error  { return e.error }
func (e *clientFailure) Rejected() bool { return true }

var errNotReplayable = errors.New("gateway: the request body has been sent and cannot be sent again")

// replay lets several attempts, one after the other, send the body of one
// request. It keeps what has been read so far, up to max bytes, and forgets all
// of it when there is more: from then on there is no further attempt.
type replay struct {
	src io.Reader
	max int

	mu      sync.Mutex
	kept    []byte   // guarded by mu
	lost    bool     // guarded by mu: more than max bytes have been read
	err     error    // guarded by mu: how src ended
	reading bool     // guarded by mu: an attempt reads from src just now
	current *attempt // guarded by mu: the only one that may read
}

// attempt is the body of one attempt.
type attempt struct {
	body *replay
	off  int // of the next byte within kept; guarded by body.mu
}

// replayable returns how much of a request's body to keep: nothing where the
// method forbids to send it twice, so that only a body of which nothing was read
// can be sent again.
func replayable(r *http.Request) int {
	switch r.Method {
	case http.MethodPut, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions:
		return maxReplay
	}
	if r.Header.Get("Idempotency-Key") != "" || r.Header.Get("X-Idempotency-Key") != "" {
		return maxReplay
	}
	return 0
}

// open returns the body from its beginning. The attempt before reads nothing
// more from now on. It fails where the beginning is gone or where that attempt
// still waits for the client.
func (b *replay) open() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.reading {
		return nil, errNotReplayable
	}
	b.current = &attempt{body: b}
	return b.current, nil
}

// end lets no attempt read any more: the body may be somebody else's by now.
func (b *replay) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost, b.current = true, nil
}

// Read implements [io.Reader].
func (a *attempt) Read(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	switch {
	case b.current != a || b.reading:
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	case a.off < len(b.kept):
		n := copy(p, b.kept[a.off:])
		a.off += n
		b.mu.Unlock()
		return n, nil
	case b.err != nil:
		err := b.err
		b.mu.Unlock()
		return 0, err
	}
	b.reading = true
	b.mu.Unlock()

	n, err := b.src.Read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.err = err
	if len(b.kept)+n > b.max {
		b.lost, b.kept, a.off = true, nil, 0
	}
	if !b.lost {
		b.kept = append(b.kept, p[:n]...)
		a.off += n
	}
	return n, err
}

// Close implements [io.Closer]: nothing is read after it.
func (a *attempt) Close() error {
	a.body.mu.Lock()
	defer a.body.mu.Unlock()
	if a.body.current == a {
		a.body.current = nil
	}
	return nil
}
