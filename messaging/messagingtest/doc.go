// Package messagingtest holds the conformance suite for those who implement a
// [messaging.Broker]. Run it from a test of the adapter:
//
//	func TestBrokerKeepsItsPromises(t *testing.T) {
//		messagingtest.Run(t, func(t *testing.T) messaging.Broker {
//			b, err := rabbitmq.New(rabbitmq.Config{URL: url})
//			if err != nil {
//				t.Fatal(err)
//			}
//			return b
//		})
//	}
//
// and measure the adapter with [Bench] from a benchmark of its own.
//
// # How it works
//
// Each guarantee of package messaging is a subtest that bears its words. What a
// broker does not promise by its [messaging.Promises] is skipped with the
// reason. Dead letters are read through Subscribe, by DeadLetters of the
// Subscription. A subtest opens a Broker of its own, uses topics with new names that
// begin with "conformance-", and runs beside the others, against a real broker
// in real time. It waits for events, not for time to pass, up to a bound of 30
// seconds that a healthy broker does not come near. The only times it asserts
// are the least delays of retries and, of a broker whose deliveries expire, the
// Lease, which should be a few seconds at most in a test: one test lasts three.
//
// # What it does not test
//
// Faults: a connection that is lost, a broker that restarts, a disk that is
// full. They differ from broker to broker, and each adapter has tests for its
// own.
package messagingtest
