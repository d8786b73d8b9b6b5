// Package faults holds the tests that break a real RabbitMQ, Kafka or SQS, and the
// network to it, under a running flow of messages: publishers, a
// [messaging.Consumer], and the record of what became of every message. Each fault
// asserts that
//
//   - the publishers see no error, as long as their contexts outlast the fault
//     (or only the error that the fault is documented to cause)
//   - what was confirmed is received
//   - what was handled and what was dead-lettered are together what was
//     published, by message ID
//
// The nodes belong to the tests, which kill and reconfigure them; a test runs
// where the run has the server and its program is installed. ElasticMQ, which
// stands for SQS, keeps nothing over a restart, so it is never killed. The short
// forms run with all other tests; `make chaos` runs the long ones, by PARLEY_CHAOS=long.
// Every run prints its totals.
//
// [messaging.Consumer]: https://pkg.go.dev/github.com/parley-go/parley/messaging#Consumer
package faults
