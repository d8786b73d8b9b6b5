//go:build unix

package idempotency

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

func TestOfFiftyRequestsAtOnceToTwoProcessesOneHasTheEffect(t *testing.T) {
	modes(t, serviceConfig{Lease: time.Minute}, func(t *testing.T, f *fleet) {
		answers := make(chan answer, 50)
		var all sync.WaitGroup
		for i := range cap(answers) {
			all.Go(func() { answers <- f.processes[i%2].send(t.Context(), "a", after+"=take@50ms") })
		}
		all.Wait()
		close(answers)
		ran, replayed, busy := 0, 0, 0
		for a := range answers {
			switch {
			case a.done("a") && a.replayed:
				replayed++
			case a.done("a"):
				ran++
			case a.status == http.StatusConflict && a.retryAfter != "":
				busy++
			default:
				t.Errorf("an answer = %v, want the first one's, or 409 with Retry-After", a)
			}
		}
		t.Logf("1 of 50 ran, %d got the replay, %d were busy", replayed, busy)
		if ran != 1 {
			t.Errorf("%d requests ran, want 1", ran)
		}
		f.wantPlaced(t, "a", 1)
	})
}
