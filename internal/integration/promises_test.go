package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/rabbitmq"
	"github.com/parley-go/parley/messaging/sqs"
)

// made returns the Promises of a Broker, which New does not connect.
func made[B messaging.Broker](t *testing.T) func(b B, err error) messaging.Promises {
	return func(b B, err error) messaging.Promises {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b.Promises()
	}
}

// The conformance suite holds each broker to its Promises; this holds the README to
// them.
func TestTheReadmesTableIsWhatEachBrokerPromises(t *testing.T) {
	client := awssqs.New(awssqs.Options{Region: "us-east-1"})
	head := []string{"", "`memory`", "`rabbitmq`", "`kafka`", "`sqs`", "`sqs` with FIFO"}
	of := []messaging.Promises{
		made[*memory.Broker](t)(memory.New(memory.Config{})),
		made[*rabbitmq.Broker](t)(rabbitmq.New(rabbitmq.Config{URL: "amqp://localhost/"})),
		made[*kafka.Broker](t)(kafka.New(kafka.Config{Seeds: []string{"localhost:9092"}})),
		made[*sqs.Broker](t)(sqs.New(sqs.Config{Client: client})),
		made[*sqs.Broker](t)(sqs.New(sqs.Config{Client: client, FIFO: true})),
	}
	yes := func(of func(messaging.Promises) bool) func(messaging.Promises) string {
		return func(p messaging.Promises) string { return map[bool]string{true: "yes", false: "no"}[of(p)] }
	}
	table := row(head) + strings.Repeat("|---", len(head)) + "|\n"
	for _, r := range []struct {
		text string
		cell func(messaging.Promises) string
	}{
		{"a confirmed message survives the end of the broker's process", yes(func(p messaging.Promises) bool { return p.Durable })},
		{"messages with one `Key` arrive in order", yes(func(p messaging.Promises) bool { return p.Ordered })},
		{"publishing to a topic that no group ever subscribed to is an error", yes(func(p messaging.Promises) bool { return p.Routed })},
		{"the broker takes an unsettled delivery back after", func(p messaging.Promises) string { return lease(p.Lease) }},
		{"giving a delivery back counts as an attempt", yes(func(p messaging.Promises) bool { return p.CountsRelease })},
		{"largest payload", func(p messaging.Promises) string { return bytes(p.MaxPayload) }},
	} {
		cells := []string{r.text}
		for _, p := range of {
			cells = append(cells, r.cell(p))
		}
		table += row(cells)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "\n\n"+table+"\n") {
		t.Errorf("the README does not have the table of what the brokers promise:\n%s", table)
	}
}

func row(cells []string) string {
	return strings.Replace("| "+strings.Join(cells, " | ")+" |\n", "|  |", "| |", 1)
}

func bytes(n int) string {
	if n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func lease(d time.Duration) string {
	if d == 0 {
		return "never"
	}
	return fmt.Sprintf("%v, unless extended", d)
}
