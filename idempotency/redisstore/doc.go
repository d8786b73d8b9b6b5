// Package redisstore keeps the records of package idempotency in Redis, so that
// all instances of a service share them, for the price of two round trips for a
// first request and one for a replay.
//
// A record is not in one transaction with the effect: after a crash between the
// two the work runs again once its lease has ended. Where that matters, package
// sqlstore has both in one.
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	store, err := redisstore.New(client, redisstore.Config{})
//	guard, err := idempotency.New(store, idempotency.Config{})
//
// # How it works
//
// A record is a hash that expires with its TTL. Each step is one Lua script, which
// Redis runs as a whole. Scripts are sent by their hash and, the first time, in
// full. Leases are measured by the server's clock.
//
// A token is the larger of the last one plus 1 and the server's time in
// microseconds. The last one of each of 256 groups of records has a key without
// expiry, so tokens rise beyond the end of a record and when the clock is set
// back; they rise after the loss of all data if the clock was not set back then.
// Records and their group's key share a hash tag, so that a cluster has them in
// one slot.
//
// # Guarantees
//
//   - A Store keeps the promises of [idempotency.Store], for as long as Redis keeps
//     the data.
//   - A first request takes two round trips and a replay takes one.
//   - A claim whose answer is lost on the way is the same claim when the client
//     sends it again, and not one that blocks itself for the length of its lease.
//   - No time of this process reaches Redis.
//
// Not guaranteed: anything that Redis forgets. With appendonly yes and appendfsync
// always a record that was answered for survives a crash of the server; with
// everysec, the default of that mode, up to two seconds are lost; without
// persistence, all. A fail-over loses what the replica has not received, since
// replication is asynchronous. A lost record means that a repeated request runs
// again.
//
// # Defaults
//
// Keys begin with "idempotency:". A record takes about 260 bytes, and about 700
// beside a result of more than 64 bytes (MEMORY USAGE of Redis 7.0). The server's
// maxmemory-policy must be noeviction, or it deletes records that live; a Redis
// that is full then refuses new claims, and lets those that are held go on to their
// end.
//
// # Composition
//
// The client needs ContextTimeoutEnabled, or else its own timeouts and not the
// Guard's StoreTimeout bound a call on a server that hangs. Any client works: of a
// single server, a cluster, or one with sentinels. The tests run on Redis 7; before
// Redis 5 a script may not read the clock and then write.
//
// # Errors
//
// Errors of the client are wrapped. A reply that this version does not know is an
// error and not an answer.
//
// # Concurrency
//
// A Store is safe for concurrent use and starts no goroutine.
package redisstore
