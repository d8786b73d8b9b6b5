// Package memory is a broker inside the process: for tests, for programs of one
// process, and to begin with before there is a broker to run. Publishers and
// groups are decoupled as with any other broker, but what has not been handled
// is lost when the process ends. Where that matters, use package rabbitmq; the
// code stays the same.
//
//	broker, err := memory.New(memory.Config{})
//	…
//	defer broker.Close(ctx)
//	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{})
//
// # How it works
//
// Each group is a queue of at most MaxBacklog messages that are not settled.
// Publish puts a copy into the queue of every group of the topic. A retry waits
// in a heap, by the monotonic clock, and then joins the end of the queue; a
// release goes back to where the message was. Dead letters are kept in order, for
// subscriptions to DeadLetters and for [Broker.DeadLetters], which does not wait.
// With Config.Lease, one timer for each subscriber takes back what is not settled
// in time; dead letters in hand have no lease.
//
// # Guarantees
//
//   - It keeps what package messaging guarantees, and all of its Promises but
//     Durable, at the cost of one copy of each message for the broker and one
//     for each delivery.
//   - A message goes to all groups of its topic or to none.
//   - Publish waits while a group is full, until a message of that group is
//     settled or its context ends: nothing is dropped, and memory is bounded. So
//     a group without subscribers holds publishers up, in the end.
//   - With a Lease, an unsettled delivery is taken back and comes again when its
//     lease is over; those that are lost together come again in their order.
//   - An idle Broker has no goroutine but those that call Subscribe.
//
// Not guaranteed: that anything outlives the process or Close; that dead letters
// beyond MaxDeadLetters are kept; order by Key between several subscribers of
// one group.
//
// # Defaults
//
// A backlog of 10,000 messages rides out a short stall of a group. Payloads of
// at most 1 MiB are what most brokers take, so that a program can move to one.
// Deliveries are not leased: who holds one is in the same process, and cannot be
// gone without it.
//
// # Composition
//
// Under a messaging.Consumer, as any Broker. A Broker that is made within a
// testing/synctest bubble runs on its virtual time: a test of retries that take
// minutes ends at once.
//
// # Errors
//
// Those of package messaging; each method lists its own.
//
// # Concurrency
//
// All methods may be called by several goroutines at once.
package memory
