package rabbitmq

import (
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/messaging"
)

// Decode lets the black-box tests read a message behind the Broker's back.
func Decode(d *amqp.Delivery) messaging.Message {
	m, _ := decode(d, "", "")
	return m.Message
}
