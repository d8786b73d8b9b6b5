// Package sqlstore keeps the records of package idempotency in PostgreSQL or
// SQLite, and can put effect and record into one transaction, so that not even a
// crash between the two has the work done twice.
//
//	db, err := sql.Open("pgx", url) // any driver; this package imports none
//	store, err := sqlstore.New(db, sqlstore.Config{Dialect: sqlstore.PostgreSQL})
//	guard, err := idempotency.New(store, idempotency.Config{})
//
//	receipt, replayed, err := sqlstore.InTx(ctx, store, idempotency.Key{Scope: "charge", ID: orderID},
//		func(ctx context.Context, tx *sql.Tx) (Receipt, error) { return charge(ctx, tx, order) })
//
// # How it works
//
// There are three ways to use the records, and a crash tells them apart:
//
//	              effect and record     a crash between them     a second call meanwhile
//	Guard alone   one after the other   the work runs again      busy for the rest of the lease
//	CompleteTx    in one transaction    nothing has happened     busy for the rest of the lease
//	InTx          in one transaction    nothing has happened     busy; after a crash it runs at once
//
// With a [idempotency.Guard] alone the effect may be anywhere. [Store.CompleteTx]
// is called by the work of a Guard inside the transaction that has its effect: it
// is the way for HTTP handlers, and for work that calls other services before its
// transaction begins. [InTx] holds a transaction for as long as the work runs,
// and needs neither a lease nor its end.
//
// A claim on PostgreSQL is one statement. It never waits for a transaction that
// another call with the key has open, as INSERT … ON CONFLICT alone would: it
// first tries an advisory lock that belongs to the key, which InTx and CompleteTx
// hold until their transaction ends. (PostgreSQL manual, "Explicit Locking".)
// A replay writes nothing and takes no lock. The lock's number is made of the
// table's and of 64 bits of the record's ID; if another part of the service happens
// to hold the same, the key is busy for as long.
//
// Leases and TTLs are measured by the database's clock. Tokens come from a
// sequence, in SQLite from a row that a trigger keeps, so that they rise beyond
// the end of a record.
//
// # Guarantees
//
//   - A Store keeps the promises of [idempotency.Store]; its records survive
//     restarts of the service and of the database.
//   - With InTx and CompleteTx effect and record happen both or not at all,
//     whenever the process, the connection or the database dies.
//   - An owner that was overtaken cannot complete inside its transaction, which
//     it then rolls back.
//   - On PostgreSQL no claim waits for the transaction of another call with its key.
//   - No time of this process reaches the database.
//   - Sweep deletes expired records only, no more than it is told, and on
//     PostgreSQL it does not wait for records in use.
//
// Not guaranteed: what PostgreSQL loses when it fails over to a replica that
// lags, or confirms before it writes (synchronous_commit = off). A SQLite
// database has one writer at a time: there InTx waits for all other writers, for
// up to the connection's busy_timeout. An owner that an InTx has overtaken may wait
// for its end when it completes or releases, for up to the Guard's StoreTimeout.
//
// # Defaults
//
// The table is "idempotency". Records of InTx are kept for 24 hours, as a Guard's
// are. Nothing deletes what has expired but [Store.Sweep], which a job of the
// service calls; an expired record is as good as none until then.
//
// # Composition
//
// [Migrations] prints the schema, for the tool that the service migrates with.
// PostgreSQL must be 12 or newer and SQLite 3.42; for SQLite, journal_mode=WAL and
// a busy_timeout of some seconds belong into the connection string.
//
// The heartbeat of a Guard, and the end of its work, take a connection each for a
// moment. Where every connection of the pool can be held by a transaction of a
// handler, give the Store a pool of its own; CompleteTx takes any transaction of
// the same database.
//
// # Errors
//
// InTx returns the work's error as it is, and what kept the work from running as
// a [idempotency.Reason], as [idempotency.Value] does. Errors of the database are
// wrapped.
//
// # Concurrency
//
// A Store is safe for concurrent use and starts no goroutine.
package sqlstore
