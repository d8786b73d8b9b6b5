package rabbitmq

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// returnOf returns the return of the message with number seq.
func returnOf(seq int64) amqp.Return { return amqp.Return{Headers: amqp.Table{headerSeq: seq}} }

func TestWhoeverSeesAConfirmationKnowsWhetherTheMessageWasReturned(t *testing.T) {
	t.Parallel()
	conn, err := amqp.Dial(need.Address(t, services.RabbitMQ()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	// No goroutine takes what is returned, as if it got no time to run.
	o := &outlet{
		connection: &connection{gone: make(chan struct{}), log: slog.New(slog.DiscardHandler)},
		ch:         ch, returns: ch.NotifyReturn(make(chan amqp.Return, 8)), waiting: map[int64]*item{}, room: time.Now(),
	}
	it := &item{msg: amqp.Publishing{Headers: amqp.Table{}}}
	c := &batch{items: []*item{it}}
	o.register(c, it)
	if it.confirm, err = ch.PublishWithDeferredConfirm("", "no-such-queue", true, false, it.msg); err != nil {
		t.Fatal(err)
	}
	b := &Broker{closing: make(chan struct{})}
	if repeat, err := b.outcome(t.Context(), o, c, it); repeat || err != nil || !it.returned.Load() {
		t.Errorf("outcome() = repeat %v, %v, returned %v, want false, nil, true", repeat, err, it.returned.Load())
	}

	t.Run("or sends it again where a return may have been dropped", func(t *testing.T) {
		o.missed = true
		if repeat, err := b.outcome(t.Context(), o, c, it); !repeat || err != nil || !isClosed(o.gone) {
			t.Errorf("outcome() = repeat %v, %v, outlet shut %v, want true, nil, true", repeat, err, isClosed(o.gone))
		}
	})
}

func TestMarkNoticesThatAReturnMayHaveBeenDropped(t *testing.T) {
	t.Parallel()
	const size = 4
	for name, c := range map[string]struct {
		n    int
		idle time.Duration
		want bool
	}{
		"not when it is full for a moment":      {size, maxFull / 2, true},
		"not when it had room, however long":    {size - 1, time.Hour, true},
		"when it has been full for a long time": {size, 5 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				returns, it := make(chan amqp.Return, size), &item{}
				o := &outlet{returns: returns, waiting: map[int64]*item{1: it}, room: time.Now()}
				for i := range c.n {
					returns <- returnOf(int64(i + 1))
				}
				time.Sleep(c.idle)
				for range 2 { // what was missed once is missing for good
					if got := o.mark(); got != c.want {
						t.Errorf("mark() = %v, want %v", got, c.want)
					}
				}
				if !it.returned.Load() {
					t.Error("mark() did not note the message as returned")
				}
			})
		})
	}
}
