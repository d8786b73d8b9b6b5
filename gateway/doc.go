// Package gateway gives the clients of many services one entry point, and keeps
// what clients send from reaching a service in a form that it was not meant to.
//
// A reverse proxy that forwards faithfully also forwards a forged client
// address, a path that the access rules read one way and the service another,
// and an upgrade to a protocol that no rule looks into; and when a service
// fails, it hands the failure on. This one forwards what it understands, refuses
// the rest, and composes with packages retry and breaker.
//
//	var b gateway.Builder
//	b.Upstream(&gateway.Upstream{
//		Name:    "orders",
//		Targets: []string{"http://10.0.0.4:8080", "http://10.0.0.5:8080"},
//		Retry:   &retry.Policy{MaxAttempts: 3},
//		Breaker: &breaker.Config{},
//	})
//	b.Route(gateway.Route{Pattern: "GET /v1/orders/{id}", Upstream: "orders", Rewrite: "/orders/{id}"})
//	gw, err := b.Build()
//	...
//	err = gw.Server("127.0.0.1:8080").ListenAndServe()
//
// # How it works
//
// A [Builder] collects upstreams and routes; Build checks all of it and returns
// a [Gateway], which is an [http.Handler]. A request passes, in this order: the
// check of path, query, host and sizes; the cleaning of its header; the choice of
// its route; the route's Use; and then what the route has: a Handler, a Redirect,
// or the way to an upstream, which is the one of a Split; Fallback; Retry; Hedge;
// the choice of a target; that target's breaker; the upstream's Wrap; the
// connection. The core that copies requests and answers is the gateway's own; what
// it does, save for what is promised below, is what [httputil.ReverseProxy] does,
// and a fuzz test compares the two.
//
// The targets of an upstream are given, or found by a [Resolver] such as [DNS]. A
// [Picker] chooses among those that are well: whom [Health] has not found wanting
// and whom [Eject] has not taken out, for what its requests have shown. [Sticky]
// keeps a client where it was, and SlowStart spares a target that is back.
// [Gateway.Run] checks and resolves; [Gateway.Reload] replaces routes and
// upstreams; [Gateway.Close] ends tunnels. [Gateway.Stats] shows all of it.
//
// # Guarantees
//
//   - A path that two readers might read differently is answered by 400: dot
//     segments, empty segments, parameters, encoded delimiters and controls, what
//     is encoded twice or is not UTF-8. Routes, Use, Rewrite and the upstream see
//     one path. The gateway itself never redirects. A Builder may let several
//     slashes pass as one, and an encoded one as part of its segment.
//   - A query that two readers might read differently is answered by 400:
//     semicolons, broken escapes, raw bytes outside of printable ASCII; and so is
//     a field or parameter that routes ask for and that stands twice. A Builder
//     may let queries pass raw.
//   - Of the routes that match, the most specific one answers. Two of which
//     neither is more specific are a fault.
//   - A split gives each upstream its weight, evenly spread. A key stays at its
//     upstream, and moves only to the share that grows.
//   - Hop-by-hop fields and those that Connection nominates (RFC 9110 §7.6.1) pass
//     in neither direction, in informational and upgrade responses and in trailers
//     neither. What the gateway or Use sets cannot be nominated away.
//   - The upstream sees X-Forwarded-For, -Host, -Proto and X-Request-Id as the
//     gateway sets them, from the word of trusted proxies and nobody else's. The
//     first in X-Forwarded-For is what [ClientIP] says. Every other field named
//     X-Forwarded…, Forwarded, X-Real-Ip and every name of other characters than
//     letters, digits and hyphens is dropped, and so are the other names that are
//     known to tell servers a client's address, certificate, host, path or method.
//   - Fields that name a user are for Use alone to set.
//   - Connections are upgraded to WebSocket and to nothing else. An upstream that
//     switches to anything else is answered for by 502, and its connection closed.
//   - Informational responses pass, to clients that know them, and leave nothing
//     in the answer.
//   - An answer that breaks off is broken off for the client too. One without
//     Content-Type stays without.
//   - A request body is sent again byte for byte or not at all, and a request that
//     is not idempotent only if nothing of it was sent.
//   - What a target says without being asked reaches nobody: its connection is closed,
//     and so is one whose answer was not read to its end. A GET, HEAD or OPTIONS is
//     sent again, on another connection, where one that had carried requests before
//     ends under it without a byte of the answer. What fails on a new one has failed.
//   - A retry goes to a target that the request has not been to, while there is
//     one. A target whose breaker is open is passed over.
//   - A target that fails its checks gets no requests until it passes them again,
//     and one that is ejected comes back by itself. No more than MaxRate of the
//     targets are ejected at once.
//   - Where no target is healthy all are used, or none by choice: then the answer is
//     503 with Retry-After.
//   - A Resolver that fails leaves the last targets. Targets that stay keep what is
//     known about them.
//   - A sticky cookie that is forged is ignored and minted anew.
//   - A Reload with a fault changes nothing. Any other fails no request: those under
//     way end by the old plan, those to come begin with the new one, and the pool of
//     the same Upstream is kept. Tunnels outlive it.
//   - Close waits for tunnels that end by themselves and cuts off the others when its
//     context ends.
//   - Each attempt is told how long the gateway waits, by X-Request-Timeout in
//     milliseconds; of gRPC calls Grpc-Timeout says what remains of the client's.
//     A deadline of the client shortens the wait, and no target is blamed for it.
//   - Uploads, streams and tunnels in which nothing moves for IdleTimeout are
//     broken off, and so are answers that a client does not take. Who uploads
//     slowly under an AttemptTimeout is answered by 408, and no target is blamed.
//   - When the client leaves, the request to the upstream is cancelled within the
//     same instant, and the upstream is not blamed.
//   - Each request that reaches the gateway makes one line in the access log,
//     whatever it contains; net/http itself answers what it cannot parse, and
//     OPTIONS * unless it is [Gateway.Server] that serves.
//   - After a request nothing of it is left but idle connections, not even of
//     what middleware has left behind.
//
// Not guaranteed: that an upstream answers once it has begun. Timeout ends with its
// headers; a stream may go on for as long as something moves. What a target says
// unasked in the very moment of the next request cannot be told from its answer, in
// HTTP/1.1. The end of an answer that net/http has in its buffer, 4 KiB at most, waits
// for its client without a bound. A large body to a target that answers early and
// closes at once, without reading the rest, may count against it. The target of a
// breaker with SlowCall is blamed for clients that upload slowly. Two gateways do not
// know of each other: each checks, ejects and balances by what it has seen itself. A
// [Hash] keeps a key at its target only while that is well. Ejection judges by the
// headers of an answer, not by its body.
//
// # Defaults
//
// 30 seconds until the upstream's headers: more than any sensible answer takes, less
// than most clients wait. 5 minutes of silence, which is what other gateways grant a
// stream. 10 MiB of request body, 8 KiB of path and query, 128 header fields of 64 KiB
// in all: what servers behind the gateway accept by themselves. 256 idle connections a
// target, and as many for plain requests (see [Upstream.MaxIdle]), instead of the 2 of
// [http.Transport], because dialling anew triples the cost of a request. 64 KiB of a
// body are kept for another attempt, and only where the method or an Idempotency-Key
// permits one. 128 KiB bound the headers of an upstream, twice what a client may send,
// since some repeat it; 64 KiB the answer to a check. An upstream has 1000 targets at
// most. 32 proxies are seen through. No proxy is trusted, since an address can be
// anybody's; X-User, X-User-*, X-Auth-*, X-Authenticated-*, X-Remote-User and
// Remote-User name a user, since services take their word: an authenticator that reads
// X-Auth-Token from the client needs IdentityHeaders without it.
//
// Checks each 10 seconds, of 2 seconds at most, three to fall and two to rise: half a
// minute until a target is taken out that answers wrongly without failing requests.
// Those that do fail eject it after five in a row, for 30 seconds, then twice as long
// each time, and never more than half of the targets: the defaults of Envoy.
//
// # Composition
//
// Put tracing around the gateway, so that it sees every answer, and its transport
// into Wrap, so that it sees every attempt; r.Pattern names the route to both. Use
// is the place for authentication and limits of one route. A bulkhead in Wrap bounds
// the requests to an upstream, one in Use those of a route. Retry in the gateway or
// in the services behind it, not in both. To end, Shutdown the [http.Server], then
// Close the gateway, and end the context of Run.
//
// # Errors
//
// Build returns one error. What the gateway answers itself is of type
// application/problem+json (RFC 9457) and repeats nothing of the request:
//
//	400  the path, query, host or body framing is malformed or ambiguous, or a
//	     field or parameter that routes ask for stands twice
//	404  no route leads there
//	405  the path has other methods; Allow lists them
//	408  the body did not arrive within Timeout, IdleTimeout or AttemptTimeout
//	413  the body exceeds the route's MaxBody
//	414  path and query are longer than 8 KiB
//	431  the header has more than 128 fields or 64 KiB, or more than an HTTP/2 target
//	     has announced that it takes
//	499  the client left first; it gets no body
//	501  the method is not a plausible one, or CONNECT or TRACE
//	502  the upstream could not be reached or broke the protocol
//	503  every breaker is open, no target is known, or none healthy where
//	     RefuseUnhealthy is set; Wrap rejected the call; the gateway is about to end
//	     and begins no tunnel. With Retry-After
//	504  the upstream did not answer in time
//
// A Fallback takes the place of the last three.
//
// # Concurrency
//
// A Gateway is safe for concurrent use; a Builder is not. The gateway starts no
// goroutines but those of its connections, which [Gateway.CloseIdleConnections]
// ends where they are idle, and those of Run, which have ended when it returns. To
// choose a target takes no lock that two requests share, save while targets fail.
package gateway
