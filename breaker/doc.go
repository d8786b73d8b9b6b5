// Package breaker stops calling a dependency that fails, and finds out by
// itself when it works again.
//
// Callers of a dependency that hangs or fails wait for it, all of them, until
// they have no threads, connections or patience left; then their callers do. And
// a dependency that is down for lack of capacity stays down while everybody goes
// on calling. A circuit breaker (Michael Nygard, "Release It!", 2007) counts
// failures, rejects calls at once when there are too many, and after a while
// admits a single call to see.
//
//	inventory, err := breaker.New(breaker.Config{Name: "inventory"})
//
//	stock, err := breaker.Value(ctx, inventory, func(ctx context.Context) (int, error) {
//		return client.Stock(ctx, item)
//	})
//	if errors.Is(err, breaker.ErrOpen) { // not called; errors.As gives RetryAfter
//		return lastKnown(item)
//	}
//
//	httpClient := &http.Client{Transport: inventory.Transport(nil)}
//
// # How it works
//
// A [Breaker] is in one of five states. Each change of state begins a new
// generation, and the outcome of a call counts only in the generation that
// admitted it.
//
//	state       event                            what follows
//	Closed      call                             admitted
//	Closed      success                          counted in the window
//	Closed      failure or slow call             counted; Open if the window reaches a
//	                                             rate and MinCalls, or Consecutive
//	Open        call, before the open time ends  rejected
//	Open        call, after that                 HalfOpen, and this call is the first probe
//	HalfOpen    call, a slot is free             admitted as a probe, for ProbeTimeout
//	HalfOpen    call, all slots are taken        rejected
//	HalfOpen    probe succeeds                   Closed after ProbeSuccesses of them
//	HalfOpen    probe fails or is slow           Open, for twice as long, up to MaxOpenFor
//	HalfOpen    probe is not over in time        the same, from when its time ran out
//	HalfOpen    probe is Ignored                 its slot is free again, no verdict
//	any         outcome of another generation    dropped
//	any         ForceOpen, Disable               that state, until Reset
//	any         Reset                            Closed, with an empty window
//
// An [Outcome] is Success, Failure or Ignored; [DefaultClassify] says which error
// is what. It is booked when the call ends. The window holds the outcomes of a
// time, of a number of calls, or just the failures in a row; see [Config].
// Nothing runs in the background: the state moves on when calls come.
//
// Where a call is not a function, [Breaker.Allow] and [Permit.Done] enclose it.
// [Breaker.Transport] guards HTTP clients, [Group] keeps a breaker per host, shard
// or tenant, and [Fallback] redirects the calls that are rejected.
//
// # Guarantees
//
//   - No probe can hold the breaker: one that panics, calls runtime.Goexit,
//     hangs, or is abandoned, gives way after ProbeTimeout at the latest.
//   - At most Probes calls are admitted at once while half-open, the one that
//     came first included. One that is given up no longer counts as running.
//   - An outcome from before a change of state changes nothing after it: it does
//     not close, reopen, lengthen the open time or free a slot.
//   - A call longer than the window counts in full, when it ends.
//   - A caller that goes away, and a call that was refused before it reached the
//     dependency, count neither way.
//   - A panic or runtime.Goexit in a call is a failure, and goes on with its stack.
//   - Rejections never count as failures.
//   - A rate that is met exactly opens the breaker.
//   - Each trip opens the breaker once, and OnChange hears all changes in order.
//   - Steps of the wall clock have no effect.
//   - A Group keeps at most MaxKeys breakers. It never evicts one that rejects calls,
//     has a probe running, has failures that count and was asked for within
//     MaxOpenFor and a Window, or has an operator's order.
//   - Keys that fail once cannot fill a Group for ever, and those for which it has no
//     room share a breaker.
//
// Not guaranteed: that the calls which run when the breaker opens end sooner,
// since it interrupts nothing; give calls a timeout. Breakers in several
// processes do not know of each other. A goroutine that is stalled between two
// instructions for a whole eighth of the window may book its outcome that much
// too late or, after a whole window, not at all.
//
// # Defaults
//
// Open when half of at least 20 calls in 10 seconds failed: less than half is
// still worth having, and below 20 a few bad calls are no trend. Open for 5
// seconds, about a restart, doubling up to a minute, so that a long outage is
// probed gently and its end is seen within a minute. Jitter of 10 %, against
// probes in step. One probe at a time, and one success closes, so that recovery
// is quick; raise Probes for a dependency that recovers by halves. 30 seconds for
// a probe, longer than most timeouts.
//
// # Composition
//
// From the outside in: fallback, idempotency key, retry, breaker, bulkhead,
// tracing, transport. Inside a retry the breaker judges each attempt, and its
// rejection ends the retries. One breaker guards one dependency, whoever calls.
//
// # Errors
//
// The error of a guarded function is returned as it is. A call that the breaker
// rejects gets an [*OpenError], which is [ErrOpen] and has two methods that other
// packages look for: RetryAfter says when it is worth coming back, Rejected that
// the dependency was not reached. Serve something else, or pass it on as status
// 503 with Retry-After. A context that had ended before the call gives its cause,
// and a nil function an error that says so. New reports all faults of a Config in
// one error.
//
// # Concurrency
//
// Everything but a [Permit] is safe for concurrent use. Admitting and counting a
// call and rejecting one take no lock and allocate nothing; what a windowed call
// costs is a clock read and an atomic addition (docs/design/0001). Changing the
// state, and probes, take a mutex, never during the user's code. There are no
// goroutines and no timers.
package breaker
