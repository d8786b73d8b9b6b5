package bulkhead_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

func Example() {
	inventory, err := bulkhead.New(bulkhead.Config{Name: "inventory", Limit: 1})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	stock := func(ctx context.Context) (int, error) {
		// The only slot is taken, so a second call is rejected.
		_, err := bulkhead.Value(ctx, inventory, func(context.Context) (int, error) { return 0, nil })
		fmt.Println(err, errors.Is(err, bulkhead.ErrFull))
		return 7, nil
	}
	fmt.Println(bulkhead.Value(ctx, inventory, stock))
	// Output:
	// bulkhead "inventory": full, call rejected, retry after 1s true
	// 7 <nil>
}

func ExampleNew() {
	_, err := bulkhead.New(bulkhead.Config{Limit: -1, Wait: time.Second})
	fmt.Println(err)
	// Output: bulkhead: config: Limit -1 is outside 1 to 1000000; Wait needs Queue
}

func ExampleNew_adaptive() {
	b, err := bulkhead.New(bulkhead.Config{Limit: 20, Min: 5, Max: 100, SlowCall: time.Millisecond})
	if err != nil {
		panic(err)
	}
	_ = b.Do(context.Background(), func(context.Context) error {
		<-time.After(2 * time.Millisecond) // a dependency in trouble
		return nil
	})
	fmt.Println("the limit is now", b.Stats().Limit)
	// Output: the limit is now 15
}

func ExampleBulkhead_Do() {
	b, err := bulkhead.New(bulkhead.Config{Name: "mail"})
	if err != nil {
		panic(err)
	}
	err = b.Do(context.Background(), func(context.Context) error {
		return errors.New("mailbox unavailable")
	})
	fmt.Println(err)
	// Output: mailbox unavailable
}

func ExampleValue() {
	b, err := bulkhead.New(bulkhead.Config{Name: "inventory"})
	if err != nil {
		panic(err)
	}
	stock, err := bulkhead.Value(context.Background(), b, func(context.Context) (int, error) { return 7, nil })
	fmt.Println(stock, err)
	// Output: 7 <nil>
}

func ExampleBulkhead_Acquire() {
	b, err := bulkhead.New(bulkhead.Config{Name: "inventory"})
	if err != nil {
		panic(err)
	}
	permit, err := b.Acquire(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println("running:", b.Stats().Running)
	permit.Done(nil)
	permit.Done(nil) // does nothing
	fmt.Println("running:", b.Stats().Running)
	// Output:
	// running: 1
	// running: 0
}

func ExampleBulkhead_Stats() {
	b, err := bulkhead.New(bulkhead.Config{Limit: 1})
	if err != nil {
		panic(err)
	}
	_ = b.Do(context.Background(), func(ctx context.Context) error { return b.Do(ctx, nil) })
	_ = b.Do(context.Background(), func(ctx context.Context) error {
		return b.Do(ctx, func(context.Context) error { return nil })
	})
	fmt.Printf("%+v\n", b.Stats())
	// Output: {Limit:1 Running:0 Waiting:0 Admitted:2 Rejected:1 Canceled:0 Lowered:0}
}

func ExampleBulkhead_Middleware() {
	reports, err := bulkhead.New(bulkhead.Config{Name: "reports", Limit: 1})
	if err != nil {
		panic(err)
	}
	running := make(chan struct{})
	leave := make(chan struct{})
	server := httptest.NewServer(reports.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(running)
		<-leave
	})))
	defer server.Close()
	defer close(leave)

	go func() {
		if resp, err := http.Get(server.URL); err == nil {
			resp.Body.Close()
		}
	}()
	<-running
	resp, err := http.Get(server.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, "Retry-After:", resp.Header.Get("Retry-After"))
	// Output: 503 Service Unavailable Retry-After: 1
}

func ExampleBulkhead_Transport() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, strings.NewReader("in stock"))
	}))
	defer server.Close()
	inventory, err := bulkhead.New(bulkhead.Config{Name: "inventory", Limit: 1})
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: inventory.Transport(nil)}

	first, err := client.Get(server.URL)
	if err != nil {
		panic(err)
	}
	_, err = client.Get(server.URL) // the first body is still open
	fmt.Println(errors.Is(err, bulkhead.ErrFull))
	first.Body.Close()
	second, err := client.Get(server.URL)
	if err != nil {
		panic(err)
	}
	defer second.Body.Close()
	fmt.Println(second.Status)
	// Output:
	// true
	// 200 OK
}
