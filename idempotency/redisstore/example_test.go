package redisstore_test

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/redisstore"
)

func Example() {
	client := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS_ADDR"), ContextTimeoutEnabled: true})
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Config{Prefix: "orders:idempotency:"})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := idempotency.New(store, idempotency.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	charge := func(ctx context.Context, order string) (string, error) {
		receipt, _, err := idempotency.Value(ctx, guard, idempotency.Key{Scope: "charge", ID: order},
			func(context.Context) (string, error) { return "receipt for " + order, nil })
		return receipt, err
	}
	_ = charge // needs a server; the package's tests run against one
}
