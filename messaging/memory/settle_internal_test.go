package memory

import (
	"errors"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A lease ends first, and then what it was for is taken back. Whoever settles between
// the two is too late: to be told that it counted would be to lose the message, or to
// see it again. Which of the two comes first is a race that no test from outside can
// arrange.
func TestAVerdictAfterTheEndOfTheLeaseIsLostAndTheMessageComesAgain(t *testing.T) {
	over := make(chan struct{})
	t.Run("a message", func(t *testing.T) {
		s := &subscriber{group: watched(), prefetch: 2, over: over, freed: make(chan struct{}, 1), open: map[*handout]struct{}{}}
		late, early := &handout{sub: s, entry: &entry{}}, &handout{sub: s, entry: &entry{}}
		s.open[late] = struct{}{}
		early.state.Store(settled)
		close(over)
		for _, when := range []string{"before", "after"} {
			if err := late.Settle(t.Context(), messaging.Verdict{Kind: messaging.Ack}); !errors.Is(err, messaging.ErrLost) {
				t.Errorf("Settle %s it is taken back = %v, want ErrLost", when, err)
			}
			if err := early.Settle(t.Context(), messaging.Verdict{Kind: messaging.Release}); err != nil {
				t.Errorf("Settle of what is settled = %v, want nil", err)
			}
			s.lose()
		}
		if got, _ := s.group.take(); got != late.entry {
			t.Errorf("take() = %p, want %p", got, late.entry)
		}
		if got, _ := s.group.take(); got != nil {
			t.Errorf("take() = %p, want nothing more", got)
		}
	})
	t.Run("a dead letter", func(t *testing.T) {
		g := watched()
		g.dead.bury(messaging.NewMessage("m", nil), nil)
		l, _, _ := g.dead.take()
		r := &reader{group: g, over: over, freed: make(chan struct{}, 1), open: map[*inHand]struct{}{}}
		h := &inHand{reader: r, letter: l}
		r.open[h] = struct{}{}
		if err := h.Settle(t.Context(), messaging.Verdict{Kind: messaging.Ack}); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Settle = %v, want ErrLost", err)
		}
		r.lose()
		if got, again, _ := g.dead.take(); got != l || !again {
			t.Errorf("take() = %p, again: %v, want %p, again", got, again, l)
		}
	})
}

// Its deliver may block for long, and what it accepted be taken back only then.
func TestExtendAfterTheEndOfTheLeaseIsLostSaveForWhatIsSettled(t *testing.T) {
	over := make(chan struct{})
	s := &subscriber{group: watched(), over: over}
	late, early := &handout{sub: s, end: func(error) {}}, &handout{sub: s, end: func(error) {}}
	early.state.Store(settled)
	close(over)
	if err := late.Extend(t.Context(), time.Second); !errors.Is(err, messaging.ErrLost) {
		t.Errorf("Extend = %v, want ErrLost", err)
	}
	if err := early.Extend(t.Context(), time.Second); err != nil {
		t.Errorf("Extend of what is settled = %v, want nil", err)
	}
}
