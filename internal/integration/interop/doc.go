// Package interop holds the tests in which programs that know nothing of parley stand
// beside it on a real broker: a Python client on Kafka, the SDK of AWS on SQS. They
// read what parley publishes, and parley reads what they publish.
package interop
