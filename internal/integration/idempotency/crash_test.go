//go:build unix

package idempotency

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wantPlaced repeats the request of key at both processes and checks that they give
// the one answer and add no effect.
func (f *fleet) wantPlaced(t *testing.T, key string, effects int) {
	t.Helper()
	for i, p := range f.processes {
		if a, _ := p.settle(t, key); !a.done(key) {
			t.Errorf("process %d answers %v, want 201 %q", i, a, key)
		}
	}
	f.wantEffects(t, key, effects)
}

func TestKilledBeforeTheEffectTheKeyIsBusyForTheLeaseAndThenThereIsOneEffect(t *testing.T) {
	modes(t, serviceConfig{Lease: 3 * time.Second}, func(t *testing.T, f *fleet) {
		if a := f.processes[0].send(t.Context(), "a", before+"=kill"); a.err == nil {
			t.Errorf("the answer of a killed process = %v, want none", a)
		}
		f.wantEffects(t, "a", 0)
		a, busy := f.processes[1].settle(t, "a")
		if !a.done("a") || a.replayed {
			t.Errorf("the other process answers %v, want that of the first run", a)
		}
		if f.config.Mode == inTx {
			// Its transaction ends with the connection, once the server sees that.
			t.Logf("InTx was busy %d times", busy)
		} else if busy == 0 {
			t.Error("the key was free at once, want it busy for the rest of the lease")
		}
		f.processes[0] = f.start(t)
		f.wantPlaced(t, "a", 1)
	})
}

func TestKilledBetweenEffectAndRecordThereIsOneEffectInATransactionAndTwoWithALeaseAlone(t *testing.T) {
	modes(t, serviceConfig{Lease: time.Second}, func(t *testing.T, f *fleet) {
		if a := f.processes[0].send(t.Context(), "a", after+"=kill"); a.err == nil {
			t.Errorf("the answer of a killed process = %v, want none", a)
		}
		want := 2 // what the package doc says of a lease
		if f.transactional() {
			want = 1
		}
		f.processes[0] = f.start(t)
		f.wantPlaced(t, "a", want)
	})
}

func TestKilledAfterTheRecordAndBeforeTheResponseTheAnswerIsReplayed(t *testing.T) {
	modes(t, serviceConfig{}, func(t *testing.T, f *fleet) {
		if a := f.processes[0].send(t.Context(), "a", recorded+"=kill"); a.err == nil {
			t.Errorf("the answer of a killed process = %v, want none", a)
		}
		f.wantEffects(t, "a", 1)
		if a := f.processes[1].send(t.Context(), "a", ""); !a.done("a") || !a.replayed {
			t.Errorf("the other process answers %v, want the replay, at once", a)
		}
		f.processes[0] = f.start(t)
		f.wantPlaced(t, "a", 1)
	})
}

// stopped waits until the process has stopped itself.
func (p *process) stopped(t *testing.T) {
	t.Helper()
	eventually(t, "the stop", func() bool {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
		if err != nil {
			t.Skipf("the state of a process cannot be seen here: %v", err)
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		return strings.HasPrefix(rest, "T")
	})
}

func TestAnOwnerThatWasPausedPastItsLeaseOverwritesNothing(t *testing.T) {
	modes(t, serviceConfig{Lease: time.Second}, func(t *testing.T, f *fleet) {
		zombie := make(chan answer, 1)
		go func() { zombie <- f.processes[0].send(t.Context(), "a", before+"=stop") }()
		f.processes[0].stopped(t)
		if f.config.Mode == inTx {
			// Nobody can take over while the transaction is open.
			if a := f.processes[1].send(t.Context(), "a", ""); a.status != http.StatusConflict {
				t.Errorf("the other process answers %v, want 409", a)
			}
		} else if a, _ := f.processes[1].settle(t, "a"); !a.done("a") || a.replayed {
			t.Errorf("the other process answers %v, want that of a run", a)
		}
		if err := f.processes[0].cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		a := <-zombie
		effects := f.effects(t, "a")
		t.Logf("the zombie answers %v; %d effects", a, effects)
		switch {
		case f.config.Mode == completeTx && a.done("a"):
			t.Errorf("the zombie answers %v, want that it was fenced", a)
		case f.config.Mode == inTx && !a.done("a"):
			t.Errorf("the process that was paused answers %v, want 201", a)
		case f.transactional() && effects != 1, effects < 1, effects > 2:
			t.Errorf("effects = %d, want 1, or 2 with a lease alone", effects)
		}
		f.wantPlaced(t, "a", effects)
	})
}

func TestAHandlerThatPanicsReleasesTheKeyForTheOtherProcess(t *testing.T) {
	modes(t, serviceConfig{Lease: time.Minute}, func(t *testing.T, f *fleet) {
		if a := f.processes[0].send(t.Context(), "a", before+"=panic"); a.err == nil {
			t.Errorf("the answer of a panic = %v, want a broken connection", a)
		}
		// The lease lasts a minute, and the answer does not take so long.
		ctx, cancel := context.WithTimeout(t.Context(), patience/2)
		defer cancel()
		for !f.processes[1].send(ctx, "a", "").done("a") && ctx.Err() == nil {
			pause(ctx, 10*time.Millisecond)
		}
		f.wantPlaced(t, "a", 1)
	})
}

func TestWhenTheClientIsGoneMidHandlerTheEffectIsRecordedOrRolledBack(t *testing.T) {
	modes(t, serviceConfig{Lease: time.Minute}, func(t *testing.T, f *fleet) {
		g := newGate(t)
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan answer, 1)
		go func() { gone <- f.processes[0].send(ctx, "a", g.at(after)) }()
		g.await(t, gone)
		leave()
		if a := <-gone; a.err == nil {
			t.Errorf("the client that has left got %v", a)
		}
		g.open()
		// A transaction of the request's context may be rolled back, and the key is
		// free then; what was done apart is recorded.
		f.wantPlaced(t, "a", 1)
	})
}

func TestWhenTheDatabaseEndsTheTransactionNothingHasHappened(t *testing.T) {
	modes(t, serviceConfig{}, func(t *testing.T, f *fleet) {
		if a := f.processes[0].send(t.Context(), "a", after+"=terminate"); a.status != http.StatusServiceUnavailable {
			t.Errorf("the answer = %v, want 503", a)
		}
		f.wantEffects(t, "a", 0)
		f.wantPlaced(t, "a", 1)
	}, completeTx, inTx)
}
