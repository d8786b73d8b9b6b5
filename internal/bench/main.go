// Command bench compares parley with what its users use today, side by side in
// one run, and holds the ratios that the design promises. It prints one line a
// row and exits 1 on a MISS. ONLY=breaker runs the rows of one package, and
// ONLY=gateway/handler those of the gateway that need no processes.
//
// Figures are processor time, so that a busy machine disturbs them less. Rows of
// messages a second are elapsed time, because their sides wait, for a broker and
// for each other; their ratio is ours to theirs, the more the better. Only the
// ratios are to be trusted.
//
// Rows that need RabbitMQ run where PARLEY_RABBITMQ_URL says one is, those that need
// Redis where PARLEY_REDIS_ADDR does, those that need Kafka where PARLEY_KAFKA_ADDR
// does; make bench starts them.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() { os.Exit(run()) }

// run returns the exit code.
func run() int {
	if asServer(os.Args[1:]) {
		return 0
	}
	overGateway, endGateway := gatewayRows()
	defer endGateway()
	inProcess, endMessaging := messagingRows()
	defer endMessaging()
	overRabbitMQ, endRabbitMQ := rabbitmqRows()
	defer endRabbitMQ()
	overKafka, endKafka := kafkaRows()
	defer endKafka()
	missed := 0
	for _, rows := range [][]row{breakerRows(), retryRows(), transportRows(), idempotencyRows(), tracingRows(), inProcess, overRabbitMQ, overKafka, handlerRows(), overGateway} {
		for _, r := range rows {
			if wanted(r.name) && !r.run(os.Stdout) {
				missed++
			}
		}
	}
	if missed > 0 {
		fmt.Printf("%d rows MISS\n", missed)
		return 1
	}
	return 0
}

// wanted reports whether ONLY lets a row run. What costs much to set up asks
// before it does.
func wanted(name string) bool {
	only := os.Getenv("ONLY")
	return only == "" || strings.HasPrefix(name, only+"/")
}

// check ends the program: a side that fails is not fast.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// must ends the program: a row that cannot be set up cannot be measured.
func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return v
}
