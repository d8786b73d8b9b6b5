package idempotencytest

import (
	"errors"
	"sync"

	"github.com/parley-go/parley/idempotency"
)

// callers is how many race for one key.
const callers = 200

// concurrent checks that steps are atomic.
func concurrent() []check {
	return []check{
		{"of 200 simultaneous claims exactly one is acquired", func(b *bench) {
			c := claim(long, long)
			_, n := b.race(c)
			if n[idempotency.Acquired] != 1 || n[idempotency.Busy] != callers-1 {
				b.Errorf("answers = %v, want 1 acquired and the others busy", n)
			}
		}},
		{"of 200 simultaneous take-overs exactly one succeeds", func(b *bench) {
			c := claim(short, long)
			zombie := b.own(c)
			b.outlive(short)
			c.Lease = long
			won, n := b.race(c)
			if n[idempotency.Acquired] != 1 || n[idempotency.Busy] != callers-1 || !won.TakenOver {
				b.Errorf("answers = %v, the winner's %+v, want 1 take-over and the others busy", n, won)
			}
			b.allFenced(c, zombie.Token, "of the zombie")
		}},
		{"of 200 simultaneous claims on a released one exactly one is acquired", func(b *bench) {
			c := claim(long, long)
			b.must("Release()", b.release(c, b.own(c).Token))
			if _, n := b.race(c); n[idempotency.Acquired] != 1 || n[idempotency.Busy] != callers-1 {
				b.Errorf("answers = %v, want 1 acquired and the others busy", n)
			}
		}},
		{"of 200 simultaneous claims on a completed record all get the result", func(b *bench) {
			c := claim(long, long)
			b.must("Complete()", b.complete(c, b.own(c).Token, idempotency.Result{Data: []byte("done")}))
			if _, n := b.race(c); n[idempotency.Completed] != callers {
				b.Errorf("answers = %v, want all completed", n)
			}
		}},
		{"tokens of simultaneous claims are all different", func(b *bench) {
			var mu sync.Mutex
			seen := make(map[int64]bool)
			c := claim(long, long)
			together(50, func(int) {
				d := c
				for {
					out, err := b.store.Acquire(b.Context(), d)
					if err != nil || out.Status != idempotency.Acquired {
						return // another one holds it
					}
					mu.Lock()
					again := seen[out.Token]
					seen[out.Token] = true
					mu.Unlock()
					if again {
						b.Errorf("token %d was handed out twice", out.Token)
					}
					if out.Attempt >= callers || b.release(d, out.Token) != nil {
						return
					}
				}
			})
		}},
		{"completing and taking over at the same time has one winner", func(b *bench) {
			for range 20 {
				c := claim(1, long)
				owner := b.own(c)
				b.outlive(short / 10)
				var completeErr, acquireErr error
				var out idempotency.Outcome
				together(2, func(i int) {
					if i == 0 {
						completeErr = b.complete(c, owner.Token, idempotency.Result{})
						return
					}
					d := c
					d.Lease = long
					out, acquireErr = b.store.Acquire(b.Context(), d)
				})
				completed := completeErr == nil && acquireErr == nil && out.Status == idempotency.Completed
				overtaken := errors.Is(completeErr, idempotency.ErrFenced) && acquireErr == nil && out.Status == idempotency.Acquired
				if !completed && !overtaken {
					b.Fatalf("Complete() = %v and Acquire() = %+v, %v, want one of them to win", completeErr, out, acquireErr)
				}
			}
		}},
	}
}

// race has all callers acquire c at once. It returns the winner's answer, where
// there is one, and counts the answers.
func (b *bench) race(c idempotency.Claim) (won idempotency.Outcome, answers map[idempotency.Status]int) {
	b.Helper()
	var mu sync.Mutex
	answers = make(map[idempotency.Status]int)
	together(callers, func(int) {
		out, err := b.store.Acquire(b.Context(), c)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			b.Errorf("Acquire() = %v, want no error", err)
			return
		}
		if answers[out.Status]++; out.Status == idempotency.Acquired {
			won = out
		}
	})
	return won, answers
}

// together runs f n times at once, each with its number, and waits for all.
func together(n int, f func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	all.Wait()
}
