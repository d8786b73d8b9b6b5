package messaging

import (
	"context"
	"time"
)

// A Handler handles one delivery. The [Consumer] settles the delivery by what it
// returns; the table stands in the package documentation. It owns d, and may
// change it.
//
// Its ctx ends when the handler returns, and before that only when going on is
// of no use: with cause [ErrTimeout] after ConsumerConfig.Timeout, [ErrLost]
// when the broker has taken the message back, and [ErrDrain] when the Consumer
// stops and its DrainTimeout is over. A handler that does not heed it holds up
// the end of [Consumer.Run].
type Handler func(ctx context.Context, d *Delivery) error

// A Middleware wraps a Handler, to do something before or after it or to change
// what it returns. Where several are listed, the first is the outermost.
type Middleware func(next Handler) Handler

// Settled tells how a delivery ended, or an attempt that is made again in the
// process, for metrics.
type Settled struct {
	// Delivery is what was handled, as the handler left it. It is the handler's:
	// read it, do not keep it.
	Delivery *Delivery
	// Verdict is what the Consumer asked of the broker. Verdict.Err wraps what the
	// handler returned, and its text is safe to read though the Error method of
	// the handler's error should panic. Of a Retry under OrderedRetries, the broker
	// is asked nothing.
	Verdict Verdict
	// Err is nil when the verdict was carried out. Otherwise the message comes
	// again: [ErrLost] means that the broker had taken it back, and anything else
	// is what Settle returned.
	Err error
	// Took is how long the handler ran; 0 when it was not called, because the
	// Consumer was stopping or the delivery was lost while it waited.
	Took time.Duration
}
