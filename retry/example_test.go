package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/parley-go/parley/retry"
)

func Example() {
	budget, err := retry.NewBudget(retry.BudgetConfig{}) // one for each dependency
	if err != nil {
		panic(err)
	}
	policy := retry.Policy{Name: "inventory", MaxAttempts: 4, Budget: budget}

	calls := 0
	stock, err := retry.Value(context.Background(), policy, func(context.Context) (int, error) {
		if calls++; calls < 3 {
			return 0, errors.New("connection reset")
		}
		return 7, nil
	})
	fmt.Println(stock, err, calls)
	// Output: 7 <nil> 3
}

func ExamplePolicy_Do() {
	policy := retry.Policy{Name: "inventory", Backoff: retry.Constant(time.Millisecond)}
	err := policy.Do(context.Background(), func(context.Context) error {
		return errors.New("connection refused")
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, retry.ErrExhausted))
	// Output:
	// retry "inventory": attempts exhausted after 3 attempts: connection refused
	// true
}

func ExamplePolicy_Do_deadline() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	policy := retry.Policy{Backoff: retry.Constant(10 * time.Second)}
	err := policy.Do(ctx, func(context.Context) error { return errors.New("busy") })
	fmt.Println(err) // at once, not after 5 seconds
	// Output: retry: no time left for another attempt after 1 attempt: busy
}

func ExamplePolicy_Validate() {
	fmt.Println(retry.Policy{MaxAttempts: -1, MaxElapsed: -time.Second}.Validate())
	// Output: retry: faulty policy: MaxAttempts -1 is negative; MaxElapsed -1s is negative
}

func ExamplePolicy_Transport() {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "in stock")
	}))
	defer server.Close()

	policy := retry.Policy{Backoff: retry.Exponential{Base: time.Millisecond}}
	client := &http.Client{Transport: policy.Transport(nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s after %d requests, %v\n", body, requests.Load(), err)
	// Output: in stock after 3 requests, <nil>
}

func ExampleValue() {
	n, err := retry.Value(context.Background(), retry.Policy{}, func(context.Context) (int, error) { return 42, nil })
	fmt.Println(n, err)
	// Output: 42 <nil>
}

func ExamplePermanent() {
	notFound := errors.New("no such book")
	err := retry.Policy{}.Do(context.Background(), func(context.Context) error { return retry.Permanent(notFound) })
	fmt.Println(err, errors.Is(err, notFound))
	// Output: no such book true
}

func ExampleAfter() {
	policy := retry.Policy{OnRetry: func(_ context.Context, a retry.Attempt) { fmt.Println("attempt", a.Number, "failed") }}
	calls := 0
	err := policy.Do(context.Background(), func(context.Context) error {
		if calls++; calls == 2 {
			return nil
		}
		return retry.After(errors.New("busy"), 20*time.Millisecond) // at least
	})
	fmt.Println(err)
	// Output:
	// attempt 1 failed
	// <nil>
}

func ExampleNewBudget() {
	budget, err := retry.NewBudget(retry.BudgetConfig{MinPerSecond: 1, Burst: 2})
	if err != nil {
		panic(err)
	}
	policy := retry.Policy{MaxAttempts: 10, Backoff: retry.Constant(0), Budget: budget}
	err = policy.Do(context.Background(), func(context.Context) error { return errors.New("down") })
	fmt.Println(err)
	// Output: retry: budget spent after 3 attempts: down
}

func ExampleNewThrottle() {
	throttle, err := retry.NewThrottle(retry.ThrottleConfig{MaxTokens: 4})
	if err != nil {
		panic(err)
	}
	policy := retry.Policy{MaxAttempts: 10, Backoff: retry.Constant(0), Budget: throttle}
	err = policy.Do(context.Background(), func(context.Context) error { return errors.New("down") })
	fmt.Println(err, throttle.Tokens())
	// Output: retry: budget spent after 2 attempts: down 2
}

func ExampleHedge() {
	replica := make(chan string, 2)
	replica <- "slow"
	replica <- "quick"
	price, err := retry.Hedge(context.Background(), retry.Hedging{Delay: 10 * time.Millisecond},
		func(ctx context.Context) (string, error) {
			name := <-replica
			if name == "slow" {
				<-ctx.Done() // until the other one has won
				return "", context.Cause(ctx)
			}
			return name, nil
		}, nil)
	fmt.Println(price, err)
	// Output: quick <nil>
}

func ExampleAttemptNumber() {
	_ = retry.Policy{Backoff: retry.Constant(0)}.Do(context.Background(), func(ctx context.Context) error {
		fmt.Println("attempt", retry.AttemptNumber(ctx))
		return errors.New("busy")
	})
	// Output:
	// attempt 1
	// attempt 2
	// attempt 3
}
