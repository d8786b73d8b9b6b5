// Command orderflow runs the order flow: four services, a gateway and a broker
// in one process, all on loopback.
//
//	go run ./examples/orderflow           serve until interrupted
//	go run ./examples/orderflow -smoke    place 200 orders, print the totals, exit 0 if all invariants hold
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/parley-go/parley/examples/orderflow/smoke"
	"github.com/parley-go/parley/examples/orderflow/system"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	switch err := run(ctx, os.Args[1:]); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "orderflow:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("orderflow", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	addr := flags.String("addr", "127.0.0.1:8080", "address of the gateway, on loopback unless you say otherwise")
	broker := flags.String("broker", "memory", system.Brokers)
	smtp := flags.String("smtp", "", "URL of a mail server, smtp://USER:SECRET@HOST (STARTTLS), smtps://… or smtp://localhost:PORT; default one in this process")
	collector := flags.String("otlp", "", "URL of what takes traces as OTLP, such as http://127.0.0.1:4318 of Jaeger; default none")
	scripted := flags.Bool("smoke", false, "place 200 orders by a script, print one JSON line of totals last, exit 0 if every invariant held")
	verbose := flags.Bool("v", false, "log every order and request")
	if err := flags.Parse(args); err != nil {
		flags.SetOutput(os.Stderr)
		flags.Usage()
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are no arguments but flags: what is %q? -h lists them", flags.Arg(0))
	}
	level := slog.LevelWarn
	switch {
	case *verbose:
		level = slog.LevelInfo
	case *scripted:
		level = slog.LevelError // the script makes an outage, and its warnings
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	cfg := system.Config{Addr: *addr, Broker: *broker, SMTP: *smtp, Logger: log}
	do := serve
	if *scripted {
		set := false
		flags.Visit(func(f *flag.Flag) { set = set || f.Name == "addr" || f.Name == "smtp" })
		if set {
			return errors.New("-smoke uses a free port and counts the mails itself: leave out -addr and -smtp")
		}
		// Not the topic of a flow that may be serving over the same broker.
		cfg.Addr, cfg.Topic = "", "orders-smoke"
		do = smokeTest
	}
	if *collector == "" {
		return do(ctx, cfg)
	}
	spans := &telemetry{endpoint: *collector, log: log}
	cfg.Provider = spans.provider
	return errors.Join(do(ctx, cfg), spans.shutdown(ctx))
}

func smokeTest(ctx context.Context, cfg system.Config) error {
	totals, err := smoke.Run(ctx, cfg)
	line, marshalErr := json.Marshal(totals)
	if marshalErr != nil {
		return marshalErr
	}
	fmt.Println(string(line))
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

func serve(ctx context.Context, cfg system.Config) error {
	sys, err := system.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- sys.Run(ctx) }()
	select {
	case <-sys.Ready():
	case err := <-done:
		return err
	}
	fmt.Print(hints(sys.URL()))
	return <-done
}

// hints says what to try; the README shows the same commands.
func hints(url string) string {
	return fmt.Sprintf(`The order flow runs at %[1]s. Try:

curl %[1]s/v1/users/123
curl %[1]s/v1/items/item1
curl -i %[1]s/v1/orders -H 'Content-Type: application/json' -H 'Idempotency-Key: my-first-order' -d '{"userId":123,"items":["item1","item2"]}'

Send the last one again: the answer is the same and says Idempotency-Replayed.
Ctrl-C stops it.
`, url)
}
