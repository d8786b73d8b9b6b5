// Package bulkhead keeps one slow dependency, or one greedy caller, from taking
// all of a process.
//
// A dependency that becomes slow holds each of its callers for longer, so that
// more and more of them are inside at once, with their goroutines, memory,
// connections and locks, until nothing is left for calls that have nothing to do
// with it. A bulkhead (Michael Nygard, "Release It!", 2007; the walls that keep a
// ship with a hole afloat) limits how many calls may be inside, and rejects the
// rest at once.
//
//	inventory, err := bulkhead.New(bulkhead.Config{Name: "inventory", Limit: 20, Queue: 10})
//
//	stock, err := bulkhead.Value(ctx, inventory, func(ctx context.Context) (int, error) {
//		return client.Stock(ctx, item)
//	})
//	if errors.Is(err, bulkhead.ErrFull) { // not called
//		return lastKnown(item)
//	}
//
//	httpClient := &http.Client{Transport: inventory.Transport(nil)} // on a client
//	mux.Handle("GET /reports/", reports.Middleware(handler))        // on a server
//
// # How it works
//
// A [Bulkhead] has Limit slots. A call takes one, runs, and gives it back. When
// all are taken, up to Queue calls wait in line, each for up to Wait; a slot that
// is given back goes to the first of them.
//
// With SlowCall the limit adapts itself by additive increase and multiplicative
// decrease, the rule by which TCP finds out what a network can take (Dah-Ming Chiu
// and Raj Jain, 1989; RFC 5681):
//
//	call                                                  limit
//	took SlowCall or longer, however it ended             falls by a quarter, at least 1
//	its error's RetryAfter asks for a wait; 429 or 503    the same
//	quick and successful, at least half the limit in use  grows by 1 after limit such calls
//	quick failure, panic, caller left, rejected below     stays
//
// A call that was admitted before the limit fell last no longer counts: calls that
// are slow together are one event (RFC 6582). A limit that is not in use does not
// grow, since nothing is known about it (RFC 7661). A slow call costs less than
// the half that TCP takes for a lost packet, as it says less.
//
// # Guarantees
//
//   - No more than the limit run at once. Where an adaptive limit falls, calls
//     that run are not interrupted, and none is admitted until enough have ended.
//   - No more than Queue calls wait, none for longer than Wait, and they get their
//     slots in the order of their arrival.
//   - A slot is given back however the call ends, by a panic or runtime.Goexit
//     too, and only once: a [Permit] that is done twice, or copied, frees nothing
//     that is not its own.
//   - A call that gives up waiting neither takes a slot along nor loses one for
//     those behind it.
//   - A context that has ended fails even if a slot is free.
//   - A call that is rejected, or whose context ends in the queue, is neutral to a
//     breaker: the dependency was not reached.
//   - A call that ignores its context holds its slot until it returns. No goroutine
//     is left behind to finish it.
//   - An adaptive limit stays from Min to Max.
//
// Not guaranteed: that the callers of one bulkhead share it fairly. Give each
// tenant or kind of work that must not starve the others a bulkhead of its own.
// Nothing is interrupted; give calls a timeout, or those that hang will hold all
// slots. Bulkheads in several processes do not know of each other.
//
// # Defaults
//
// 64 slots: more than most dependencies are busy with for one process, less than
// what exhausts it. For a figure of your own multiply the calls per second by the
// seconds that each takes on a good day (John Little's law, 1961), and double it.
// No queue: a queue pays where calls come in bursts that are shorter than Wait;
// where the load is lasting it only adds its delay to every call. A Wait of one
// second, since few callers are patient for longer. An adaptive limit from 1, so
// that a dependency in trouble still gets a call at a time, to 10 times Limit.
//
// # Composition
//
// From the outside in: fallback, idempotency key, retry, breaker, bulkhead,
// tracing, transport. Inside the retry, so that a call that waits for its next
// attempt holds no slot; inside the breaker, so that calls that it rejects take
// none. On a server: recover, tracing, metrics, limits, auth; a Middleware belongs
// to the limits.
//
// # Errors
//
// The error of a guarded function is returned as it is. A call that finds no slot
// gets a [*FullError], which is [ErrFull]; one whose context ends first an error
// that is the context's cause, by errors.Is. Both have a method Rejected, which
// tells breakers and retry policies that the call was not made. Serve something
// else, or pass it on as status 503 with Retry-After. New reports all faults of a
// Config in one error.
//
// # Concurrency
//
// Everything but a [Permit] is safe for concurrent use. A call takes one short
// mutex twice, never during the user's code, and allocates nothing unless it
// waits. There are no goroutines, and no timers but those of the calls that wait.
package bulkhead
