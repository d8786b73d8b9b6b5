// Package retry repeats calls that failed, without turning the failure of a
// dependency into an outage of all its callers.
//
// A call that fails may well succeed a moment later, so everybody retries; and
// when a dependency is down, everybody's retries keep it down. This package
// waits with jitter, stops as soon as waiting is pointless, obeys what the
// dependency asks for, and keeps the retries of all callers within a budget.
//
//	policy := retry.Policy{Name: "inventory", MaxAttempts: 4, Budget: budget}
//
//	stock, err := retry.Value(ctx, policy, func(ctx context.Context) (int, error) {
//		return client.Stock(ctx, item)
//	})
//	if errors.Is(err, retry.ErrBudget) { // Inventory fails for everybody
//		return cached(item)
//	}
//
//	httpClient := &http.Client{Transport: retry.Policy{}.Transport(nil)}
//
// # How it works
//
// A [Policy] makes one attempt after another until one succeeds. Before each
// retry it waits for as long as its [Backoff] says: by default a random time of
// up to 100 ms, then 200 ms, then 400 ms, at most 10 s. Jitter is what
// keeps callers that failed together from coming back together (Marc Brooker,
// "Exponential Backoff And Jitter", 2015).
//
// An error decides about the next attempt by what it says: [Permanent] errors
// end the call, [After] raises the wait, and so may two methods that errors of
// any package can have. RetryAfter() time.Duration says when to come back; the
// backoff's wait, with its jitter, comes on top of that, since whoever was told
// the same would else come back together. Rejected() bool says that the
// dependency was never reached, for instance because a breaker is open; such a
// call is not retried unless RetryRejected asks for it.
//
// A [Budget] lets retries be a fixed share of the calls, 20 % by default, plus a
// floor for callers with little traffic, as in Finagle and in "Site Reliability
// Engineering" (ch. 21). [Hedge] starts a second attempt beside a slow one and
// takes the first answer.
//
// # Guarantees
//
//   - A wait that would outlast the context's deadline or MaxElapsed is not
//     begun: the call fails at once, also when a slow hook has doomed the wait.
//   - When the context ends, no further attempt starts, and the error is both
//     the operation's last one and the context's cause.
//   - No wait of a backoff is negative or longer than its Cap, after jitter, after
//     any number of attempts; only a dependency that asks for it, within
//     MaxRetryAfter, is waited for longer. A wait of zero uses no timer.
//   - Over any period, the retries of a budget of [NewBudget] stay within
//     RetryRate × calls + MinPerSecond × seconds + Burst.
//   - Policies inside one another do not multiply: a policy that runs inside a
//     retry of another one tries once, and an [*Error] is not retried, save one
//     that was cut off, by the AttemptTimeout of the policy outside for one.
//   - A Transport sends a request twice only if that is idempotent, replays its
//     body byte for byte, never changes it, closes its body once, closes every
//     response that it does not return, and returns the last one as it is.
//   - No goroutine or timer outlives a call.
//
// Not guaranteed: that the operation ran at most, or at least, once. A failed
// attempt may have had its effect; make it safe to repeat (package idempotency).
// Nothing interrupts an attempt that ignores its context. The guard against
// nesting ends at the process: across services, budgets and the rule to retry in
// one layer only have to do.
//
// # Defaults
//
// 3 attempts: a third failure in a row is rarely bad luck. 100 ms is a little
// more than a restart of a connection takes, and 10 s the longest that a caller
// would still be there. An error may ask for at most 1 minute. The budget's 20 %
// bounds the extra load of a complete outage to a fifth, its 10 a second let a
// quiet caller retry freely, and its burst of 100 covers a short blip.
//
// # Composition
//
// From the outside in: fallback, idempotency key, retry, breaker, bulkhead,
// tracing, transport. The breaker stands inside, so that it judges each attempt
// and its rejections end the retries; the key outside, so that all attempts
// carry the same. Retry in one layer only.
//
// # Errors
//
// A call returns nil, the operation's own error where that is not to be retried,
// or an [*Error]. That satisfies errors.Is for a [Reason] such as [ErrExhausted],
// for the last error of the operation and for the cause of a context that ended.
// A faulty policy is [ErrPolicy] before the first attempt.
//
// # Concurrency
//
// Policy and Hedging are values without state; a Budget and a Transport are safe
// for concurrent use. The first attempt of a Policy costs a few nanoseconds and
// allocates nothing. The package starts no goroutines of its own, save those of
// Hedge, which end before it returns.
package retry
