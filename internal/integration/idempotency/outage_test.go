//go:build unix

package idempotency

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/redisstore"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// newNode starts a server of the test's own, where the run has such a server.
func newNode(t *testing.T, s services.Service) *services.Node {
	t.Helper()
	need.Address(t, s)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // for PostgreSQL, which runs as another user than root
		t.Fatal(err)
	}
	n, err := s.Start(t.Context(), dir)
	if err != nil {
		// Such as a server in a container, whose program is not installed.
		need.Missing(t, s, "the test needs a server of its own: "+err.Error())
	}
	t.Cleanup(func() {
		if err := n.Kill(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// restart is a crash of the server and its return.
func restart(t *testing.T, n *services.Node) {
	t.Helper()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantUnavailable sends the request of key, which must be refused with the time to
// come back, and without an effect. The effects are looked at by the caller where
// the database is down.
func (f *fleet) wantUnavailable(t *testing.T, key string) {
	t.Helper()
	if a := f.processes[0].send(t.Context(), key, ""); a.status != http.StatusServiceUnavailable || a.done(key) {
		t.Errorf("the answer without the store = %v, want 503", a)
	} else if f.config.Mode != inTx && a.retryAfter != "1" {
		t.Errorf("Retry-After = %q, want 1", a.retryAfter)
	}
}

func TestARestartOfRedisWithoutPersistenceForgetsTheKeyAndAnAppendOnlyFileKeepsIt(t *testing.T) {
	for name, c := range map[string]struct {
		server  services.Service
		effects int
	}{
		"without persistence": {services.Redis(), 2}, // as redisstore's doc says
		"appendfsync always":  {services.DurableRedis(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, c.server)
			f := newFleet(t, serviceConfig{Mode: leaseRedis, Redis: n.URL()})
			f.wantPlaced(t, "a", 1)
			restart(t, n)
			f.wantPlaced(t, "a", c.effects)
		})
	}
}

func TestWithRedisDownOrHungAtTheClaimNothingRuns(t *testing.T) {
	n := newNode(t, services.Redis())
	f := newFleet(t, serviceConfig{Mode: leaseRedis, Redis: n.URL(), StoreTimeout: time.Second})
	f.wantPlaced(t, "a", 1)

	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	f.wantUnavailable(t, "b")
	f.wantEffects(t, "b", 0)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wantPlaced(t, "b", 1)

	hang(t, n, 3*time.Second)
	f.wantUnavailable(t, "c")
	f.wantEffects(t, "c", 0)
	f.wantPlaced(t, "c", 1)
}

func TestARedisThatIsFullRefusesNewClaimsAndLetsThoseThatAreHeldGoOnToTheirEnd(t *testing.T) {
	n := newNode(t, services.Redis())
	client := redis.NewClient(&redis.Options{Addr: n.URL()})
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, claim := t.Context(), func(id byte) idempotency.Claim {
		return idempotency.Claim{ID: idempotency.ID{id}, Lease: time.Minute, TTL: time.Hour}
	}
	var tokens [2]int64
	for i := range tokens {
		out, err := store.Acquire(ctx, claim(byte(i)))
		if err != nil {
			t.Fatal(err)
		}
		tokens[i] = out.Token
	}
	if err := client.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if out, err := store.Acquire(ctx, claim(9)); err == nil {
		t.Errorf("Acquire() of a new key = %+v, want an error", out)
	}
	for i := range tokens {
		if err := store.Extend(ctx, claim(byte(i)).ID, tokens[i], time.Minute); err != nil {
			t.Errorf("Extend() = %v", err)
		}
	}
	if err := store.Complete(ctx, claim(0).ID, tokens[0], idempotency.Result{Data: []byte("1")}, time.Hour); err != nil {
		t.Errorf("Complete() = %v", err)
	}
	if err := store.Release(ctx, claim(1).ID, tokens[1]); err != nil {
		t.Errorf("Release() = %v", err)
	}
	if out, err := store.Acquire(ctx, claim(0)); err != nil || out.Status != idempotency.Completed || string(out.Result.Data) != "1" {
		t.Errorf("Acquire() of a completed record = %+v, %v, want its result", out, err)
	}
}

// hang has the server take requests and answer none.
func hang(t *testing.T, n *services.Node, d time.Duration) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: n.URL()})
	defer c.Close()
	if err := c.Do(t.Context(), "CLIENT", "PAUSE", d.Milliseconds(), "ALL").Err(); err != nil {
		t.Fatal(err)
	}
}

// The effect is there and its record is not: the client gets the real answer, and
// who repeats the request after the lease has it run again. That is the bound of a
// lease, and what the transactional modes are for.
func TestWithRedisDownOrHungAtTheRecordTheClientGetsTheRealAnswer(t *testing.T) {
	for name, outage := range map[string]func(t *testing.T, n *services.Node){
		"down": func(t *testing.T, n *services.Node) {
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
		},
		"hung": func(t *testing.T, n *services.Node) { hang(t, n, 3*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, services.DurableRedis())
			f := newFleet(t, serviceConfig{Mode: leaseRedis, Redis: n.URL(), StoreTimeout: time.Second, Lease: 5 * time.Second})
			g := newGate(t)
			first := make(chan answer, 1)
			go func() { first <- f.processes[0].send(t.Context(), "a", g.at(after)) }()
			g.await(t, first)
			outage(t, n)
			g.open()
			if a := <-first; !a.done("a") {
				t.Errorf("the answer = %v, want the handler's", a)
			}
			f.wantEffects(t, "a", 1)
			if name == "down" {
				if err := n.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			f.wantPlaced(t, "a", 2)
		})
	}
}

func TestWithPostgreSQLDownNothingRunsAndNothingHalfHappens(t *testing.T) {
	for _, m := range []mode{leaseSQL, completeTx, inTx} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, services.Postgres())
			f := newFleet(t, serviceConfig{Mode: m, Postgres: n.URL(), Lease: time.Second})
			f.wantPlaced(t, "a", 1)

			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			f.wantUnavailable(t, "b")
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			awaitDatabase(t, f.DB)
			f.wantEffects(t, "b", 0)
			f.wantPlaced(t, "a", 1) // from before the crash
			f.wantPlaced(t, "b", 1)

			// Now it dies while the handler runs, with the effect made.
			g := newGate(t)
			first := make(chan answer, 1)
			go func() { first <- f.processes[0].send(t.Context(), "c", g.at(after)) }()
			g.await(t, first)
			restart(t, n)
			awaitDatabase(t, f.DB)
			g.open()
			a := <-first
			effects := f.effects(t, "c")
			t.Logf("the answer was %v, with %d effects", a, effects)
			if m == leaseSQL {
				// The effect was committed, and the record is made over a new connection.
				if !a.done("c") || effects != 1 {
					t.Errorf("the answer = %v with %d effects, want 201 with 1", a, effects)
				}
			} else if a.status != http.StatusServiceUnavailable || effects != 0 {
				t.Errorf("the answer = %v with %d effects, want 503 with none", a, effects)
			}
			f.wantPlaced(t, "c", 1)
		})
	}
}

// awaitDatabase waits until a connection of the pool works again.
func awaitDatabase(t *testing.T, db *sql.DB) {
	t.Helper()
	eventually(t, "the database's return", func() bool { return db.PingContext(t.Context()) == nil })
}
