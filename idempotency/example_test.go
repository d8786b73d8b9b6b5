package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/retry"
)

// exampleGuard is what a program builds once, at its start.
func exampleGuard() *idempotency.Guard {
	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		panic(err)
	}
	guard, err := idempotency.New(memory, idempotency.Config{})
	if err != nil {
		panic(err)
	}
	return guard
}

func Example() {
	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		panic(err)
	}
	guard, err := idempotency.New(memory, idempotency.Config{})
	if err != nil {
		panic(err)
	}
	once, err := guard.Middleware(idempotency.HTTP{
		Scope: func(r *http.Request) (string, error) { return r.Header.Get("X-Tenant"), nil },
	})
	if err != nil {
		panic(err)
	}

	charges := 0
	handler := once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		charges++
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "charge %d", charges)
	}))

	for range 2 {
		req := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader(`{"amount":10}`))
		req.Header.Set("X-Tenant", "acme")
		req.Header.Set("Idempotency-Key", "8e03978e-40d5-43e8-bc93-6894a57f9324")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		fmt.Printf("%d %s, replayed %q\n", w.Code, w.Body, w.Header().Get("Idempotency-Replayed"))
	}
	// Output:
	// 201 charge 1, replayed ""
	// 201 charge 1, replayed "true"
}

func ExampleGuard_Middleware() {
	once, err := exampleGuard().Middleware(idempotency.HTTP{
		GlobalScope: true, // one tenant
		Required:    true,
		Fingerprint: idempotency.CanonicalJSON,
		DocsURL:     "https://example.com/docs/idempotency",
	})
	if err != nil {
		panic(err)
	}
	handler := once(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
	}))
	send := func(key, body string) {
		req := httptest.NewRequest(http.MethodPost, "/charges", strings.NewReader(body))
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		fmt.Printf("%d %q, replayed %q\n", w.Code, w.Header().Get("Content-Type"), w.Header().Get("Idempotency-Replayed"))
	}
	send("a", `{"amount":10}`)
	send("a", `{ "amount": 10 }`)
	send("a", `{"amount":20}`)
	send("", `{"amount":10}`)
	// Output:
	// 201 "", replayed ""
	// 201 "", replayed "true"
	// 422 "application/problem+json", replayed ""
	// 400 "application/problem+json", replayed ""
}

func ExampleValue() {
	guard := exampleGuard()
	type receipt struct{ Number int }

	charge := func() (receipt, bool, error) {
		key := idempotency.Key{Scope: "charge", ID: "order-456", Fingerprint: []byte("10 EUR")}
		return idempotency.Value(context.Background(), guard, key, func(context.Context) (receipt, error) {
			fmt.Println("charging the card")
			return receipt{Number: 7}, nil
		})
	}
	for range 2 {
		r, replayed, err := charge()
		fmt.Println(r.Number, replayed, err)
	}
	// Output:
	// charging the card
	// 7 false <nil>
	// 7 true <nil>
}

func ExampleInbox() {
	guard := exampleGuard()
	var handle messaging.Handler = func(_ context.Context, d *messaging.Delivery) error {
		fmt.Println("send an e-mail for", d.ID)
		return nil
	}
	const topic, group = "orders", "notification"
	handle = idempotency.Inbox(guard, topic+"/"+group, (*messaging.Delivery).InboxID, handle)

	for _, id := range []string{"order-1", "order-2", "order-1"} { // the last one is a redelivery
		if err := handle(context.Background(), &messaging.Delivery{Message: messaging.Message{ID: id, Source: "/shop"}}); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// send an e-mail for order-1
	// send an e-mail for order-2
}

func ExampleMinter_Transport() {
	var keys []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if keys = append(keys, r.Header.Get("Idempotency-Key")); len(keys) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()

	// The key stands above the retries, so that all attempts carry the same.
	policy := retry.Policy{Backoff: retry.Constant(0)}
	client := &http.Client{Transport: idempotency.Minter{}.Transport(policy.Transport(nil))}
	resp, err := client.Post(server.URL, "application/json", strings.NewReader(`{"amount":10}`))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode, "after", len(keys), "attempts")
	fmt.Println("one key:", keys[0] != "" && keys[1] == keys[0] && keys[2] == keys[0])
	// Output:
	// 200 after 3 attempts
	// one key: true
}

func ExampleWithKey() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("Idempotency-Key"))
	}))
	defer server.Close()

	// The key comes from what is to be done, so it is the same after a restart.
	ctx := idempotency.WithKey(context.Background(), "charge-order-456")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, http.NoBody)
	if err != nil {
		panic(err)
	}
	resp, err := (&http.Client{Transport: idempotency.Minter{}.Transport(nil)}).Do(req)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: charge-order-456 <nil>
}

func ExampleFromContext() {
	guard := exampleGuard()
	key := idempotency.Key{Scope: "charge", ID: "order-456"}
	for range 2 {
		_, _, err := idempotency.Value(context.Background(), guard, key, func(ctx context.Context) (string, error) {
			lease, _ := idempotency.FromContext(ctx)
			if lease.Attempt > 1 {
				return "found the charge of the first attempt", nil // asked the bank, by the order's number
			}
			return "", errors.New("the bank did not answer")
		})
		fmt.Println(err)
	}
	// Output:
	// the bank did not answer
	// <nil>
}

func ExampleNewCache() {
	shared, err := idempotency.NewMemory(idempotency.MemoryConfig{}) // or one of redisstore or sqlstore
	if err != nil {
		panic(err)
	}
	cache, err := idempotency.NewCache(shared, idempotency.CacheConfig{MaxRecords: 10_000})
	if err != nil {
		panic(err)
	}
	guard, err := idempotency.New(cache, idempotency.Config{})
	if err != nil {
		panic(err)
	}
	for range 3 {
		_, replayed, err := idempotency.Value(context.Background(), guard, idempotency.Key{Scope: "charge", ID: "order-456"},
			func(context.Context) (string, error) { return "receipt", nil })
		fmt.Println(replayed, err)
	}
	fmt.Println(cache.Len(), "held")
	// Output:
	// false <nil>
	// true <nil>
	// true <nil>
	// 1 held
}

// A handler that completes its own claim before it answers: where the store can do
// that inside the transaction of the effect, see package sqlstore.
func ExampleHTTPResult() {
	r := idempotency.HTTPResult(http.StatusCreated, http.Header{"Location": {"/orders/1"}}, []byte("order 1"))
	fmt.Println(r.NotStored, len(r.Data) > 0)
	// Output:
	// false true
}

func ExampleConfig_onOutcome() {
	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
	if err != nil {
		panic(err)
	}
	guard, err := idempotency.New(memory, idempotency.Config{
		OnOutcome: func(_ context.Context, e idempotency.Event) { fmt.Println(e.Kind, e.Ending) }, // count these
	})
	if err != nil {
		panic(err)
	}
	handle := idempotency.Inbox(guard, "orders/billing", func(id string) string { return id }, func(context.Context, string) error { return nil })
	_ = handle(context.Background(), "order-1")
	_ = handle(context.Background(), "order-1")
	// Output:
	// inbox executed
	// inbox replayed
}
