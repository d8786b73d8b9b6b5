package idempotencytest

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/parley-go/parley/idempotency"
)

// table checks the transitions that need no time to pass.
func table() []check {
	return []check{
		{"an absent record is acquired with attempt 1", func(b *bench) {
			out := b.own(claim(long, long))
			if out.Attempt != 1 || out.TakenOver || out.Token <= 0 {
				b.Errorf("Acquire() = %+v, want attempt 1, not taken over, a positive token", out)
			}
		}},
		{"an absent record fences every step", func(b *bench) {
			c := claim(long, long)
			b.allFenced(c, 1, "without a record")
			if out := b.own(c); out.Attempt != 1 {
				b.Errorf("attempt after that = %d, want 1", out.Attempt)
			}
		}},
		{"a claim in progress is busy and says for how long", func(b *bench) {
			c := claim(long, long)
			b.own(c)
			out := b.wants(c, idempotency.Busy, "while the lease lives")
			if out.LeaseLeft <= 0 || out.LeaseLeft > long {
				b.Errorf("LeaseLeft = %v, want more than 0 and at most %v", out.LeaseLeft, long)
			}
		}},
		{"a claim in progress refuses another fingerprint", func(b *bench) {
			c := claim(long, long)
			b.own(c)
			b.wants(other(c), idempotency.Mismatch, "with another fingerprint")
		}},
		{"a claim in progress fences every other token", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.allFenced(c, out.Token+1, "with a larger token")
			b.allFenced(c, out.Token-1, "with a smaller token")
			b.wants(c, idempotency.Busy, "after that")
		}},
		{"a completed record answers with its result", completedAnswers},
		{"a completed record refuses another fingerprint", func(b *bench) {
			c := claim(long, long)
			b.must("Complete()", b.complete(c, b.own(c).Token, idempotency.Result{}))
			b.wants(other(c), idempotency.Mismatch, "with another fingerprint")
		}},
		{"a completed record fences every other token", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("first")}))
			b.allFenced(c, out.Token+1, "with another token")
			b.result(c, "first")
		}},
		{"a completed record cannot be released", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("first")}))
			b.fenced("Release()", b.release(c, out.Token))
			b.result(c, "first")
		}},
		{"completing again with the same token changes nothing and is no error", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("first")}))
			b.must("second Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("second")}))
			b.result(c, "first")
		}},
		{"completing again adds a result that was not stored", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{NotStored: true}))
			if got := b.wants(c, idempotency.Completed, "after Complete"); !got.Result.NotStored || len(got.Result.Data) != 0 {
				b.Errorf("Result = %+v, want NotStored without data", got.Result)
			}
			b.must("second Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("late")}))
			b.result(c, "late")
		}},
		{"extending a completed record with its token does nothing", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Complete()", b.complete(c, out.Token, idempotency.Result{Data: []byte("first")}))
			b.must("Extend()", b.extend(c, out.Token, long))
			b.result(c, "first")
		}},
		{"a released claim is acquired at once with the next attempt and a larger token", func(b *bench) {
			c := claim(long, long)
			first := b.own(c)
			b.must("Release()", b.release(c, first.Token))
			second := b.own(c)
			if second.Attempt != 2 || second.TakenOver || second.Token <= first.Token {
				b.Errorf("Acquire() after Release = %+v after %+v, want attempt 2, not taken over, a larger token", second, first)
			}
		}},
		{"a released claim keeps its fingerprint", func(b *bench) {
			c := claim(long, long)
			b.must("Release()", b.release(c, b.own(c).Token))
			b.wants(other(c), idempotency.Mismatch, "with another fingerprint")
		}},
		{"a released claim may be released again and not completed or extended", func(b *bench) {
			c := claim(long, long)
			out := b.own(c)
			b.must("Release()", b.release(c, out.Token))
			b.must("second Release()", b.release(c, out.Token))
			b.fenced("Complete()", b.complete(c, out.Token, idempotency.Result{}))
			b.fenced("Extend()", b.extend(c, out.Token, long))
			b.own(c)
		}},
		{"an owner that was released is fenced from its successor", func(b *bench) {
			c := claim(long, long)
			first := b.own(c)
			b.must("Release()", b.release(c, first.Token))
			second := b.own(c)
			b.allFenced(c, first.Token, "of the first owner")
			b.must("Complete() of the second", b.complete(c, second.Token, idempotency.Result{Data: []byte("second")}))
			b.result(c, "second")
		}},
		{"records of different IDs do not meet", func(b *bench) {
			c, d := claim(long, long), claim(long, long)
			first := b.own(c)
			b.own(d)
			b.allFenced(claim(long, long), first.Token, "of another ID")
			b.wants(c, idempotency.Busy, "after that")
		}},
		{"a lease or TTL that is not positive is an error and leaves no record", refusesNothing},
		{"a call whose context has ended does not happen", endedContext},
	}
}

// result checks what a repeated claim is answered with.
func (b *bench) result(c idempotency.Claim, want string) {
	b.Helper()
	out := b.wants(c, idempotency.Completed, "of a completed record")
	if got := string(out.Result.Data); got != want || out.Result.NotStored {
		b.Errorf("Result = %q (NotStored %t), want %q", got, out.Result.NotStored, want)
	}
}

func completedAnswers(b *bench) {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "binary data": binary, "1 MiB": bytes.Repeat(binary, 4096),
	} {
		c := claim(long, long)
		b.must("Complete() with "+name, b.complete(c, b.own(c).Token, idempotency.Result{Data: bytes.Clone(data)}))
		for range 2 {
			out := b.wants(c, idempotency.Completed, "after Complete")
			if !bytes.Equal(out.Result.Data, data) || out.Result.NotStored {
				b.Errorf("Result with %s = %d bytes (NotStored %t), want the %d that were stored",
					name, len(out.Result.Data), out.Result.NotStored, len(data))
			}
		}
	}
}

func refusesNothing(b *bench) {
	for _, d := range []time.Duration{0, -1, -time.Hour} {
		for _, c := range []idempotency.Claim{claim(d, long), claim(long, d)} {
			if out, err := b.store.Acquire(b.Context(), c); err == nil {
				b.Errorf("Acquire() with lease %v and TTL %v = %+v, want an error", c.Lease, c.TTL, out)
			}
			c.Lease, c.TTL = long, long
			if out := b.own(c); out.Attempt != 1 {
				b.Errorf("attempt after that = %d, want 1", out.Attempt)
			}
		}
		c := claim(long, long)
		out := b.own(c)
		if err := b.extend(c, out.Token, d); err == nil {
			b.Errorf("Extend(%v) = nil, want an error", d)
		}
		if err := b.store.Complete(b.Context(), c.ID, out.Token, idempotency.Result{}, d); err == nil {
			b.Errorf("Complete() with TTL %v = nil, want an error", d)
		}
		b.wants(c, idempotency.Busy, "after that")
	}
}

func endedContext(b *bench) {
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	want := func(what string, err error) {
		b.Helper()
		if !errors.Is(err, context.Canceled) {
			b.Errorf("%s with an ended context = %v, want context.Canceled", what, err)
		}
	}
	c := claim(long, long)
	_, err := b.store.Acquire(ctx, c)
	want("Acquire()", err)
	out := b.own(c)
	if out.Attempt != 1 {
		b.Errorf("attempt after that = %d, want 1", out.Attempt)
	}
	want("Complete()", b.store.Complete(ctx, c.ID, out.Token, idempotency.Result{}, long))
	want("Release()", b.store.Release(ctx, c.ID, out.Token))
	want("Extend()", b.store.Extend(ctx, c.ID, out.Token, long))
	b.wants(c, idempotency.Busy, "after that")
}
