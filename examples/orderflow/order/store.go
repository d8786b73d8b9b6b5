package order

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/parley-go/parley/examples/orderflow/httpjson"
	"github.com/parley-go/parley/messaging"
)

// The store lives in memory, so both of its parts are bounded.
const (
	maxOrders = 100_000
	maxOutbox = 10_000
)

// store keeps orders and, beside them, the events that are still to be
// published. Both change in one step, so that there is never an order without
// its event nor an event without its order: a transactional outbox.
type store struct {
	mu     sync.Mutex
	orders map[int64]Order // guarded by mu
	outbox []row           // guarded by mu, oldest first
	lastID int64           // guarded by mu
	added  chan struct{}   // holds a token when rows were added
}

type row struct {
	topic string
	msg   messaging.Message
}

func newStore() *store {
	return &store{orders: make(map[int64]Order), lastID: 455, added: make(chan struct{}, 1)}
}

// nextID returns a number that no order had before, or an error when there is no
// room for an order: before anything has been done for it.
func (s *store) nextID() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orders) >= maxOrders {
		return 0, httpjson.Errorf(http.StatusInsufficientStorage, "this store keeps %d orders and is full", maxOrders)
	}
	if len(s.outbox) >= maxOutbox {
		return 0, &httpjson.Problem{
			Title: http.StatusText(http.StatusServiceUnavailable), Status: http.StatusServiceUnavailable, Wait: 10 * time.Second,
			Detail: "the message broker has been away for too long: send the order again later, with the same Idempotency-Key",
		}
	}
	s.lastID++
	return s.lastID, nil
}

func (s *store) order(id int64) (Order, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.orders[id]
	return o, ok
}

func (s *store) count() (orders, unpublished int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.orders), len(s.outbox)
}

// A tx collects what is to change together. It is a [messaging.Publisher], so
// that whatever wraps a publisher, tracing for one, wraps it too.
type tx struct {
	orders []Order
	rows   []row
}

// Publish adds messages to the transaction.
func (t *tx) Publish(_ context.Context, topic string, msgs ...messaging.Message) error {
	for _, m := range msgs {
		t.rows = append(t.rows, row{topic, m.Clone()})
	}
	return nil
}

func (s *store) commit(t *tx) {
	s.mu.Lock()
	for _, o := range t.orders {
		s.orders[o.ID] = o
	}
	s.outbox = append(s.outbox, t.rows...)
	s.mu.Unlock()
	select {
	case s.added <- struct{}{}:
	default: // the token is there already
	}
}

// pending returns the oldest rows of one topic, at most n.
func (s *store) pending(n int) (topic string, msgs []messaging.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.outbox {
		if len(msgs) == n || topic != "" && r.topic != topic {
			break
		}
		topic, msgs = r.topic, append(msgs, r.msg)
	}
	return topic, msgs
}

// published forgets the rows whose messages the broker has taken. Only the relay
// calls it, so rows can only have been added meanwhile.
func (s *store) published(ids map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.outbox[:0]
	for _, r := range s.outbox {
		if !ids[r.msg.ID] {
			kept = append(kept, r)
		}
	}
	clear(s.outbox[len(kept):])
	s.outbox = kept
}
