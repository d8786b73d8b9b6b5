package system

import (
	"net/http"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
	"github.com/parley-go/parley/tracing"
)

// tracers are those of the services.
type tracers struct{ gateway, user, inventory, order, notification *tracing.Tracer }

func newTracers(cfg Config) (t tracers, err error) {
	for _, s := range []struct {
		name   string
		tracer **tracing.Tracer
	}{
		{"gateway", &t.gateway},
		{"user", &t.user},
		{"inventory", &t.inventory},
		{"order", &t.order},
		{"notification", &t.notification},
	} {
		// A message is handled under the trace of the order that caused it. Where
		// nobody takes spans, ids are minted, so that the logs can be joined.
		c := tracing.Config{ParentMessages: true, MintIDs: cfg.Provider == nil}
		if cfg.Provider != nil {
			if c.Provider, err = cfg.Provider(s.name); err != nil {
				return t, err
			}
		}
		if *s.tracer, err = tracing.New(c); err != nil {
			return t, err
		}
	}
	return t, nil
}

// clients call the services: users and inventory for Order, notified the users
// for Notification. Each dependency has one breaker, whoever calls.
type clients struct{ users, inventory, notified *http.Client }

func newClients(cfg Config, traced tracers) (clients, error) {
	// One pool of connections for all: net/http keeps only 2 idle ones per host
	// by default, fewer than the callers here.
	pool := http.DefaultTransport.(*http.Transport).Clone()
	pool.MaxIdleConnsPerHost = 64
	newBreaker := func(dependency string) (*breaker.Breaker, error) {
		return breaker.New(breaker.Config{
			Name: dependency, MinCalls: 5, OpenFor: 500 * time.Millisecond, OnChange: cfg.OnBreaker,
		})
	}
	client := func(b *breaker.Breaker, dependency string, caller *tracing.Tracer) *http.Client {
		p := retry.Policy{Name: dependency, MaxAttempts: 3, AttemptTimeout: 2 * time.Second}
		return &http.Client{Transport: p.Transport(b.Transport(caller.Transport(pool)))}
	}
	users, err := newBreaker("user")
	if err != nil {
		return clients{}, err
	}
	inventory, err := newBreaker("inventory")
	if err != nil {
		return clients{}, err
	}
	return clients{
		users:     client(users, "user", traced.order),
		inventory: client(inventory, "inventory", traced.order),
		notified:  client(users, "user", traced.notification),
	}, nil
}
