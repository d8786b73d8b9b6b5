package redisstore_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/idempotencytest"
	"github.com/parley-go/parley/idempotency/redisstore"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// newClient returns a client of the server that is handed over.
func newClient(t testing.TB) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: need.Address(t, services.Redis()), ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// newStore returns a Store with keys of its own, which go at the end.
func newStore(t testing.TB, c *redis.Client) (s *redisstore.Store, prefix string) {
	t.Helper()
	prefix = "idem-" + rand.Text() + ":"
	s, err := redisstore.New(c, redisstore.Config{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for it := c.Scan(ctx, 0, prefix+"*", 1000).Iterator(); it.Next(ctx); {
			c.Del(ctx, it.Val())
		}
	})
	return s, prefix
}

func newClaim() idempotency.Claim {
	c := idempotency.Claim{Lease: time.Minute, TTL: time.Hour}
	_, _ = rand.Read(c.ID[:])
	return c
}

// own acquires c, which must succeed.
func own(t testing.TB, s *redisstore.Store, c idempotency.Claim) idempotency.Outcome {
	t.Helper()
	out, err := s.Acquire(t.Context(), c)
	if err != nil || out.Status != idempotency.Acquired {
		t.Fatalf("Acquire() = %+v, %v, want it acquired", out, err)
	}
	return out
}

func TestStoreKeepsThePromisesOfAStore(t *testing.T) {
	s, _ := newStore(t, newClient(t))
	idempotencytest.Run(t, func(*testing.T) idempotency.Store { return s })
}

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := redisstore.New(nil, redisstore.Config{Prefix: "{all}"})
	want := `redisstore: config: the client is nil; the Prefix "{all}" has braces`
	if err == nil || err.Error() != want {
		t.Errorf("New() = %v\nwant %s", err, want)
	}
}

// trips counts the round trips of a client.
type trips struct{ n atomic.Int32 }

func (*trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.n.Add(1)
		return next(ctx, cmd)
	}
}

func (h *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.n.Add(1)
		return next(ctx, cmds)
	}
}

func TestAFirstCallTakesTwoRoundTripsAndAReplayOne(t *testing.T) {
	c := newClient(t)
	s, _ := newStore(t, c)
	g, err := idempotency.New(s, idempotency.Config{})
	if err != nil {
		t.Fatal(err)
	}
	call := func(key string) {
		_, _, err := idempotency.Value(t.Context(), g, idempotency.Key{Scope: "trips", ID: key}, func(context.Context) (int, error) { return 1, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	call("the first one loads the scripts")
	h := new(trips)
	c.AddHook(h)
	for i, want := range []int32{2, 1, 1} {
		h.n.Store(0)
		if call("key"); h.n.Load() != want {
			t.Errorf("call %d took %d round trips, want %d", i, h.n.Load(), want)
		}
	}
}

func TestScriptsThatTheServerHasForgottenAreSentAgain(t *testing.T) {
	c := newClient(t)
	s, _ := newStore(t, c)
	claim := newClaim()
	out := own(t, s, claim)
	// Each script comes after a flush, as after a restart of the server.
	for _, step := range []func() error{
		func() error { return s.Extend(t.Context(), claim.ID, out.Token, time.Minute) },
		func() error { return s.Release(t.Context(), claim.ID, out.Token) },
		func() error { out = own(t, s, claim); return nil },
		func() error { return s.Complete(t.Context(), claim.ID, out.Token, idempotency.Result{}, time.Hour) },
	} {
		if err := c.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := step(); err != nil {
			t.Errorf("a step after the flush = %v, want no error", err)
		}
	}
}

// deaf is a connection that takes the next reply from the network, once armed, and
// breaks instead of handing it on.
type deaf struct {
	net.Conn
	armed *atomic.Bool
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if err == nil && d.armed.CompareAndSwap(true, false) {
		_ = d.Close()
		return 0, io.EOF
	}
	return n, err
}

func TestAClaimWhoseAnswerIsLostIsTheSameClaimWhenTheClientSendsItAgain(t *testing.T) {
	armed := new(atomic.Bool)
	c := redis.NewClient(&redis.Options{
		Addr:     need.Address(t, services.Redis()),
		PoolSize: 1,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &deaf{conn, armed}, err
		},
	})
	defer c.Close()
	s, _ := newStore(t, c)
	own(t, s, newClaim()) // loads the script
	claim := newClaim()
	armed.Store(true)
	out := own(t, s, claim)
	if armed.Load() {
		t.Fatal("no answer was lost")
	}
	if out.Attempt != 1 || out.TakenOver {
		t.Errorf("Acquire() = %+v, want the first attempt", out)
	}
	if again, err := s.Acquire(t.Context(), claim); err != nil || again.Status != idempotency.Busy {
		t.Errorf("Acquire() of another call = %+v, %v, want busy", again, err)
	}
	armed.Store(true)
	if err := s.Complete(t.Context(), claim.ID, out.Token, idempotency.Result{Data: []byte("1")}, time.Hour); err != nil || armed.Load() {
		t.Errorf("Complete() whose answer is lost = %v, want no error", err)
	}
}

func TestTokensRiseWhenTheClockIsSetBack(t *testing.T) {
	c := newClient(t)
	s, prefix := newStore(t, c)
	claim := newClaim()
	// The group remembers a token of next year, as if the clock had been there.
	future := time.Now().AddDate(1, 0, 0).UnixMicro()
	group := prefix + "{" + hex.EncodeToString(claim.ID[:1]) + "}"
	if err := c.Set(t.Context(), group, future, 0).Err(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		out := own(t, s, claim)
		if out.Token != future+1+i {
			t.Errorf("token = %d, want %d", out.Token, future+1+i)
		}
		if err := s.Release(t.Context(), claim.ID, out.Token); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTokensRiseAfterTheLossOfAllData(t *testing.T) {
	c := newClient(t)
	s, prefix := newStore(t, c)
	claim := newClaim()
	before := own(t, s, claim)
	keys, err := c.Keys(t.Context(), prefix+"*").Result()
	if err != nil || len(keys) != 2 {
		t.Fatalf("keys = %v, %v, want the record and its group", keys, err)
	}
	if err := c.Del(t.Context(), keys...).Err(); err != nil {
		t.Fatal(err)
	}
	if after := own(t, s, claim); after.Token <= before.Token {
		t.Errorf("token = %d after %d, want a larger one", after.Token, before.Token)
	}
}

func TestNoTimeOfThisProcessReachesRedisAndNoKeyOutlivesItsTTL(t *testing.T) {
	c := newClient(t)
	s, prefix := newStore(t, c)
	claim := newClaim()
	var mu sync.Mutex
	var args []any
	c.AddHook(watch(func(cmd redis.Cmder) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(cmd.Name(), "eval") {
			args = append(args, cmd.Args()[3:]...) // without the command, the script and the number of keys
		}
	}))
	out := own(t, s, claim)
	err := errors.Join(
		s.Extend(t.Context(), claim.ID, out.Token, claim.Lease),
		s.Complete(t.Context(), claim.ID, out.Token, idempotency.Result{}, claim.TTL))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range args {
		if n, ok := a.(int64); ok && n != out.Token && n > claim.TTL.Microseconds() {
			t.Errorf("the argument %d is more than the TTL", n)
		}
	}
	record := prefix + "{" + hex.EncodeToString(claim.ID[:1]) + "}" + hex.EncodeToString(claim.ID[1:])
	if ttl, err := c.PTTL(t.Context(), record).Result(); err != nil || ttl <= 0 || ttl > claim.TTL+2*time.Millisecond {
		t.Errorf("the record lives for %v, %v, want up to %v", ttl, err, claim.TTL)
	}
}

// A script in a cluster may use keys of one slot only, which is that of what stands
// in braces.
func TestTheKeysOfAClaimAreInOneSlotOfACluster(t *testing.T) {
	c := newClient(t)
	s, prefix := newStore(t, c)
	var keys []string
	c.AddHook(watch(func(cmd redis.Cmder) {
		if strings.HasPrefix(cmd.Name(), "eval") {
			keys = []string{cmd.Args()[3].(string), cmd.Args()[4].(string)}
		}
	}))
	claim := newClaim()
	own(t, s, claim)
	tag := prefix + "{" + hex.EncodeToString(claim.ID[:1]) + "}"
	if len(keys) != 2 || keys[0] == keys[1] || !strings.HasPrefix(keys[0], tag) || !strings.HasPrefix(keys[1], tag) {
		t.Errorf("keys = %v, want two that begin with %s", keys, tag)
	}
}

// watch is a hook that sees each command.
type watch func(redis.Cmder)

func (watch) DialHook(next redis.DialHook) redis.DialHook { return next }
func (w watch) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w(cmd)
		return next(ctx, cmd)
	}
}

func (watch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestARecordOfAnotherProgramIsAnErrorAndNotAnAnswer(t *testing.T) {
	c := newClient(t)
	s, _ := newStore(t, c)
	for _, reply := range [][]any{{}, {"1"}, {int64(9)}, {int64(1)}, {int64(1), "x", int64(1), int64(0)}, {int64(2)}, {int64(3)}, {int64(3), int64(0), int64(5)}} {
		c.AddHook(answer{reply})
		out, err := s.Acquire(t.Context(), newClaim())
		if err == nil || out.Status != 0 || !strings.HasPrefix(err.Error(), "redisstore: acquire: ") {
			t.Errorf("Acquire() on the reply %v = %+v, %v, want an error", reply, out, err)
		}
	}
}

// answer is a hook that answers every command by itself.
type answer struct{ reply []any }

func (answer) DialHook(next redis.DialHook) redis.DialHook { return next }
func (a answer) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		if c, ok := cmd.(*redis.Cmd); ok {
			c.SetVal(a.reply)
		}
		return nil
	}
}

func (answer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestErrorsOfTheServerAreNotTakenForALostClaim(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1}) // nobody listens there
	defer c.Close()
	s, err := redisstore.New(c, redisstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var id idempotency.ID
	_, err = s.Acquire(t.Context(), newClaim())
	for what, err := range map[string]error{
		"acquire":  err,
		"complete": s.Complete(t.Context(), id, 1, idempotency.Result{}, time.Hour),
		"release":  s.Release(t.Context(), id, 1),
		"extend":   s.Extend(t.Context(), id, 1, time.Hour),
	} {
		if err == nil || errors.Is(err, idempotency.ErrFenced) || !strings.HasPrefix(err.Error(), "redisstore: "+what+": ") {
			t.Errorf("%s = %v, want the error of the client", what, err)
		}
	}
}
