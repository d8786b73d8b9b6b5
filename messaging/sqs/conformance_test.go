package sqs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/messagingtest"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

// visibilityOf returns the Visibility for a check of the suite: the longest that it can
// wait for where that is what is checked, and otherwise one that does not end while a
// busy machine makes a check wait.
func visibilityOf(t *testing.T) time.Duration {
	t.Helper()
	for _, word := range []string{"Lease", "lease", "extended"} {
		if strings.Contains(t.Name(), word) {
			return 5 * time.Second
		}
	}
	return time.Minute
}

func TestBrokerKeepsItsPromises(t *testing.T) {
	t.Parallel()
	for name, fifo := range map[string]bool{"with standard queues": false, "with FIFO queues": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serverURL(t)
			messagingtest.Run(t, func(t *testing.T) messaging.Broker {
				return newBroker(t, sqs.Config{Client: client(url), FIFO: fifo, Visibility: visibilityOf(t)})
			})
		})
	}
}

func TestBrokerKeepsItsPromisesOverSNS(t *testing.T) {
	t.Parallel()
	for name, fifo := range map[string]bool{"with standard queues": false, "with FIFO queues": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := over(t, &sqsfake.Server{})
			messagingtest.Run(t, func(t *testing.T) messaging.Broker {
				return newBroker(t, sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg), FIFO: fifo, Visibility: visibilityOf(t)})
			})
		})
	}
}

func BenchmarkBroker(b *testing.B) {
	for name, fifo := range map[string]bool{"standard": false, "FIFO": true} {
		b.Run(name, func(b *testing.B) {
			messagingtest.Bench(b, func(b *testing.B) messaging.Broker {
				return newBroker(b, sqs.Config{FIFO: fifo})
			})
		})
	}
}
