// Package idempotency keeps a request that arrives twice from taking effect
// twice, and gives the second one the answer of the first.
//
// Whoever gets no answer sends again: a client after a timeout, a retry policy,
// a broker after a crash. The first request may have succeeded all the same, and
// then the customer pays twice. With this package a request that carries a key
// is processed once.
//
// One case is left: a process that crashes after the effect and before the effect
// is recorded. The work then runs again once its lease has ended; no store beside
// the effect can know better. Where that matters put both into one transaction
// (package sqlstore), or give the effect the fencing token of [FromContext].
//
//	memory, err := idempotency.NewMemory(idempotency.MemoryConfig{})
//	guard, err := idempotency.New(memory, idempotency.Config{})
//	once, err := guard.Middleware(idempotency.HTTP{
//		Scope: func(r *http.Request) (string, error) { return tenantOf(r), nil },
//	})
//	mux.Handle("POST /charges", once(charge)) // Idempotency-Key: 8e03978e-40d5-…
//
// # How it works
//
// Before the work begins the [Guard] acquires a claim on the key in a [Store], in
// one atomic step. The claim has a lease, which a heartbeat extends while the
// work runs and which ends by itself if the process dies, and a fencing token,
// which rises with every claim, so that an owner that was overtaken can change
// nothing any more (Martin Kleppmann, "How to do distributed locking", 2016).
// Success completes the record with the result, which answers all repetitions
// until the TTL has passed; failure releases the claim, and the next one tries
// again.
//
//	absent ──Acquire──▶ in progress ──Complete──▶ completed ──TTL──▶ absent
//	                     ▲      │
//	       Acquire again │      │ Release, or the lease ends
//	                     └──────┘
//
// A record also has a fingerprint of the request: the same key with another
// payload is an error of the client and never gets the first one's answer.
//
// Where the records are decides what a crash can do:
//
//	store       shared by   survives                first, replay     effect and record
//	Memory      a process   nothing                 no round trip     apart
//	redisstore  a service   as Redis is configured  2 round trips, 1  apart
//	sqlstore    a service   what its database does  2 statements, 1   apart or in one transaction
//
// A [Cache] before one of the latter answers repetitions from memory.
//
// Three things stand on this. [Guard.Middleware] implements the Idempotency-Key
// header of draft-ietf-httpapi-idempotency-key-header-07 for any http.Handler;
// [Value] does the same for any function; [Inbox] for a message handler. On the
// client's side, a [Minter] gives each logical call its key.
//
// # Guarantees
//
//   - Of any number of calls with one key at one time, one runs; the others get
//     [ErrBusy], wait for its answer, or get the replay.
//   - A repeated call gets the same answer without a second run, until the TTL
//     has passed.
//   - An owner that was overtaken is fenced: it overwrites nothing, and its
//     context ends with the cause ErrFenced. So does that of an owner that has
//     not reached the store for the length of a lease.
//   - The lease is kept while the work runs, however long that takes.
//   - Work that succeeded is recorded even if the caller has left, also when the
//     store fails for a moment, and its result is returned even if it could not be
//     recorded.
//   - Work that fails, panics or calls runtime.Goexit releases the key; error and
//     panic go on unchanged. A handler whose success the client has seen in part
//     before the panic completes it.
//   - The same key with another payload is refused, while the first runs, after
//     it failed and after it is done. A body that was read outside, so that its
//     payload is not known, is refused.
//   - The same key of another tenant, or for another use, is another key.
//   - When the store does not answer, the work is not begun, unless FailOpen says
//     so.
//   - A response that is streamed or above MaxStored reaches the client and is
//     never run again; the repetition is told that it was not kept.
//   - A Memory that is full refuses new keys and forgets none.
//   - A Cache answers repetitions without asking the store, for up to MaxAge.
//   - Request bodies, responses and records are bounded.
//   - No error, answer or event contains a key, and no store sees one in clear.
//   - No goroutine outlives a call.
//
// Not guaranteed: a single effect when a process crashes between the effect and
// its record, when a store loses records (a restart of [Memory], a fail-over of
// Redis), or when work without heartbeat outlasts its lease. Work that was
// interrupted may have had some of its effect; Attempt and TakenOver of the
// [Lease] tell the next attempt to look. A key that comes again after its TTL is
// new.
//
// # Defaults
//
// A TTL of 24 hours is what the large payment services promise, and longer than
// any client retries. A lease of 30 seconds bounds how long a crash blocks a
// key, and leaves the heartbeat several tries. Bodies and responses of up to 1 MiB
// are kept, since both are held in memory. A [Memory] holds 100,000 records, which
// over 24 hours is 1.1 new keys a second: MaxRecords must be at least the new keys
// a second times the TTL in seconds. Responses of 5xx release the key: most
// of them say that nothing was done. The body is compared byte for byte, since a
// client that repeats a request repeats its bytes.
//
// # Composition
//
// On a server, authentication stands outside, so that Scope knows the tenant and
// a replay needs a valid login; so do tracing, metrics, limits and compression.
// What reads the body stands inside.
// On a client the key stands outside of retries, so that all attempts carry it:
//
//	http.Client{Transport: key.Transport(policy.Transport(breaker.Transport(nil)))}
//
// In a consumer the inbox stands next to the handler, inside of everything that
// may run the handler again. Its name is that of topic and group.
//
// # Errors
//
// [Value] and Inbox return the work's own error as it is. Whatever kept the work
// from running satisfies errors.Is for a [Reason]. [ErrBusy] and
// [ErrUnavailable] come as a [*RejectedError], whose methods RetryAfter and
// Rejected tell retry policies, breakers and consumers what to do without their
// knowing this package. HTTP clients get problem details; the table stands at
// Guard.Middleware.
//
// # Concurrency
//
// All types are safe for concurrent use. A request without a key costs a few
// nanoseconds and no allocation. The heartbeat is a timer, whose goroutine exists
// only while it extends the lease, and ends before the call returns.
package idempotency
