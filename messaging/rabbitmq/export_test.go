package rabbitmq

import "time"

// SetAstrayFor makes b try no longer than d where a route leads nowhere any more.
func SetAstrayFor(b *Broker, d time.Duration) { b.astray = d }

// SetAnswerTimeout makes b wait for RabbitMQ's answers no longer than d.
func SetAnswerTimeout(b *Broker, d time.Duration) { b.answer = d }
