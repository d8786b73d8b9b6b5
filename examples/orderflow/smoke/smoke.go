// Package smoke drives the order flow by a script and checks its invariants.
package smoke

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/examples/orderflow/order"
	"github.com/parley-go/parley/examples/orderflow/system"
	"github.com/parley-go/parley/retry"
)

const (
	orders  = 200
	clients = 8
	// repeatEvery of the orders, one is sent twice with the same key.
	repeatEvery = 10
	// outageAt orders Inventory goes away, until its breaker has opened and
	// outageFor has passed.
	outageAt  = orders * 2 / 5
	outageFor = 700 * time.Millisecond
	// startFor bounds the wait for the broker.
	startFor = 30 * time.Second
	// patience bounds every wait: a broker may be restarted meanwhile.
	patience = 90 * time.Second
)

// Totals is what came of it.
type Totals struct {
	// Orders stand; DuplicatesAbsorbed were sent again and answered with the
	// first answer.
	Orders             int `json:"orders"`
	DuplicatesAbsorbed int `json:"duplicates_absorbed"`
	// StockMoves and Notifications count effects: one of each for each order.
	StockMoves    int `json:"stock_moves"`
	Notifications int `json:"notifications"`
	BreakerOpened int `json:"breaker_opened"`
	// Lost counts the effects that an order should have had and has not.
	Lost int  `json:"lost"`
	OK   bool `json:"ok"`
}

// Run places the orders against a system of its own, made from cfg, and stops
// it. Its error says which invariant does not hold; Totals is valid with it.
func Run(ctx context.Context, cfg system.Config) (Totals, error) {
	var opened atomic.Int64
	firstOpen := make(chan struct{})
	heard := cfg.OnBreaker
	cfg.OnBreaker = func(c breaker.Change) {
		if c.To == breaker.Open && opened.Add(1) == 1 {
			close(firstOpen)
		}
		if heard != nil {
			heard(c)
		}
	}
	sys, err := system.New(cfg)
	if err != nil {
		return Totals{}, err
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- sys.Run(runCtx) }()
	select {
	case <-sys.Ready():
	case err := <-stopped:
		return Totals{}, err
	case <-time.After(startFor):
		stop()
		return Totals{}, errors.Join(fmt.Errorf("not ready after %v: is the broker reachable? -v shows the log", startFor), <-stopped)
	}

	d := &driver{sys: sys, http: &http.Client{Timeout: 15 * time.Second}, reached: make(chan struct{}), ids: make(map[int64]bool)}
	err = d.drive(ctx, firstOpen)
	if err == nil {
		err = d.settle(ctx)
	}
	// The services drain before anything is counted, so that an effect that
	// happens twice has happened twice by then.
	stop()
	err = errors.Join(err, <-stopped)

	t := Totals{
		Orders: len(d.ids), DuplicatesAbsorbed: int(d.absorbed.Load()),
		StockMoves: sys.Inventory.Report().Moves, BreakerOpened: int(opened.Load()),
	}
	faults := d.faults(&t)
	if err != nil {
		faults = append(faults, err)
	}
	t.OK = len(faults) == 0
	return t, errors.Join(faults...)
}

// faults completes t and returns what does not hold.
func (d *driver) faults(t *Totals) (faults []error) {
	want := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	placed, unpublished := d.sys.Orders.Report()
	mails, repeated := d.sys.Postbox.Report()
	stock := d.sys.Inventory.Report()
	t.Notifications = mails
	t.Lost = max(t.Orders-t.StockMoves, 0) + max(t.Orders-t.Notifications, 0) + unpublished

	want(t.Orders == orders, "%d orders stand, want %d", t.Orders, orders)
	want(placed == t.Orders, "the order service has %d orders, its clients were told of %d", placed, t.Orders)
	want(t.DuplicatesAbsorbed == orders/repeatEvery, "%d duplicates were absorbed, want %d", t.DuplicatesAbsorbed, orders/repeatEvery)
	want(t.StockMoves == t.Orders, "stock moved for %d orders of %d", t.StockMoves, t.Orders)
	want(t.Notifications == t.Orders, "%d users were notified of %d orders", t.Notifications, t.Orders)
	want(repeated == 0, "%d mails arrived more than once", repeated)
	want(t.BreakerOpened > 0, "no breaker opened in the outage")
	want(t.Lost == 0, "%d effects were lost", t.Lost)
	want(stock.Held == 0, "%d orders hold stock and neither stand nor were refused", stock.Held)
	for _, i := range stock.Items {
		want(i.Available >= 0 && i.Reserved == 0 && i.Available+i.Sold == 1000, "stock of %s does not add up: %+v", i.SKU, i)
	}
	return faults
}

// driver is the set of clients.
type driver struct {
	sys  *system.System
	http *http.Client

	placed   atomic.Int64
	absorbed atomic.Int64
	reached  chan struct{} // closed when outageAt orders stand

	mu  sync.Mutex
	ids map[int64]bool // guarded by mu: orders that clients were told of
}

func (d *driver) drive(ctx context.Context, firstOpen <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	numbers := make(chan int)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(numbers)
		for i := range orders {
			select {
			case numbers <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range clients {
		g.Go(func() error {
			for i := range numbers {
				if err := d.order(ctx, i); err != nil {
					return fmt.Errorf("order %d of %d: %w", i, orders, err)
				}
			}
			return nil
		})
	}
	g.Go(func() error { return d.outage(ctx, firstOpen) })
	return g.Wait()
}

func (d *driver) outage(ctx context.Context, firstOpen <-chan struct{}) error {
	for _, until := range []func() <-chan struct{}{
		func() <-chan struct{} { return d.reached },
		func() <-chan struct{} { d.sys.Inventory.SetDown(true); return firstOpen },
	} {
		select {
		case <-until():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer d.sys.Inventory.SetDown(false)
	select {
	case <-time.After(outageFor):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// order places order i, some of them twice: half of these at once, half one
// after the other.
func (d *driver) order(ctx context.Context, i int) error {
	key := rand.Text()
	if i%repeatEvery != 0 {
		return d.place(ctx, i, key)
	}
	if i%(2*repeatEvery) == 0 {
		g, ctx := errgroup.WithContext(ctx)
		for range 2 {
			g.Go(func() error { return d.place(ctx, i, key) })
		}
		return g.Wait()
	}
	return errors.Join(d.place(ctx, i, key), d.place(ctx, i, key))
}

// place sends one order until it stands, always with the same key: that is what
// makes it safe to send it again after an answer that never came.
func (d *driver) place(ctx context.Context, i int, key string) error {
	body, err := json.Marshal(order.Request{
		UserID: int64(123 + i%clients),
		Items:  []string{fmt.Sprintf("item%d", 1+i%5), fmt.Sprintf("item%d", 1+i/5%5)},
	})
	if err != nil {
		return err
	}
	p := retry.Policy{Forever: true, MaxElapsed: patience, Backoff: retry.Exponential{Cap: time.Second}}
	return p.Do(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.sys.URL()+"/v1/orders", bytes.NewReader(body))
		if err != nil {
			return retry.Permanent(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		resp, err := d.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return err
		}
		return d.judge(resp, answer)
	})
}

func (d *driver) judge(resp *http.Response, answer []byte) error {
	switch resp.StatusCode {
	case http.StatusCreated:
		var o order.Order
		if err := json.Unmarshal(answer, &o); err != nil {
			return retry.Permanent(err)
		}
		d.note(o, resp.Header.Get("Idempotency-Replayed") == "true")
		return nil
	case http.StatusConflict, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		err := fmt.Errorf("status %d: %s", resp.StatusCode, answer)
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // absent: the policy's own delay
		return retry.After(err, time.Duration(seconds)*time.Second)
	}
	return retry.Permanent(fmt.Errorf("status %d: %s", resp.StatusCode, answer))
}

func (d *driver) note(o order.Order, replayed bool) {
	d.mu.Lock()
	known := d.ids[o.ID]
	d.ids[o.ID] = true
	d.mu.Unlock()
	if replayed {
		d.absorbed.Add(1)
	}
	if !known && d.placed.Add(1) == outageAt {
		close(d.reached)
	}
}

// settle waits until every order has had its effects.
func (d *driver) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, unpublished := d.sys.Orders.Report()
		mails, _ := d.sys.Postbox.Report()
		stock := d.sys.Inventory.Report()
		if unpublished == 0 && mails >= orders && stock.Moves >= orders && stock.Held == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("after %v: %d events unpublished, %d mails, %d stock moves", patience, unpublished, mails, stock.Moves)
		}
	}
}
