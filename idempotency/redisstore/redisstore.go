package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-go/parley/idempotency"
)

// Config says where the records are. The zero Config is ready to use.
type Config struct {
	// Prefix is what the names of all keys begin with. It has no braces, which
	// would move all records into one slot of a cluster. Default "idempotency:".
	Prefix string
}

const defaultPrefix = "idempotency:"

// Store is an [idempotency.Store] in Redis. It is safe for concurrent use.
type Store struct {
	client redis.UniversalClient
	prefix string
	scripts
}

// New returns a Store whose records are in the Redis of client, or an error that
// lists every fault of the config. It does not ask Redis. The caller closes the
// client.
func New(client redis.UniversalClient, config Config) (*Store, error) {
	var faults []string
	if client == nil {
		faults = append(faults, "the client is nil")
	}
	if strings.ContainsAny(config.Prefix, "{}") {
		faults = append(faults, fmt.Sprintf("the Prefix %q has braces", config.Prefix))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("redisstore: config: %s", strings.Join(faults, "; "))
	}
	if config.Prefix == "" {
		config.Prefix = defaultPrefix
	}
	return &Store{client: client, prefix: config.Prefix, scripts: newScripts()}, nil
}

// Acquire implements [idempotency.Store], in one round trip.
func (s *Store) Acquire(ctx context.Context, c idempotency.Claim) (idempotency.Outcome, error) {
	if c.Lease <= 0 || c.TTL <= 0 {
		return idempotency.Outcome{}, fmt.Errorf("redisstore: the lease %v or the TTL %v is not positive", c.Lease, c.TTL)
	}
	// The client sends a script again when the connection breaks before the
	// answer. By this the script knows its own claim.
	var call [8]byte
	_, _ = rand.Read(call[:]) // never fails since Go 1.24
	record, group := s.keys(c.ID)
	reply, err := s.run(ctx, s.acquire, "acquire", []string{record, group},
		c.Fingerprint[:], micros(c.Lease), millis(max(c.Lease, c.TTL)), call[:]).Slice()
	if err != nil {
		return idempotency.Outcome{}, wrap("acquire", err)
	}
	return outcome(reply)
}

// outcome reads the reply of the acquire script: the status, then what belongs to
// it.
func outcome(reply []any) (out idempotency.Outcome, err error) {
	number := func(i int) int64 {
		if i < len(reply) {
			if n, ok := reply[i].(int64); ok {
				return n
			}
		}
		err = errReply
		return 0
	}
	switch out.Status = idempotency.Status(number(0)); out.Status {
	case idempotency.Acquired:
		out.Token, out.Attempt, out.TakenOver = number(1), int(number(2)), number(3) == 1
	case idempotency.Busy:
		out.LeaseLeft = time.Duration(number(1)) * time.Microsecond
	case idempotency.Mismatch:
	case idempotency.Completed:
		out.Result.NotStored = number(1) == 1
		if !out.Result.NotStored && len(reply) > 2 {
			data, ok := reply[2].(string)
			if out.Result.Data = []byte(data); !ok {
				err = errReply
			}
		}
	default:
		err = errReply
	}
	if err != nil {
		return idempotency.Outcome{}, err
	}
	return out, nil
}

// errReply means that another program, or a later version, wrote the record.
const errReply = replyError("redisstore: acquire: the reply is none of this version's: another program uses these keys")

// replyError is an error that is a constant.
type replyError string

func (r replyError) Error() string { return string(r) }

// Complete implements [idempotency.Store], in one round trip.
func (s *Store) Complete(ctx context.Context, id idempotency.ID, token int64, r idempotency.Result, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("redisstore: the TTL %v is not positive", ttl)
	}
	state := completed
	if r.NotStored {
		state, r.Data = notStored, nil
	}
	return s.step(ctx, s.complete, "complete", id, token, state, r.Data, millis(ttl))
}

// Release implements [idempotency.Store], in one round trip.
func (s *Store) Release(ctx context.Context, id idempotency.ID, token int64) error {
	return s.step(ctx, s.release, "release", id, token)
}

// Extend implements [idempotency.Store], in one round trip.
func (s *Store) Extend(ctx context.Context, id idempotency.ID, token int64, lease time.Duration) error {
	if lease <= 0 {
		return fmt.Errorf("redisstore: the lease %v is not positive", lease)
	}
	return s.step(ctx, s.extend, "extend", id, token, micros(lease), millis(lease))
}

// step runs a script that only has an effect with the token of the record.
func (s *Store) step(ctx context.Context, script *redis.Script, what string, id idempotency.ID, token int64, args ...any) error {
	record, _ := s.keys(id)
	done, err := s.run(ctx, script, what, []string{record}, append([]any{token}, args...)...).Int()
	switch {
	case err != nil:
		return wrap(what, err)
	case done == 0:
		return idempotency.ErrFenced
	}
	return nil
}

// run sends a script, unless ctx has ended.
func (s *Store) run(ctx context.Context, script *redis.Script, what string, keys []string, args ...any) *redis.Cmd {
	if ctx.Err() != nil {
		cmd := redis.NewCmd(ctx, what)
		cmd.SetErr(context.Cause(ctx))
		return cmd
	}
	return script.Run(ctx, s.client, keys, args...)
}

// keys returns the names of a record and of its group's last token.
func (s *Store) keys(id idempotency.ID) (record, group string) {
	name := hex.EncodeToString(id[:])
	group = s.prefix + "{" + name[:2] + "}"
	return group + name[2:], group
}

// micros is the unit of leases, rounded up.
func micros(d time.Duration) int64 { return units(d, time.Microsecond) }

// millis is the unit of expiries. Redis counts them from the beginning of a
// millisecond, so that one more is needed for a TTL to be whole.
func millis(d time.Duration) int64 { return units(d, time.Millisecond) + 1 }

func units(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

func wrap(what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err // the caller's, as it is
	}
	return fmt.Errorf("redisstore: %s: %w", what, err)
}
