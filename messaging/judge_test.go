package messaging_test

import (
	"errors"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestVerdictIsWhatAConsumerMakesOfADelivery(t *testing.T) {
	failure := errors.New("no")
	cfg := messaging.ConsumerConfig{MaxAttempts: 3, Backoff: func(n int) time.Duration { return time.Duration(n) * time.Second }}
	for name, c := range map[string]struct {
		cfg     messaging.ConsumerConfig
		err     error
		attempt int
		want    messaging.Verdict
	}{
		"nil acks":                    {cfg, nil, 1, messaging.Verdict{Kind: messaging.Ack}},
		"an error comes again":        {cfg, failure, 2, messaging.Verdict{Kind: messaging.Retry, After: 2 * time.Second}},
		"the last attempt":            {cfg, failure, 3, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonExhausted}},
		"a permanent error":           {cfg, messaging.Permanent(failure), 1, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonPermanent}},
		"the zero value has defaults": {messaging.ConsumerConfig{}, failure, 5, messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonExhausted}},
		"an error that says when":     {cfg, messaging.After(failure, time.Minute), 1, messaging.Verdict{Kind: messaging.Retry, After: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.cfg.Verdict(c.err, c.attempt)
			if !errors.Is(got.Err, c.err) {
				t.Errorf("Verdict().Err = %v, want %v", got.Err, c.err)
			}
			if got.Err = nil; got != c.want {
				t.Errorf("Verdict() = %+v, want %+v", got, c.want)
			}
		})
	}
}
