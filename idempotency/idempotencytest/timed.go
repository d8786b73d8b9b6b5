package idempotencytest

import "github.com/parley-go/parley/idempotency"

// timed checks what happens when leases end and records expire.
func timed() []check {
	return []check{
		{"a claim whose lease has ended is taken over with a larger token", func(b *bench) {
			c := claim(short, long)
			first := b.own(c)
			second := b.takeOver(c)
			if !second.TakenOver || second.Attempt != 2 || second.Token <= first.Token {
				b.Errorf("Acquire() = %+v after %+v, want taken over, attempt 2, a larger token", second, first)
			}
		}},
		{"an owner that was overtaken is fenced and overwrites nothing", func(b *bench) {
			c := claim(short, long)
			zombie := b.own(c)
			c.Lease = long
			second := b.takeOver(c)
			b.allFenced(c, zombie.Token, "of the zombie")
			b.wants(c, idempotency.Busy, "after the zombie")
			b.must("Complete()", b.complete(c, second.Token, idempotency.Result{Data: []byte("successor")}))
			b.allFenced(c, zombie.Token, "of the zombie after completion")
			b.result(c, "successor")
		}},
		{"a claim whose lease has ended still refuses another fingerprint", func(b *bench) {
			c := claim(short, long)
			b.own(c)
			b.outlive(short)
			b.wants(other(c), idempotency.Mismatch, "after the lease")
		}},
		{"an owner may complete after its lease if nobody took over", func(b *bench) {
			c := claim(short, long)
			out := b.own(c)
			b.outlive(short)
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("late")}))
			b.result(c, "late")
		}},
		{"an owner may release after its lease if nobody took over", func(b *bench) {
			c := claim(short, long)
			out := b.own(c)
			b.outlive(short)
			b.must("Release()", b.release(c, out.Token))
			if again := b.own(c); again.TakenOver || again.Attempt != 2 {
				b.Errorf("Acquire() = %+v, want attempt 2, not taken over", again)
			}
		}},
		{"extending revives a lease that has ended", func(b *bench) {
			c := claim(short, long)
			out := b.own(c)
			b.outlive(short)
			b.must("Extend()", b.extend(c, out.Token, long))
			b.wants(c, idempotency.Busy, "after Extend")
		}},
		{"extending may shorten a lease", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Extend()", b.extend(c, out.Token, short))
			b.takeOver(c)
		}},
		{"a lease of a nanosecond is a lease and ends", func(b *bench) {
			c := claim(1, long)
			b.own(c)
			b.takeOver(c)
		}},
		{"a completed record is forgotten after its TTL and not before", func(b *bench) {
			c := claim(long, long)
			first := b.own(c)
			c.TTL = short
			b.must("Complete()", b.complete(c, first.Token, idempotency.Result{Data: []byte("first")}))
			b.reborn(c, first.Token)
		}},
		{"the TTL of a completion replaces that of the claim", func(b *bench) {
			const ttl = 4 * short
			c := b.within(func() (idempotency.Claim, error) {
				c := claim(ttl, ttl)
				token := b.own(c).Token
				return c, b.store.Complete(b.Context(), c.ID, token, idempotency.Result{Data: []byte("kept")}, long)
			})
			b.outlive(ttl)
			b.result(c, "kept")
		}},
		{"a released record is forgotten after its TTL", func(b *bench) {
			c := b.within(func() (idempotency.Claim, error) {
				c := claim(short, 4*short)
				return c, b.release(c, b.own(c).Token)
			})
			b.eventually("the end of the TTL", func() bool { return b.acquire(other(c)).Status == idempotency.Acquired })
		}},
		{"an abandoned claim is forgotten after its TTL, fingerprint included", func(b *bench) {
			c := claim(short, short)
			first := b.own(c)
			b.outlive(short)
			b.allFenced(c, first.Token, "after the TTL")
			b.reborn(other(c), first.Token)
		}},
		{"tokens rise beyond the end of a record", func(b *bench) {
			c := claim(short, short)
			last := int64(0)
			for range 3 {
				b.eventually("the end of the TTL", func() bool {
					out := b.acquire(c)
					if out.Status == idempotency.Acquired && out.Token <= last {
						b.Fatalf("token = %d after %d, want a larger one", out.Token, last)
					}
					last = max(last, out.Token)
					return out.Status == idempotency.Acquired && out.Attempt == 1
				})
				b.outlive(short)
			}
		}},
		{"a lease that outlasts the TTL keeps the record", func(b *bench) {
			c := claim(long, short)
			out := b.own(c)
			b.outlive(short)
			b.wants(c, idempotency.Busy, "after the TTL")
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{}))
		}},
		{"extending beyond the TTL keeps the record", func(b *bench) {
			const ttl = 4 * short
			c := b.within(func() (idempotency.Claim, error) {
				c := claim(ttl, ttl)
				return c, b.extend(c, b.own(c).Token, long)
			})
			b.outlive(ttl)
			b.wants(c, idempotency.Busy, "after the TTL")
		}},
	}
}

// takeOver acquires c as soon as the lease of its owner has ended.
func (b *bench) takeOver(c idempotency.Claim) (out idempotency.Outcome) {
	b.Helper()
	b.eventually("the end of the lease", func() bool {
		out = b.acquire(c)
		return out.Status == idempotency.Acquired
	})
	if !out.TakenOver {
		b.Errorf("Acquire() = %+v, want TakenOver", out)
	}
	return out
}

// within tries f until it succeeds: it makes two steps within a short TTL, which
// a slow machine may miss.
func (b *bench) within(f func() (idempotency.Claim, error)) (c idempotency.Claim) {
	b.Helper()
	b.eventually("a second step within the TTL", func() bool {
		var err error
		c, err = f()
		return err == nil
	})
	return c
}

// reborn acquires c as soon as its record has expired.
func (b *bench) reborn(c idempotency.Claim, last int64) {
	b.Helper()
	var out idempotency.Outcome
	b.eventually("the end of the TTL", func() bool {
		out = b.acquire(c)
		return out.Status == idempotency.Acquired
	})
	if out.Attempt != 1 || out.TakenOver || out.Token <= last {
		b.Errorf("Acquire() after the TTL = %+v, want attempt 1, not taken over, a token above %d", out, last)
	}
}
