package system_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/examples/orderflow/inventory"
	"github.com/parley-go/parley/examples/orderflow/system"
)

// start runs a system until the test ends.
func start(t *testing.T, cfg system.Config) *system.System {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sys, err := system.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- sys.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil after a drain", err)
		}
	})
	select {
	case <-sys.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the system is not ready after 30s")
	}
	return sys
}

type answer struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, method, url, key, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// eventually waits for what happens behind the answer.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

func moves(sys *system.System) int { return sys.Inventory.Report().Moves }

func mails(sys *system.System) int {
	n, _ := sys.Postbox.Report()
	return n
}

func TestAnOrderCrossesTheServices(t *testing.T) {
	sys := start(t, system.Config{Stock: map[string]int{"item1": 3, "item2": 1}})
	a := send(t, "POST", sys.URL()+"/v1/orders", "k1", `{"userId":123,"items":["item1","item2"]}`)
	if a.status != http.StatusCreated {
		t.Fatalf("POST /v1/orders = %d %s, want 201", a.status, a.body)
	}
	at := a.header.Get("Location")
	if got := send(t, "GET", sys.URL()+at, "", ""); got.status != http.StatusOK || got.body != a.body {
		t.Errorf("GET %s = %d %s, want 200 %s", at, got.status, got.body, a.body)
	}
	eventually(t, "stock moves and the user is notified", func() bool { return moves(sys) == 1 && mails(sys) == 1 })

	var item inventory.Item
	if err := json.Unmarshal([]byte(send(t, "GET", sys.URL()+"/v1/items/item1", "", "").body), &item); err != nil {
		t.Fatal(err)
	}
	if want := (inventory.Item{SKU: "item1", Available: 2, Sold: 1}); item != want {
		t.Errorf("item1 = %+v, want %+v", item, want)
	}
}

func TestASecondSendOfTheSameKeyGetsTheFirstAnswerAndNoSecondEffect(t *testing.T) {
	sys := start(t, system.Config{})
	const body = `{"userId":123,"items":["item1"]}`
	first := send(t, "POST", sys.URL()+"/v1/orders", "same", body)
	second := send(t, "POST", sys.URL()+"/v1/orders", "same", body)
	if first.status != http.StatusCreated || second.status != first.status || second.body != first.body {
		t.Errorf("answers = %d %s and %d %s, want the same twice", first.status, first.body, second.status, second.body)
	}
	if got := second.header.Get("Idempotency-Replayed"); got != "true" {
		t.Errorf("Idempotency-Replayed of the second = %q, want true", got)
	}
	if orders, _ := sys.Orders.Report(); orders != 1 {
		t.Errorf("%d orders stand, want 1", orders)
	}
	eventually(t, "stock moves and the user is notified", func() bool { return moves(sys) == 1 && mails(sys) == 1 })
}

func TestAKeyThatIsUsedForAnotherOrderIsRefused(t *testing.T) {
	sys := start(t, system.Config{})
	send(t, "POST", sys.URL()+"/v1/orders", "k", `{"userId":123,"items":["item1"]}`)
	a := send(t, "POST", sys.URL()+"/v1/orders", "k", `{"userId":123,"items":["item2"]}`)
	if orders, _ := sys.Orders.Report(); a.status != http.StatusUnprocessableEntity || orders != 1 {
		t.Errorf("the second order = %d %s with %d orders standing, want 422 and 1", a.status, a.body, orders)
	}
}

func TestOrdersThatWereAcceptedHaveTheirEffectsBeforeRunEnds(t *testing.T) {
	sys, err := system.New(system.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sys.Run(ctx) }()
	<-sys.Ready()
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			send(t, "POST", sys.URL()+"/v1/orders", fmt.Sprint("k", i), `{"userId":123,"items":["item1"]}`)
		})
	}
	clients.Wait()
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if orders, waiting := sys.Orders.Report(); orders != 50 || waiting != 0 || moves(sys) != 50 || mails(sys) != 50 {
		t.Errorf("%d orders, %d events waiting, %d moves, %d mails; want 50, 0, 50, 50", orders, waiting, moves(sys), mails(sys))
	}
}

func TestOrdersAreAcceptedWhileTheBrokerIsAwayAndRunSaysWhatIsLost(t *testing.T) {
	for _, broker := range []string{"amqp://guest:guest@127.0.0.1:1/", "kafka://127.0.0.1:1", "sqs://127.0.0.1:1"} {
		t.Run(broker, func(t *testing.T) {
			t.Parallel() // it takes as long as the relay's patience
			acceptsWithout(t, broker)
		})
	}
}

func acceptsWithout(t *testing.T, broker string) {
	sys, err := system.New(system.Config{Broker: broker, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sys.Run(ctx) }()
	<-sys.Ready()
	a := send(t, "POST", sys.URL()+"/v1/orders", "k", `{"userId":123,"items":["item1"]}`)
	if _, waiting := sys.Orders.Report(); a.status != http.StatusCreated || waiting != 1 {
		t.Errorf("POST /v1/orders = %d %s with %d events waiting, want 201 and 1", a.status, a.body, waiting)
	}
	stop()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "1 events of orders could not be published") {
		t.Errorf("Run() = %v, want an error about the event that is lost", err)
	}
	// The address is free again.
	again, err := system.New(system.Config{Addr: strings.TrimPrefix(sys.URL(), "http://")})
	if err != nil {
		t.Fatalf("New() at the same address = %v, want nil", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := again.Run(ended); err != nil {
		t.Errorf("Run() of an ended context = %v, want nil", err)
	}
}

func TestBadInputGetsAClear4xxAndChangesNothing(t *testing.T) {
	sys := start(t, system.Config{Stock: map[string]int{"item1": 1, "rare": 0}})
	for name, c := range map[string]struct {
		key, body string
		status    int
		detail    string
	}{
		"an unknown user":                 {"a", `{"userId":9,"items":["item1"]}`, 422, "no user 9"},
		"an unknown item":                 {"b", `{"userId":123,"items":["item1","nope"]}`, 422, `no item \"nope\"`},
		"an item out of stock":            {"c", `{"userId":123,"items":["item1","rare"]}`, 409, "out of stock"},
		"more than there is":              {"d", `{"userId":123,"items":["item1","item1"]}`, 409, "out of stock"},
		"no items":                        {"e", `{"userId":123,"items":[]}`, 422, "1 to 20 items"},
		"too many items":                  {"f", `{"userId":123,"items":[` + strings.Repeat(`"item1",`, 20) + `"item1"]}`, 422, "1 to 20 items"},
		"malformed JSON":                  {"g", `{"userId":123,`, 400, "not the JSON expected"},
		"a misspelt field":                {"h", `{"userId":123,"item":["item1"]}`, 400, "unknown field"},
		"a body that goes on":             {"i", `{"userId":123,"items":["item1"]}{}`, 400, "goes on"},
		"no body":                         {"j", ``, 400, "not the JSON expected"},
		"a missing Idempotency-Key":       {"", `{"userId":123,"items":["item1"]}`, 400, "Idempotency-Key"},
		"an Idempotency-Key out of shape": {"a\tb", `{"userId":123,"items":["item1"]}`, 400, "Idempotency-Key"},
		"a too large body":                {"k", `{"userId":123,"items":["` + strings.Repeat("x", 65<<10) + `"]}`, 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := sys.Inventory.Report()
			a := send(t, "POST", sys.URL()+"/v1/orders", c.key, c.body)
			if a.status != c.status || !strings.Contains(a.body, c.detail) {
				t.Errorf("POST /v1/orders = %d %s, want %d and %q", a.status, a.body, c.status, c.detail)
			}
			if got := a.header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type = %q, want application/problem+json", got)
			}
			after := sys.Inventory.Report()
			if after.Moves != before.Moves || after.Held != before.Held {
				t.Errorf("stock changed from %+v to %+v", before, after)
			}
			if orders, events := sys.Orders.Report(); orders != 0 || events != 0 {
				t.Errorf("%d orders stand and %d events wait, want none", orders, events)
			}
		})
	}
	if got := send(t, "GET", sys.URL()+"/v1/nowhere", "", ""); got.status != http.StatusNotFound {
		t.Errorf("GET /v1/nowhere = %d, want 404", got.status)
	}
	// The last item is still there: no refused order kept it.
	if a := send(t, "POST", sys.URL()+"/v1/orders", "z", `{"userId":123,"items":["item1"]}`); a.status != http.StatusCreated {
		t.Errorf("an order for the last item = %d %s, want 201", a.status, a.body)
	}
}

func TestWhenInventoryDoesNotAnswerTheOrderIsRefusedAndNothingIsKept(t *testing.T) {
	sys := start(t, system.Config{Stock: map[string]int{"item1": 1}})
	const body = `{"userId":123,"items":["item1"]}`
	sys.Inventory.SetDown(true)
	a := send(t, "POST", sys.URL()+"/v1/orders", "k", body)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("POST /v1/orders = %d %v, want 503 with Retry-After", a.status, a.header)
	}
	if orders, _ := sys.Orders.Report(); orders != 0 {
		t.Errorf("%d orders stand, want none", orders)
	}
	sys.Inventory.SetDown(false)
	// The same key may be sent again, and finds the stock untouched.
	eventually(t, "the order is taken after the outage", func() bool {
		return send(t, "POST", sys.URL()+"/v1/orders", "k", body).status == http.StatusCreated
	})
	eventually(t, "stock moves once", func() bool { return moves(sys) == 1 && sys.Inventory.Report().Held == 0 })
}

// lines collects log lines from several goroutines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) containing(words ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return true
		}
	}
	return false
}

func TestOneTraceIDGoesFromTheClientToTheNotification(t *testing.T) {
	var log lines
	sys := start(t, system.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	const id = "0af7651916cd43dd8448eb211c80319c"
	a := send(t, "POST", sys.URL()+"/v1/orders", "k", `{"userId":123,"items":["item1"]}`, "Traceparent", "00-"+id+"-b7ad6b7169203331-01")
	if a.status != http.StatusCreated {
		t.Fatalf("POST /v1/orders = %d %s, want 201", a.status, a.body)
	}
	eventually(t, "the notification is logged under the client's trace", func() bool {
		return log.containing("user notified", "trace_id="+id)
	})
	if !log.containing("order placed", "trace_id="+id) {
		t.Error("the order service did not log under the client's trace")
	}
}

func TestRunEndsWhenAnotherHoldsTheAddress(t *testing.T) {
	sys := start(t, system.Config{})
	_, err := system.New(system.Config{Addr: strings.TrimPrefix(sys.URL(), "http://")})
	if err == nil || !strings.Contains(err.Error(), "-addr") {
		t.Errorf("New() on a used address = %v, want an error that names -addr", err)
	}
}

func TestAnUnknownBrokerIsRefusedWithoutItsSecret(t *testing.T) {
	_, err := system.New(system.Config{Broker: "nats://user:s3cret@host"})
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), system.Brokers) {
		t.Errorf("New() = %v, want an error that names the choices and no secret", err)
	}
}
