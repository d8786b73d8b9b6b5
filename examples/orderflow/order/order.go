// Package order is the Order service: it takes orders, has their stock reserved
// and tells the others what became of them.
package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/parley-go/parley/examples/orderflow/event"
	"github.com/parley-go/parley/examples/orderflow/httpjson"
	"github.com/parley-go/parley/examples/orderflow/inventory"
	"github.com/parley-go/parley/examples/orderflow/user"
	"github.com/parley-go/parley/messaging"
)

// An order is bounded, and so is the time that it may take.
const (
	maxItems = 20
	maxSKU   = 64
	placeFor = 8 * time.Second
)

// Config is what the service needs to be given.
type Config struct {
	// Users and Inventory are the base URLs of those services, and UserClient
	// and InventoryClient speak to them, retries and breakers included.
	Users, Inventory            string
	UserClient, InventoryClient *http.Client
	// Topic is where events are published, and Source names this instance in
	// them.
	Topic, Source string
	// Once makes POST /orders idempotent.
	Once func(http.Handler) http.Handler
	// Traced adds the trace context to what is published.
	Traced func(messaging.Publisher) messaging.Publisher
	Logger *slog.Logger
}

// Service is the Order service. It is safe for concurrent use.
type Service struct {
	cfg   Config
	log   *slog.Logger
	store *store
}

// New returns a service without orders.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, log: cfg.Logger, store: newStore()}
}

// Request is the body of POST /orders.
type Request struct {
	UserID int64    `json:"userId"`
	Items  []string `json:"items"`
}

// An Order is an order that stands.
type Order struct {
	ID     int64    `json:"orderId"`
	UserID int64    `json:"userId"`
	Items  []string `json:"items"`
}

// Handler serves POST /orders and GET /orders/{orderId}.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /orders", s.cfg.Once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Request
		err := httpjson.Read(w, r, &req)
		if err != nil {
			httpjson.Fail(w, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), placeFor)
		defer cancel()
		o, err := s.place(ctx, req)
		if err != nil {
			httpjson.Fail(w, err)
			return
		}
		w.Header().Set("Location", fmt.Sprintf("/v1/orders/%d", o.ID))
		httpjson.Write(w, http.StatusCreated, o)
	})))
	mux.HandleFunc("GET /orders/{orderId}", func(w http.ResponseWriter, r *http.Request) {
		id, valid := httpjson.ID(r.PathValue("orderId"))
		if o, ok := s.store.order(id); ok && valid {
			httpjson.Write(w, http.StatusOK, o)
			return
		}
		httpjson.Fail(w, httpjson.Errorf(http.StatusNotFound, "there is no such order"))
	})
	return mux
}

// place lets an order stand, or refuses it and leaves nothing behind.
func (s *Service) place(ctx context.Context, req Request) (Order, error) {
	if len(req.Items) == 0 || len(req.Items) > maxItems {
		return Order{}, httpjson.Errorf(http.StatusUnprocessableEntity, "order 1 to %d items", maxItems)
	}
	for _, sku := range req.Items {
		if sku == "" || len(sku) > maxSKU {
			return Order{}, httpjson.Errorf(http.StatusUnprocessableEntity, "an item is named by 1 to %d characters", maxSKU)
		}
	}
	if err := s.checkUser(ctx, req.UserID); err != nil {
		return Order{}, err
	}
	id, err := s.store.nextID()
	if err != nil {
		return Order{}, err
	}
	o := Order{ID: id, UserID: req.UserID, Items: req.Items}
	if err := s.reserve(ctx, o); err != nil {
		return Order{}, err
	}
	var t tx
	t.orders = append(t.orders, o)
	if err := s.announce(ctx, &t, event.Placed, o); err != nil {
		return Order{}, err
	}
	s.store.commit(&t)
	s.log.LogAttrs(ctx, slog.LevelInfo, "order placed", slog.Int64("order_id", o.ID))
	return o, nil
}

func (s *Service) checkUser(ctx context.Context, id int64) error {
	var u user.User
	err := httpjson.Call(ctx, s.cfg.UserClient, http.MethodGet, fmt.Sprintf("%s/users/%d", s.cfg.Users, id), nil, &u)
	if p, ok := errors.AsType[*httpjson.Problem](err); ok && p.Status == http.StatusNotFound {
		return httpjson.Errorf(http.StatusUnprocessableEntity, "there is no user %d", id)
	}
	if err != nil {
		return s.unavailable(ctx, "user", err)
	}
	return nil
}

// reserve sets the order's items aside. Where the answer stays unknown the order
// is refused, and an event makes Inventory release what it may have reserved.
func (s *Service) reserve(ctx context.Context, o Order) error {
	in, out := inventory.Reservation{Items: o.Items}, inventory.Reservation{}
	err := httpjson.Call(ctx, s.cfg.InventoryClient, http.MethodPut, fmt.Sprintf("%s/reservations/%d", s.cfg.Inventory, o.ID), in, &out)
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*httpjson.Problem](err); ok && p.Status/100 == 4 {
		return p // Inventory decided, and reserved nothing
	}
	var t tx
	if err := s.announce(ctx, &t, event.Refused, o); err != nil {
		return err
	}
	s.store.commit(&t)
	return s.unavailable(ctx, "inventory", err)
}

// announce adds the event to the transaction, with the order's number as key so
// that all that concerns one order stays in order.
func (s *Service) announce(ctx context.Context, t *tx, eventType string, o Order) error {
	payload, err := json.Marshal(event.Order{EventType: eventType, OrderID: o.ID, UserID: o.UserID, Items: o.Items})
	if err != nil {
		return err
	}
	m := messaging.NewMessage(eventType, payload)
	m.Source, m.ContentType, m.Key = s.cfg.Source, "application/json", strconv.FormatInt(o.ID, 10)
	return s.cfg.Traced(t).Publish(ctx, s.cfg.Topic, m)
}

// unavailable turns the failure of a dependency into a 503 that says when to
// come back: when its breaker will probe it, or in a second.
func (s *Service) unavailable(ctx context.Context, dependency string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		s.log.LogAttrs(ctx, slog.LevelInfo, "client left before the order stood")
	} else {
		s.log.LogAttrs(ctx, slog.LevelWarn, "order refused", slog.String("dependency", dependency), slog.Any("err", err))
	}
	p := httpjson.Errorf(http.StatusServiceUnavailable,
		"the %s service does not answer, so the order was refused and nothing was kept: send it again with the same Idempotency-Key", dependency)
	p.Wait = time.Second
	if r, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok {
		p.Wait = max(r.RetryAfter(), p.Wait)
	}
	return p
}

// Report returns how many orders stand and how many events wait to be published.
func (s *Service) Report() (orders, unpublished int) { return s.store.count() }
