package parley_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/retry"
	"github.com/parley-go/parley/tracing"
)

// flaky answers the third time.
func flaky() *httptest.Server {
	attempts := 0
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if attempts++; attempts < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Println("attempt", attempts, "carries a key:", r.Header.Get("Idempotency-Key") != "")
	}))
}

func Example() {
	inventory := flaky() // answers 503 twice
	defer inventory.Close()

	b, err := breaker.New(breaker.Config{Name: "inventory"})
	if err != nil {
		fmt.Println(err)
		return
	}
	tracer, err := tracing.New(tracing.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	// One key for all attempts, so that a POST may be repeated; each attempt is
	// judged by the breaker and has a span of its own.
	key := idempotency.Minter{}
	policy := retry.Policy{MaxAttempts: 3, Backoff: retry.Constant(time.Millisecond)}
	client := &http.Client{
		Transport: key.Transport(policy.Transport(b.Transport(tracer.Transport(nil)))),
		Timeout:   5 * time.Second,
	}

	resp, err := client.Post(inventory.URL, "application/json", strings.NewReader(`{"sku":"item1"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// attempt 3 carries a key: true
	// 200 OK
}
