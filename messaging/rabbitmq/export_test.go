package rabbitmq

import "time"

// SetAnswerTimeout makes b wait for RabbitMQ's answers no longer than d.
func SetAnswerTimeout(b *Broker, d time.Duration) { b.answer = d }
