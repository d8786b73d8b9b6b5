package sqlstore

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/parley-go/parley/idempotency"
)

// Config says where the records are.
type Config struct {
	// Dialect is the kind of the database. Required.
	Dialect Dialect

	// Table is the name of the table, with or without that of a schema before it:
	// one or two words of lower-case letters, digits and underscores, of up to 50
	// characters. Default "idempotency".
	Table string

	// TTL is how long [InTx] has a key remembered after its work has been done; a
	// Guard has a TTL of its own. Default 24h. Negative is an error.
	TTL time.Duration

	// OnOutcome, if set, is called at the end of each call of InTx, with Kind
	// "tx"; a Guard has one of its own. It must be quick and may be called by
	// several goroutines. Default: none.
	OnOutcome func(context.Context, idempotency.Event)
}

const (
	defaultTable = "idempotency"
	defaultTTL   = 24 * time.Hour
)

// Store is an [idempotency.Store] in a table of a database. It is safe for
// concurrent use.
type Store struct {
	db     *sql.DB
	config Config
	dialect
}

// New returns a Store whose records are in db, or an error that lists every fault
// of the config. It does not ask the database; the table must be there before the
// first call: see [Migrations]. The caller closes db.
func New(db *sql.DB, config Config) (*Store, error) {
	faults := config.faults()
	if db == nil {
		faults = append([]string{"the database is nil"}, faults...)
	}
	if config.TTL < 0 {
		faults = append(faults, fmt.Sprintf("TTL %v is negative", config.TTL))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("sqlstore: config: %s", strings.Join(faults, "; "))
	}
	if config.TTL == 0 {
		config.TTL = defaultTTL
	}
	return &Store{db: db, config: config, dialect: config.dialect()}, nil
}

// querier is what a database and a transaction have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Acquire implements [idempotency.Store]: on PostgreSQL in one statement, whatever
// the answer. Where the transaction of [InTx] or [Store.CompleteTx] is open, the
// answer is Busy with a LeaseLeft of a second.
func (s *Store) Acquire(ctx context.Context, c idempotency.Claim) (idempotency.Outcome, error) {
	return s.acquire(ctx, s.db, s.ask, c)
}

// hidden is for how long a claim is called busy whose transaction is open, so
// that its lease cannot be seen.
const hidden = time.Second

func (s *Store) acquire(ctx context.Context, q querier, ask []query, c idempotency.Claim) (idempotency.Outcome, error) {
	if ctx.Err() != nil {
		return idempotency.Outcome{}, context.Cause(ctx)
	}
	if c.Lease <= 0 || c.TTL <= 0 {
		return idempotency.Outcome{}, fmt.Errorf("sqlstore: the lease %v or the TTL %v is not positive", c.Lease, c.TTL)
	}
	busy := idempotency.Outcome{Status: idempotency.Busy, LeaseLeft: hidden}
	args := []any{c.ID[:], c.Fingerprint[:], s.ticks(c.Lease), s.ticks(c.TTL), lockNumber(c.ID)}
	// An answer is missing where the record changed between the look at it and
	// the attempt to take it. Each time that happens another call got on.
	for range 10 {
		for _, a := range ask {
			out, err := s.scan(q.QueryRowContext(ctx, a.text, args[:a.args]...))
			switch {
			case isConflict(err):
				return busy, nil
			case !errors.Is(err, sql.ErrNoRows):
				return out, err
			}
		}
	}
	return busy, nil
}

// isConflict reports whether another call got on where transactions are by default
// REPEATABLE READ or SERIALIZABLE: there the database says so by an error, and a
// transaction can ask no more. The drivers of PostgreSQL agree on the method.
func isConflict(err error) bool {
	state, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err)
	return ok && state.SQLState() == "40001" // serialization_failure
}

func (s *Store) scan(row *sql.Row) (out idempotency.Outcome, err error) {
	var left int64
	err = row.Scan(&out.Status, &out.Token, &out.Attempt, &out.TakenOver, &left, &out.Result.NotStored, &out.Result.Data)
	if err != nil {
		return idempotency.Outcome{}, wrap("acquire", err)
	}
	if out.Status == idempotency.Busy {
		left = min(left, int64(math.MaxInt64/s.tick)) // the longest lease was rounded up
		if out.LeaseLeft = time.Duration(left) * s.tick; left <= 0 {
			out.LeaseLeft = hidden
		}
	}
	return out, nil
}

// Complete implements [idempotency.Store].
func (s *Store) Complete(ctx context.Context, id idempotency.ID, token int64, r idempotency.Result, ttl time.Duration) error {
	return s.finish(ctx, s.db, s.complete, id, token, r, ttl)
}

func (s *Store) finish(ctx context.Context, q querier, statement query, id idempotency.ID, token int64, r idempotency.Result, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("sqlstore: the TTL %v is not positive", ttl)
	}
	state, kept := completed, []int{completed}
	if r.NotStored {
		state = notStored
		r.Data = nil
	}
	args := []any{id[:], token, state, r.Data, s.ticks(ttl), lockNumber(id)}
	return s.step(ctx, q, "complete", statement.text, args[:statement.args], id, token, kept...)
}

// Release implements [idempotency.Store].
func (s *Store) Release(ctx context.Context, id idempotency.ID, token int64) error {
	return s.step(ctx, s.db, "release", s.release, []any{id[:], token}, id, token)
}

// Extend implements [idempotency.Store].
func (s *Store) Extend(ctx context.Context, id idempotency.ID, token int64, lease time.Duration) error {
	if lease <= 0 {
		return fmt.Errorf("sqlstore: the lease %v is not positive", lease)
	}
	return s.step(ctx, s.db, "extend", s.extend, []any{id[:], token, s.ticks(lease)}, id, token, completed, notStored)
}

// step makes a change that only the owner of the record may make. Where it changes
// nothing, the owner is fenced, unless the record is in one of the states that
// are as good.
func (s *Store) step(ctx context.Context, q querier, what, statement string, args []any, id idempotency.ID, token int64, asGood ...int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	result, err := q.ExecContext(ctx, statement, args...)
	if err != nil {
		return wrap(what, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return wrap(what, err)
	}
	if n > 0 {
		return nil
	}
	if len(asGood) == 0 {
		return idempotency.ErrFenced
	}
	var state int
	switch err := q.QueryRowContext(ctx, s.state, id[:], token).Scan(&state); {
	case errors.Is(err, sql.ErrNoRows):
		return idempotency.ErrFenced
	case err != nil:
		return wrap(what, err)
	}
	for _, good := range asGood {
		if state == good {
			return nil
		}
	}
	return idempotency.ErrFenced
}

// Sweep deletes up to limit records that have expired, the oldest first, and
// returns how many. It is for a job of the service, every minute or so, that
// calls it until it returns less than limit; 1,000 is a good limit. On PostgreSQL
// it leaves out records that other transactions are working on. Several may run
// at one time. A limit that is not positive is an error.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		return 0, fmt.Errorf("sqlstore: the limit %d of a sweep is not positive", limit)
	}
	result, err := s.db.ExecContext(ctx, s.sweep, limit)
	if err != nil {
		return 0, wrap("sweep", err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, wrap("sweep", err)
	}
	return int(n), nil
}

// ticks returns d in the unit of the database's clock, rounded up.
func (s *Store) ticks(d time.Duration) int64 {
	n := int64(d / s.tick)
	if d%s.tick > 0 {
		n++
	}
	return n
}

// lockNumber returns the key's part of the number of its advisory lock.
func lockNumber(id idempotency.ID) int64 { return int64(binary.BigEndian.Uint64(id[:8])) }

func wrap(what string, err error) error {
	return fmt.Errorf("sqlstore: %s: %w", what, err)
}
