package sqs_test

import (
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/messagingtest"
	"github.com/parley-go/parley/messaging/sqs"
)

func TestBrokerKeepsItsPromises(t *testing.T) {
	for name, fifo := range map[string]bool{"with standard queues": false, "with FIFO queues": true} {
		t.Run(name, func(t *testing.T) {
			serverURL(t)
			messagingtest.Run(t, func(t *testing.T) messaging.Broker {
				return newBroker(t, sqs.Config{FIFO: fifo, Visibility: 5 * time.Second})
			})
		})
	}
}
