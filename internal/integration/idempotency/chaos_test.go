//go:build unix

package idempotency

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// chaos is how much of it there is: the long form is asked for by
// PARLEY_CHAOS=long, the short one is part of every run.
type chaos struct {
	keys, sends int
	lasts       time.Duration // over which the sends are spread
}

func amount() chaos {
	if os.Getenv("PARLEY_CHAOS") == "long" {
		return chaos{keys: 1000, sends: 5, lasts: 30 * time.Second}
	}
	return chaos{keys: 200, sends: 5, lasts: 5 * time.Second}
}

// clients is how many requests are under way at one time.
const clients = 8

// pair is the two processes while one of them is killed again and again.
type pair struct {
	mu        sync.Mutex
	processes [2]*process // guarded by mu
}

func (p *pair) any() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.processes[rand.IntN(2)]
}

// Each key is sent several times, in random order and at once, to processes of
// which a random one dies every 200 ms. Each request is repeated until it is
// answered.
func TestThroughRandomKillsThereIsOneEffectAKeyInATransactionAndTheDocumentedBoundOtherwise(t *testing.T) {
	c := amount()
	for _, m := range []mode{inTx, completeTx, leaseRedis} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, serviceConfig{Mode: m, Lease: time.Second})
			p := &pair{processes: f.processes}

			var jobs []string
			for k := range c.keys {
				for range c.sends {
					jobs = append(jobs, fmt.Sprintf("key-%d", k))
				}
			}
			rand.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
			queue := make(chan string)
			var done, broken, busy atomic.Int64
			var all sync.WaitGroup
			for range clients {
				all.Go(func() {
					for key := range queue {
						for start := time.Now(); ; pause(t.Context(), 20*time.Millisecond) {
							a := p.any().send(t.Context(), key, after+"=take@20ms")
							if a.done(key) {
								done.Add(1)
								break
							}
							switch {
							case a.err != nil:
								broken.Add(1)
							case a.status == http.StatusConflict:
								busy.Add(1)
							case a.status != http.StatusServiceUnavailable:
								t.Errorf("%s was answered by %v", key, a)
							}
							if time.Since(start) > patience {
								t.Errorf("%s was not answered for %v; last by %v", key, patience, a)
								break
							}
						}
					}
				})
			}
			over := make(chan struct{})
			go func() {
				defer close(over)
				pace := time.NewTicker(c.lasts / time.Duration(len(jobs)))
				defer pace.Stop()
				for _, key := range jobs {
					<-pace.C
					queue <- key
				}
				close(queue)
				all.Wait()
			}()
			kills := 0
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for running := true; running; {
				select {
				case <-over:
					running = false
				case <-tick.C:
					i := rand.IntN(2)
					f.processes[i].kill() // nobody else writes these
					fresh := f.start(t)
					kills++
					f.processes[i] = fresh
					p.mu.Lock()
					p.processes[i] = fresh
					p.mu.Unlock()
				}
			}
			effects := f.count(t, "SELECT count(*) FROM "+f.orders)
			keys := f.count(t, "SELECT count(DISTINCT key) FROM "+f.orders)
			t.Logf("%d keys × %d sends, %d kills: %d effects; %d connections broke, %d answers were busy",
				c.keys, c.sends, kills, effects, broken.Load(), busy.Load())
			if kills == 0 || keys != c.keys || int(done.Load()) != len(jobs) {
				t.Errorf("%d kills, %d keys with an effect, %d sends answered, want some, %d, %d", kills, keys, done.Load(), c.keys, len(jobs))
			}
			switch {
			case f.transactional() && effects != c.keys:
				t.Errorf("effects = %d, want %d", effects, c.keys)
			case effects > c.keys+kills*clients:
				// At most what ran in a process that died may have run for nothing.
				t.Errorf("effects = %d, want at most %d and what ran at %d kills", effects, c.keys, kills)
			}
		})
	}
}
