package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/parley-go/parley/breaker"
)

// stockOf stands for a client of the inventory service, which is down.
func stockOf(context.Context, string) (int, error) {
	return 0, errors.New("inventory does not answer")
}

func Example() {
	inventory, err := breaker.New(breaker.Config{Name: "inventory", MinCalls: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 4 {
		_, err := breaker.Value(context.Background(), inventory, func(ctx context.Context) (int, error) {
			return stockOf(ctx, "item1")
		})
		if open, ok := errors.AsType[*breaker.OpenError](err); ok {
			fmt.Println("not called; come back in some seconds:", open.RetryAfter() > 4*time.Second)
			return
		}
		fmt.Println(err)
	}
	// Output:
	// inventory does not answer
	// inventory does not answer
	// inventory does not answer
	// not called; come back in some seconds: true
}

func ExampleBreaker_Do() {
	b, err := breaker.New(breaker.Config{Name: "mail", Consecutive: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		err := b.Do(context.Background(), func(context.Context) error {
			return errors.New("connection refused")
		})
		fmt.Println(b.State(), errors.Is(err, breaker.ErrOpen))
	}
	// Output:
	// closed false
	// open false
	// open true
}

func ExampleFallback() {
	b, err := breaker.New(breaker.Config{Name: "inventory"})
	if err != nil {
		fmt.Println(err)
		return
	}
	b.ForceOpen()
	stock, err := breaker.Fallback(context.Background(), b,
		func(ctx context.Context) (int, error) { return stockOf(ctx, "item1") },
		func(_ context.Context, err error) (int, error) {
			fmt.Println(err)
			return 7, nil // what a cache says
		})
	fmt.Println(stock, err)
	// Output:
	// breaker "inventory": forced open, call rejected until Reset
	// 7 <nil>
}

func ExampleBreaker_Allow() {
	b, err := breaker.New(breaker.Config{Name: "queue"})
	if err != nil {
		fmt.Println(err)
		return
	}
	permit, err := b.Allow()
	if err != nil {
		fmt.Println(err) // an *OpenError: do not call
		return
	}
	// Here the call starts, and its end may be known elsewhere.
	permit.Done(breaker.Success)
	fmt.Println(b.Stats().Counts.Successes)
	// Output: 1
}

func ExampleBreaker_Transport() {
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer down.Close()
	b, err := breaker.New(breaker.Config{Name: "inventory", Consecutive: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: b.Transport(nil)}
	for range 3 {
		resp, err := client.Get(down.URL)
		if open, ok := errors.AsType[*breaker.OpenError](err); ok {
			fmt.Println("rejected; asked to stay away:", open.RetryAfter() > 20*time.Second)
			return
		}
		fmt.Println(resp.StatusCode)
		resp.Body.Close()
	}
	// Output:
	// 503
	// 503
	// rejected; asked to stay away: true
}

func ExampleGroup() {
	shards, err := breaker.NewGroup[int](breaker.GroupConfig{
		Breaker: breaker.Config{Name: "shard", Consecutive: 1},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, shard := range []int{1, 2, 1} {
		err := shards.Get(shard).Do(context.Background(), func(context.Context) error {
			if shard == 1 {
				return errors.New("shard 1 is down")
			}
			return nil
		})
		fmt.Println(errors.Is(err, breaker.ErrOpen))
	}
	// Output:
	// false
	// false
	// true
}

func ExampleGroup_Transport() {
	hosts, err := breaker.NewGroup[string](breaker.GroupConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client := &http.Client{Transport: hosts.Transport(nil, breaker.Host)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	for _, b := range hosts.All() {
		fmt.Println(resp.StatusCode, b.Stats().Counts.Successes)
	}
	// Output: 404 1
}

func ExampleConfig_classify() {
	errNotFound := errors.New("not found")
	b, err := breaker.New(breaker.Config{
		Consecutive: 1,
		Classify: func(ctx context.Context, err error) breaker.Outcome {
			if errors.Is(err, errNotFound) {
				return breaker.Success // the server is well, and knows that it has none
			}
			return breaker.DefaultClassify(ctx, err)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Do(context.Background(), func(context.Context) error { return errNotFound }), b.State())
	// Output: not found closed
}

func ExampleBreaker_ForceOpen() {
	b, err := breaker.New(breaker.Config{
		Name:     "inventory",
		OnChange: func(c breaker.Change) { fmt.Println(c.Name, c.From, "->", c.To, "by", c.Reason) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	b.ForceOpen()
	b.Disable()
	b.Reset()
	// Output:
	// inventory closed -> forced-open by operator
	// inventory forced-open -> disabled by operator
	// inventory disabled -> closed by operator
}
