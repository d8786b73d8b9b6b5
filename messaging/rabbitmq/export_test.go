package rabbitmq

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// Decode lets the black-box tests read a message behind the Broker's back.
func Decode(d *amqp.Delivery) messaging.Message {
	m, _ := decode(d, "", "")
	return m.Message
}

// SetAstrayFor makes b try no longer than d where a route leads nowhere any more.
func SetAstrayFor(b *Broker, d time.Duration) { b.astray = d }

// SetAnswerTimeout makes b wait for RabbitMQ's answers no longer than d.
func SetAnswerTimeout(b *Broker, d time.Duration) { b.answer = d }
