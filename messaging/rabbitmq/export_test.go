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

// SetAnswerTimeout makes b wait for RabbitMQ's answers no longer than d.
func SetAnswerTimeout(b *Broker, d time.Duration) { b.answer = d }
