// Package idempotency holds the tests of package idempotency that need real
// databases, other processes and faults.
package idempotency
