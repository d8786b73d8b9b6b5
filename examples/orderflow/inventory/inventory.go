// Package inventory is the Inventory service: it knows what is in stock, sets
// items aside for orders that come about, and takes them out of the store when
// it hears that an order stands.
package inventory

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/parley-go/parley/examples/orderflow/event"
	"github.com/parley-go/parley/examples/orderflow/httpjson"
	"github.com/parley-go/parley/messaging"
)

// Service is the Inventory service. It is safe for concurrent use.
type Service struct {
	stock *stock
	down  atomic.Bool
}

// New returns a service with the given number of each article in stock.
func New(available map[string]int) *Service {
	return &Service{stock: newStock(available)}
}

// Reservation is the body of PUT /reservations/{orderId}.
type Reservation struct {
	Items []string `json:"items"`
}

// Handler serves GET /items/{sku} and PUT /reservations/{orderId}, which is
// idempotent: an order that hears no answer asks again.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{sku}", func(w http.ResponseWriter, r *http.Request) {
		if item, ok := s.stock.item(r.PathValue("sku")); ok {
			httpjson.Write(w, http.StatusOK, item)
			return
		}
		httpjson.Fail(w, httpjson.Errorf(http.StatusNotFound, "there is no such item"))
	})
	mux.HandleFunc("PUT /reservations/{orderId}", func(w http.ResponseWriter, r *http.Request) {
		var body Reservation
		if err := httpjson.Read(w, r, &body); err != nil {
			httpjson.Fail(w, err)
			return
		}
		order, valid := httpjson.ID(r.PathValue("orderId"))
		if !valid || len(body.Items) == 0 {
			httpjson.Fail(w, httpjson.Errorf(http.StatusBadRequest, "send the order's number in the path and at least one item"))
			return
		}
		if err := s.stock.reserve(order, body.Items); err != nil {
			httpjson.Fail(w, err)
			return
		}
		httpjson.Write(w, http.StatusOK, body)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to break the connection
		}
		mux.ServeHTTP(w, r)
	})
}

// Handle acts on what became of an order. It is not idempotent by itself, and
// need not be: an inbox stands before it.
func (s *Service) Handle(_ context.Context, e event.Order, _ *messaging.Delivery) error {
	switch e.EventType {
	case event.Placed:
		if !s.stock.commit(e.OrderID) {
			return messaging.Permanent(fmt.Errorf("order %d was placed, but nothing is reserved for it", e.OrderID))
		}
	case event.Refused:
		s.stock.release(e.OrderID)
	}
	return nil
}

// SetDown makes the service break every connection, as a crashed process does,
// until it is called with false.
func (s *Service) SetDown(down bool) { s.down.Store(down) }

// Report is the state of the stock, for the check of the flow's invariants.
type Report struct {
	Items []Item
	Moves int // orders whose stock has moved
	Held  int // orders that have reserved and neither stand nor were refused
}

// Report returns the state of the stock at one moment.
func (s *Service) Report() Report {
	s.stock.mu.Lock()
	defer s.stock.mu.Unlock()
	r := Report{Moves: s.stock.moves}
	for _, item := range s.stock.items {
		r.Items = append(r.Items, *item)
	}
	for _, o := range s.stock.orders {
		if o.state == held {
			r.Held++
		}
	}
	return r
}
