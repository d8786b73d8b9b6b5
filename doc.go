// Package parley is the root of a library of the patterns by which microservices
// talk to each other, and fail to. It holds no code: import the package whose
// trouble you have.
//
//	a dependency is failing, calls pile up        breaker
//	one slow dependency takes every goroutine     breaker/bulkhead
//	a call failed that would succeed again        retry
//	a request may arrive twice                    idempotency
//	services must not wait for each other         messaging
//	clients need one entry point                  gateway
//	nobody can see a request cross services       tracing
//
// # Order of composition
//
// The packages do not import one another; they meet in shapes that Go has
// already. Around an HTTP client, from the outside in:
//
//	idempotency key → retry → breaker → bulkhead → tracing, one span an attempt → transport
//
//	http.Client{Transport: key.Transport(policy.Transport(b.Transport(tracer.Transport(nil))))}
//
// Around an HTTP server:
//
//	tracing → limits → auth → idempotency → handler
//
// Around a message handler:
//
//	tracing → inbox → handler
//
// where retries and dead letters belong to the messaging.Consumer. Retry in one
// layer only: three layers of three attempts make 27.
package parley
