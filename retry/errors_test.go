package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/retry"
)

func TestErrorsThatAreNotRetriedAreReturnedAsTheyAre(t *testing.T) {
	own := &fs.PathError{Op: "open", Path: "x", Err: errBoom}
	for name, c := range map[string]struct {
		policy retry.Policy
		err    error
	}{
		"permanent":                  {retry.Policy{}, retry.Permanent(own)},
		"permanent, wrapped":         {retry.Policy{}, fmt.Errorf("reserve: %w", retry.Permanent(own))},
		"permanent, joined":          {retry.Policy{}, errors.Join(errBoom, retry.Permanent(own))},
		"permanent beats After":      {retry.Policy{}, retry.After(retry.Permanent(own), time.Second)},
		"permanent beats Retryable":  {retry.Policy{Retryable: func(error) bool { return true }}, retry.Permanent(own)},
		"not retryable":              {retry.Policy{Retryable: func(error) bool { return false }}, own},
		"rejected":                   {retry.Policy{}, errors.Join(own, rejection{})},
		"rejected and wrapped":       {retry.Policy{}, fmt.Errorf("%w: %w", own, rejection{time.Second})},
		"rejected beats Retryable":   {retry.Policy{Retryable: func(error) bool { return true }}, errors.Join(own, rejection{})},
		"that of a policy below":     {retry.Policy{}, fmt.Errorf("x: %w", &retry.Error{Reason: retry.ErrExhausted, Last: own})},
		"a nil error of that policy": {retry.Policy{}, errors.Join(own, (*retry.Error)(nil))},
	} {
		t.Run(name, func(t *testing.T) {
			op := counter{err: c.err}
			err := c.policy.Do(t.Context(), op.op)
			if !same(err, c.err) || op.n != 1 {
				t.Errorf("Do() = %v after %d attempts, want the error itself after 1", err, op.n)
			}
			if got, ok := errors.AsType[*fs.PathError](err); !ok || got != own {
				t.Errorf("the operation's own error cannot be found in %v", err)
			}
			if errors.Is(err, fs.ErrExist) {
				t.Errorf("%v is fs.ErrExist, which nobody said", err)
			}
		})
	}
}

func TestMarksAreTransparent(t *testing.T) {
	for name, marked := range map[string]error{
		"Permanent": retry.Permanent(fs.ErrNotExist),
		"After":     retry.After(fs.ErrNotExist, time.Second),
	} {
		if !errors.Is(marked, fs.ErrNotExist) || marked.Error() != fs.ErrNotExist.Error() {
			t.Errorf("%s: %v is not transparent", name, marked)
		}
	}
	if retry.Permanent(nil) != nil || retry.After(nil, time.Second) != nil {
		t.Error("a marked nil is an error, want nil")
	}
}

func TestAMarkedSuccessIsASuccess(t *testing.T) {
	if err := (retry.Policy{}).Do(t.Context(), func(context.Context) error { return retry.Permanent(nil) }); err != nil {
		t.Errorf("Do() = %v, want nil", err)
	}
}

func TestRetryAfterRaisesTheDelay(t *testing.T) {
	// By what it asks for: the backoff's second comes on top.
	for name, c := range map[string]struct {
		policy retry.Policy
		err    error
		want   time.Duration
		reason retry.Reason
	}{
		"longer than the backoff":        {retry.Policy{}, retry.After(errBoom, 10*time.Second), 11 * time.Second, retry.ErrExhausted},
		"found through wrapping":         {retry.Policy{}, fmt.Errorf("x: %w", retry.After(errBoom, 10*time.Second)), 11 * time.Second, retry.ErrExhausted},
		"the outermost of several":       {retry.Policy{}, retry.After(retry.After(errBoom, 50*time.Second), 10*time.Second), 11 * time.Second, retry.ErrExhausted},
		"shorter than the backoff":       {retry.Policy{}, retry.After(errBoom, time.Millisecond), time.Second + time.Millisecond, retry.ErrExhausted},
		"negative":                       {retry.Policy{}, retry.After(errBoom, -time.Hour), time.Second, retry.ErrExhausted},
		"as long as allowed":             {retry.Policy{}, retry.After(errBoom, time.Minute), time.Minute + time.Second, retry.ErrExhausted},
		"longer than allowed":            {retry.Policy{}, retry.After(errBoom, time.Minute+1), 0, retry.ErrRetryAfter},
		"huge":                           {retry.Policy{MaxElapsed: time.Hour, MaxRetryAfter: 1<<63 - 1}, retry.After(errBoom, 1<<63-1), 0, retry.ErrDeadline},
		"longer than the policy's bound": {retry.Policy{MaxRetryAfter: time.Second}, retry.After(errBoom, time.Minute), 0, retry.ErrRetryAfter},
		"of another package's error":     {retry.Policy{RetryRejected: true}, rejection{30 * time.Second}, 31 * time.Second, retry.ErrExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := c.policy
				p.MaxAttempts, p.Backoff = 2, constant(time.Second)
				op, want := counter{err: c.err}, 2
				if c.reason != retry.ErrExhausted {
					want = 1
				}
				var err error
				took := elapsed(func() { err = p.Do(t.Context(), op.op) })
				wantError(t, err, want, c.reason, c.err)
				if took != c.want {
					t.Errorf("Do() waited %v, want %v", took, c.want)
				}
			})
		})
	}
}

func TestErrorTellsTheWholeStory(t *testing.T) {
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errShutdown)
	p := retry.Policy{Backoff: retry.Constant(0)}
	named := retry.Policy{Name: "inventory", MaxAttempts: 1}
	boom := &counter{err: errBoom}
	midway, cancelMidway := context.WithCancelCause(t.Context())
	for want, err := range map[string]error{
		`retry: attempts exhausted after 3 attempts: boom`:                              p.Do(t.Context(), boom.op),
		`retry "inventory": attempts exhausted after 1 attempt: boom`:                   named.Do(t.Context(), boom.op),
		`retry: context ended before the first attempt: shutdown`:                       p.Do(ended, boom.op),
		`retry: faulty policy: MaxAttempts -1 is negative`:                              retry.Policy{MaxAttempts: -1}.Do(t.Context(), boom.op),
		`retry: context ended after 1 attempt: shutdown: boom`:                          p.Do(midway, func(context.Context) error { cancelMidway(errShutdown); return errBoom }),
		`retry: asked to stay away for longer than MaxRetryAfter after 1 attempt: boom`: p.Do(t.Context(), func(context.Context) error { return retry.After(errBoom, time.Hour) }),
		`retry: context ended after 1 attempt: shutdown while stopping`:                 endsWith(t, fmt.Errorf("%w while stopping", errShutdown)),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("error = %v\n    want  %v", err, want)
		}
	}
}

// endsWith runs an operation whose context ends and whose error says so itself.
func endsWith(t *testing.T, err error) error {
	ctx, cancel := context.WithCancelCause(t.Context())
	return retry.Policy{}.Do(ctx, func(context.Context) error { cancel(errShutdown); return err })
}

func TestErrorKeepsFirstLastAndRecent(t *testing.T) {
	for n := 1; n <= 10; n++ {
		i := 0
		err := retry.Policy{MaxAttempts: n, Backoff: retry.Constant(0)}.Do(t.Context(), func(context.Context) error {
			i++
			return fmt.Errorf("%d", i)
		})
		e := wantError(t, err, n, retry.ErrExhausted)
		if e.First.Error() != "1" || e.Last.Error() != fmt.Sprint(n) || len(e.Recent) != min(n, 8) {
			t.Fatalf("First, Last, Recent = %v, %v, %v after %d attempts", e.First, e.Last, e.Recent, n)
		}
		for j, got := range e.Recent {
			if want := fmt.Sprint(n - len(e.Recent) + 1 + j); got.Error() != want {
				t.Errorf("Recent[%d] = %v, want %v", j, got, want)
			}
		}
	}
}

func TestErrorIsATimeoutWhereTimeEndedTheCall(t *testing.T) {
	for want, errs := range map[bool][]*retry.Error{
		true: {
			{Reason: retry.ErrDeadline, Last: errBoom},
			{Reason: retry.ErrCanceled, Last: errBoom, Cause: context.DeadlineExceeded},
			{Reason: retry.ErrExhausted, Last: fmt.Errorf("x: %w", context.DeadlineExceeded)},
		},
		false: {
			{Reason: retry.ErrExhausted, Last: errBoom},
			{Reason: retry.ErrCanceled, Cause: context.Canceled},
		},
	} {
		for _, e := range errs {
			if got := (&url.Error{Err: e}).Timeout(); got != want {
				t.Errorf("Timeout() of %v = %v, want %v", e, got, want)
			}
		}
	}
}

func TestEveryReasonHasWords(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range []retry.Reason{
		retry.ErrExhausted, retry.ErrBudget, retry.ErrDeadline, retry.ErrRetryAfter, retry.ErrCanceled, retry.ErrPolicy,
		retry.ErrNotRetryable, retry.ErrNested, retry.ErrPanicked, retry.ErrAttemptTimeout, retry.ErrLost,
	} {
		if text := r.Error(); seen[text] || text == "retry: "+string(r) {
			t.Errorf("%q has the text %q: want words of its own", string(r), text)
		} else {
			seen[text] = true
		}
	}
	if got := retry.Reason("other").Error(); got != "retry: other" {
		t.Errorf("Error() = %q, want retry: other", got)
	}
}
