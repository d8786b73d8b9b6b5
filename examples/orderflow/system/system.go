// Package system puts the services of the order flow together in one process:
// real sockets between them, all on loopback, and one broker.
package system

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/examples/orderflow/edge"
	"github.com/parley-go/parley/examples/orderflow/event"
	"github.com/parley-go/parley/examples/orderflow/httpjson"
	"github.com/parley-go/parley/examples/orderflow/inventory"
	"github.com/parley-go/parley/examples/orderflow/notification"
	"github.com/parley-go/parley/examples/orderflow/order"
	"github.com/parley-go/parley/examples/orderflow/postbox"
	"github.com/parley-go/parley/examples/orderflow/user"
	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/tracing"
)

// Config describes a system. Its zero value is a system on the embedded broker
// with the embedded mail server, at a free port.
type Config struct {
	// Addr is the address of the gateway. Default 127.0.0.1:0, a free port.
	Addr string
	// Broker is one of [Brokers]. Default memory.
	Broker string
	// Topic is where orders are announced. Default "orders".
	Topic string
	// SMTP is the URL of a mail server, as notification.NewMailer takes it.
	// Default: a server in this process.
	SMTP string
	// Stock is what Inventory begins with. Default 1000 each of item1 to item5.
	Stock map[string]int
	// Logger receives the log of all services. Default slog.Default().
	Logger *slog.Logger
	// Provider returns what makes the spans of a service, "gateway", "user",
	// "inventory", "order" or "notification": each has a tracer of its own, as it
	// would have in a process of its own. Default: no spans, and ids for the logs.
	Provider func(service string) (trace.TracerProvider, error)
	// OnBreaker, if set, hears each change of a breaker.
	OnBreaker func(breaker.Change)
}

// System is the set of services.
type System struct {
	Users        *user.Service
	Inventory    *inventory.Service
	Orders       *order.Service
	Notification *notification.Service
	Postbox      *postbox.Postbox // unused when Config.SMTP names another server

	broker    messaging.Broker
	stages    [][]part
	sockets   []net.Listener
	closeIdle func()
	url       string
	ready     chan struct{}
}

// New opens the sockets and builds the services; nothing runs before Run.
func New(cfg Config) (*System, error) {
	cfg.Addr = cmp.Or(cfg.Addr, "127.0.0.1:0")
	cfg.Broker = cmp.Or(cfg.Broker, "memory")
	cfg.Topic = cmp.Or(cfg.Topic, "orders")
	if cfg.Stock == nil {
		cfg.Stock = map[string]int{"item1": 1000, "item2": 1000, "item3": 1000, "item4": 1000, "item5": 1000}
	}
	cfg.Logger = slog.New(tracing.LogHandler(cmp.Or(cfg.Logger, slog.Default()).Handler()))
	s := &System{ready: make(chan struct{})}
	if err := s.build(cfg); err != nil {
		s.closeSockets()
		return nil, err
	}
	return s, nil
}

func (s *System) build(cfg Config) error {
	var err error
	if s.broker, err = openBroker(cfg); err != nil {
		return err
	}
	traced, err := newTracers(cfg)
	if err != nil {
		return err
	}
	calls, err := newClients(cfg, traced)
	if err != nil {
		return err
	}
	at, err := s.listen(cfg.Addr, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		return err
	}
	gatewayAt, usersAt, inventoryAt, ordersAt, mailAt := at[0], at[1], at[2], at[3], at[4]
	s.url = gatewayAt.url

	// Strangers choose keys, and may fill what remembers them; that must not stop
	// the inboxes, so these remember on their own.
	keys, err := newGuard(idempotency.MemoryConfig{}, idempotency.Config{TTL: time.Hour})
	if err != nil {
		return err
	}
	inboxes, err := newGuard(idempotency.MemoryConfig{MaxRecords: 500_000}, idempotency.Config{})
	if err != nil {
		return err
	}
	once, err := keys.Middleware(idempotency.HTTP{
		Required: true,
		// The flow has no accounts, so a key belongs to whoever made it up: fine
		// as long as keys are random. A service with tenants sets Scope instead.
		GlobalScope: true,
		MaxBody:     httpjson.MaxBody,
		// An order takes milliseconds: who sends it twice at once waits for the
		// answer instead of being told to come back.
		Wait: 5 * time.Second,
	})
	if err != nil {
		return err
	}
	mailer, err := notification.NewMailer(cmp.Or(cfg.SMTP, "smtp://"+mailAt.Addr().String()), "Order flow <orders@example.com>")
	if err != nil {
		return err
	}

	// The stores live in memory, so an event that an earlier run left on a
	// durable broker belongs to an order that no longer exists: the source tells
	// the runs apart, and consumers skip what is not of this one.
	source := "/orders/" + rand.Text()
	s.Users = user.New(100)
	s.Inventory = inventory.New(cfg.Stock)
	s.Orders = order.New(order.Config{
		Users: usersAt.url, UserClient: calls.users, Inventory: inventoryAt.url, InventoryClient: calls.inventory,
		Topic: cfg.Topic, Source: source, Once: once, Traced: traced.order.Publisher, Logger: cfg.Logger,
	})
	s.Notification = notification.New(notification.Config{
		Users: usersAt.url, UserClient: calls.notified, Mail: mailer, Logger: cfg.Logger,
	})
	s.Postbox = postbox.New()
	entry, err := edge.New(edge.Config{
		Users: usersAt.url, Orders: ordersAt.url, Inventory: inventoryAt.url, Traced: traced.gateway.Transport, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}

	consumer, err := messaging.NewConsumer(s.broker, messaging.ConsumerConfig{Concurrency: 8, MaxAttempts: 10, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	for group, g := range map[string]struct {
		handle func(context.Context, event.Order, *messaging.Delivery) error
		tracer *tracing.Tracer
	}{
		"inventory": {s.Inventory.Handle, traced.inventory}, "notification": {s.Notification.Handle, traced.notification},
	} {
		inbox := func(next messaging.Handler) messaging.Handler {
			return idempotency.Inbox(inboxes, cfg.Topic+"/"+group, (*messaging.Delivery).InboxID, next)
		}
		consumer.Handle(messaging.Subscription{Topic: cfg.Topic, Group: group},
			messaging.Typed(messaging.JSON{}, g.handle), g.tracer.Handler, only(source, cfg.Logger), inbox)
	}

	s.closeIdle = func() {
		calls.users.CloseIdleConnections()
		calls.inventory.CloseIdleConnections()
		calls.notified.CloseIdleConnections()
		entry.CloseIdleConnections()
	}
	gateway := entry.Server("")
	gateway.Handler = traced.gateway.Middleware(gateway.Handler)
	s.stages = [][]part{
		{{name: "mail server", run: func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = s.Postbox.Close() })()
			return s.Postbox.Serve(mailAt)
		}}, serve("user service", usersAt, server(traced.user.Middleware(s.Users.Handler())))},
		{{name: "consumer", run: func(ctx context.Context) error { return s.consume(ctx, consumer) }}},
		{{name: "relay", run: func(ctx context.Context) error {
			select { // what is published before both groups subscribe would miss one
			case <-consumer.Ready():
			case <-ctx.Done():
			}
			return s.Orders.Relay(ctx, s.broker)
		}}},
		{serve("inventory service", inventoryAt, server(traced.inventory.Middleware(s.Inventory.Handler())))},
		{serve("order service", ordersAt, server(traced.order.Middleware(s.Orders.Handler())))},
		{serve("gateway", gatewayAt, gateway)},
	}
	return nil
}

// Run serves until ctx ends, then lets what is in progress finish: requests
// first, then the events that they caused, then their handlers.
func (s *System) Run(ctx context.Context) error {
	defer s.closeSockets()
	// Spare connections would hold up the servers that they lead to.
	defer context.AfterFunc(ctx, s.closeIdle)()
	err := runStages(ctx, s.stages, func() { close(s.ready) })
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceFor)
	defer cancel()
	return errors.Join(err, s.broker.Close(grace))
}

// consume handles messages until ctx ends and every order has had its effects:
// the broker may be in this process, and the stores are.
func (s *System) consume(ctx context.Context, c *messaging.Consumer) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(running) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case <-c.Ready():
	default: // there never was a broker, so nothing will come
		stop()
		return <-ended
	}
	tick, patience := time.NewTicker(10*time.Millisecond), time.NewTimer(graceFor)
	defer tick.Stop()
	defer patience.Stop()
	for waiting := true; waiting && s.unfinished() > 0; {
		select {
		case <-tick.C:
		case <-patience.C:
			waiting = false
		case err := <-ended:
			return err
		}
	}
	stop()
	err := <-ended
	if n := s.unfinished(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d effects of orders did not come about in %v and are lost with this process", n, graceFor))
	}
	return err
}

// unfinished returns how many effects orders should have and have not: their
// stock moved or released, their users notified.
func (s *System) unfinished() int {
	orders, _ := s.Orders.Report()
	return s.Inventory.Report().Held + max(orders-s.Notification.Sent(), 0)
}

func (s *System) closeSockets() {
	for _, l := range s.sockets {
		_ = l.Close() // most are closed already
	}
}

// Ready is closed when the gateway takes orders. The broker need not be there
// yet: events wait in the Order service.
func (s *System) Ready() <-chan struct{} { return s.ready }

// URL returns the address of the gateway.
func (s *System) URL() string { return s.url }

// socket is a listener that knows its URL.
type socket struct {
	net.Listener
	url string
}

func (s *System) listen(addrs ...string) ([]socket, error) {
	var all []socket
	for _, addr := range addrs {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr) // a loopback address resolves at once
		if err != nil {
			return nil, fmt.Errorf("%w: choose another address with -addr", err)
		}
		s.sockets = append(s.sockets, l)
		all = append(all, socket{l, "http://" + l.Addr().String()})
	}
	return all, nil
}

func newGuard(m idempotency.MemoryConfig, c idempotency.Config) (*idempotency.Guard, error) {
	store, err := idempotency.NewMemory(m)
	if err != nil {
		return nil, err
	}
	return idempotency.New(store, c)
}

// only acknowledges messages of other sources without handling them, and says so:
// they are left over from an earlier run, or another flow uses the same broker.
func only(source string, log *slog.Logger) messaging.Middleware {
	return func(next messaging.Handler) messaging.Handler {
		return func(ctx context.Context, d *messaging.Delivery) error {
			if d.Source != source {
				log.LogAttrs(ctx, slog.LevelWarn, "event of another run dropped", slog.String("group", d.Group), slog.String("id", d.ID))
				return nil
			}
			return next(ctx, d)
		}
	}
}
