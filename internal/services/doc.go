// Package services keeps the tests that need a real server from depending on
// what happens to run on a machine. It finds or starts RabbitMQ, Redis,
// PostgreSQL, Jaeger, Zipkin, Kafka and ElasticMQ, tells the tests where they are,
// and stops what it started. It belongs to this repository's tests; no package of
// the library imports it.
//
//	node, err := services.RabbitMQ().Start(ctx, t.TempDir())
//	...                        // publish to node.URL()
//	err = node.Kill()          // the broker is gone in the middle of it
//	err = node.Start(ctx)      // and back: same port, same data
//	err = node.Stop(ctx)
//
// The command in the directory run does the same around a command line, which
// is how `make test` and `make services` use it.
//
// # How it works
//
// [Run] comes by each service in the first of these ways that works:
//
//  1. its environment variable is set already
//  2. a server answers at its usual port on loopback, with its usual login
//  3. a Docker engine runs: compose.yaml of internal/integration, through
//     docker compose
//  4. its program is installed, or can be, since we are root on Debian, or its
//     source or its Java archives can be had: it is run on a free port with a data
//     directory of its own
//
// and otherwise says why each of them failed. A Python client that tests drive
// against a server that was come by is installed likewise. Three variables steer it:
//
//	PARLEY_SERVICES  which to look for: names with commas between, all, or none.
//	                 Default all.
//	PARLEY_REQUIRE   which must be there: names with commas between, all, or
//	                 none. Default none.
//	the Variable of a Service
//	                 where that server is; then nothing is looked for.
//
// # Guarantees
//
//   - A service is ready when it has answered in its own protocol, login
//     included; an open port is not enough.
//   - Every wait has a cap. What ends it early is told with the last lines of
//     the server's log.
//   - A required service that cannot be had ends Run before the tests start.
//   - What was started is stopped, and only that; a stop returns when the
//     processes are gone, not when they were told to go.
//   - Servers listen on loopback only.
//   - On Linux the servers end with the program that started them, even when it
//     is killed with SIGKILL. Their directories then stay behind, and so do
//     containers, all with names that begin with "parley-".
//   - Installing packages starts no system service.
//
// Not guaranteed: that a server which is reused holds no data, or that it is not
// used by somebody else meanwhile. Packages that were installed stay installed, and
// what was built or downloaded stays in the user's cache directory, for the next
// time, as parley-services.
//
// # Adding a service
//
// Write a file like redis.go, and add a line to [All] and an entry to
// compose.yaml.
//
// # Errors
//
// An error is one line, which says what was tried and why it failed, followed by
// the end of the server's log where there is one.
//
// # Concurrency
//
// Services are obtained in parallel. A [Node] is for one goroutine at a time.
package services
