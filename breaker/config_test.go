package breaker_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker"
)

func TestNewReportsEachFault(t *testing.T) {
	for name, c := range map[string]struct {
		config breaker.Config
		want   string
	}{
		"negative window":            {breaker.Config{Window: -1}, "Window -1ns is outside 10ms to 1h"},
		"window too short":           {breaker.Config{Window: time.Millisecond}, "Window 1ms is outside 10ms to 1h"},
		"window too long":            {breaker.Config{Window: 2 * time.Hour}, "Window 2h0m0s is outside 10ms to 1h"},
		"negative WindowCalls":       {breaker.Config{WindowCalls: -1}, "WindowCalls -1 is outside 1 to 10000"},
		"too many WindowCalls":       {breaker.Config{WindowCalls: 10_001}, "WindowCalls 10001 is outside 1 to 10000"},
		"negative Consecutive":       {breaker.Config{Consecutive: -1}, "Consecutive -1 is outside 1 to 1000000"},
		"negative FailureRate":       {breaker.Config{FailureRate: -.1}, "FailureRate -0.1 is outside (0, 1]"},
		"FailureRate above 1":        {breaker.Config{FailureRate: 50}, "FailureRate 50 is outside (0, 1]"},
		"FailureRate not a number":   {breaker.Config{FailureRate: math.NaN()}, "FailureRate NaN is outside (0, 1]"},
		"negative SlowCall":          {breaker.Config{SlowCall: -1}, "SlowCall -1ns is negative"},
		"SlowCallRate above 1":       {breaker.Config{SlowCall: 1, SlowCallRate: 1.5}, "SlowCallRate 1.5 is outside (0, 1]"},
		"SlowCallRate without":       {breaker.Config{SlowCallRate: .5}, "SlowCallRate needs SlowCall"},
		"negative MinCalls":          {breaker.Config{MinCalls: -1}, "MinCalls -1 is negative"},
		"MinCalls never reached":     {breaker.Config{WindowCalls: 10, MinCalls: 11}, "MinCalls 11 is above WindowCalls 10"},
		"negative OpenFor":           {breaker.Config{OpenFor: -1}, "OpenFor -1ns is outside 0s to 24h"},
		"endless OpenFor":            {breaker.Config{OpenFor: math.MaxInt64}, "OpenFor 2562047h47m16.854775807s is outside 0s to 24h"},
		"negative MaxOpenFor":        {breaker.Config{MaxOpenFor: -1}, "MaxOpenFor -1ns is outside 0s to 24h"},
		"MaxOpenFor below OpenFor":   {breaker.Config{OpenFor: 2, MaxOpenFor: 1}, "MaxOpenFor 1ns is below OpenFor 2ns"},
		"negative Probes":            {breaker.Config{Probes: -1}, "Probes -1 is outside 1 to 1000"},
		"too many Probes":            {breaker.Config{Probes: 1001}, "Probes 1001 is outside 1 to 1000"},
		"negative ProbeSuccesses":    {breaker.Config{ProbeSuccesses: -1}, "ProbeSuccesses -1 is outside 1 to 1000000"},
		"negative ProbeTimeout":      {breaker.Config{ProbeTimeout: -1}, "ProbeTimeout -1ns is outside 0s to 24h"},
		"two windows":                {breaker.Config{Window: time.Second, WindowCalls: 5}, "Window and WindowCalls exclude each other"},
		"Consecutive and Window":     {breaker.Config{Consecutive: 1, Window: time.Second}, "Consecutive excludes Window"},
		"Consecutive and a count":    {breaker.Config{Consecutive: 1, WindowCalls: 5}, "Consecutive excludes WindowCalls"},
		"Consecutive and a rate":     {breaker.Config{Consecutive: 1, FailureRate: .5}, "Consecutive excludes FailureRate"},
		"Consecutive and slow calls": {breaker.Config{Consecutive: 1, SlowCall: 1}, "Consecutive excludes SlowCall"},
		"Consecutive and MinCalls":   {breaker.Config{Consecutive: 1, MinCalls: 1}, "Consecutive excludes MinCalls"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := breaker.New(c.config)
			if want := "breaker: config: " + c.want; err == nil || err.Error() != want {
				t.Errorf("New() = %v, want %q", err, want)
			}
			if b != nil {
				t.Errorf("New() returned a breaker with its error")
			}
		})
	}
}

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := breaker.New(breaker.Config{Name: "inventory", FailureRate: 2, MinCalls: -1, Probes: -7})
	want := `breaker "inventory": config: FailureRate 2 is outside (0, 1]; Probes -7 is outside 1 to 1000; MinCalls -1 is negative`
	if err == nil || err.Error() != want {
		t.Errorf("New() = %v, want %q", err, want)
	}
}

func TestNewTakesTheEndsOfEachRange(t *testing.T) {
	for _, c := range []breaker.Config{
		{},
		{Window: 10 * time.Millisecond, FailureRate: 1, MinCalls: 1},
		{Window: time.Hour, FailureRate: 1e-9, SlowCall: 1, SlowCallRate: 1},
		{WindowCalls: 10_000, MinCalls: 10_000},
		{WindowCalls: 1},
		{Consecutive: 1_000_000, Probes: 1000, ProbeSuccesses: 1_000_000},
		{OpenFor: 24 * time.Hour, ProbeTimeout: 24 * time.Hour},
		{OpenFor: 1, MaxOpenFor: 1},
		{MaxOpenFor: time.Millisecond},
	} {
		if _, err := breaker.New(c); err != nil {
			t.Errorf("New(%+v) = %v, want nil", c, err)
		}
	}
}

func TestNewChangesNothingButWhatItReturns(t *testing.T) {
	c := breaker.Config{Name: "x"}
	mustNew(t, c)
	if c.MinCalls != 0 {
		t.Errorf("New() wrote to its argument")
	}
}

func TestDefaultsAreWhatTheirDocsSay(t *testing.T) {
	// Each is observed at work, not read back.
	bubble(t, "opens at half of 20 calls in 10s for 5s, and closes after one probe", func(t *testing.T) {
		b := mustNew(t, breaker.Config{DisableJitter: true})
		fail(t, b, 19)
		wantState(t, b, breaker.Closed)
		time.Sleep(12 * time.Second)
		succeed(t, b, 10)
		fail(t, b, 9)
		wantState(t, b, breaker.Closed)
		fail(t, b, 1)
		if got := wantRejected(t, b).RetryAfter(); got != 5*time.Second {
			t.Errorf("RetryAfter() = %v, want 5s", got)
		}
		time.Sleep(5 * time.Second)
		p := allow(t, b)
		if got := wantRejected(t, b).RetryAfter(); got != 30*time.Second {
			t.Errorf("RetryAfter() while the only probe runs = %v, want 30s", got)
		}
		p.Done(breaker.Success)
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "MinCalls is WindowCalls where that is below 20", func(t *testing.T) {
		b := mustNew(t, breaker.Config{WindowCalls: 5})
		fail(t, b, 4)
		wantState(t, b, breaker.Closed)
		fail(t, b, 1)
		wantState(t, b, breaker.Open)
	})
	bubble(t, "ProbeSuccesses is Probes", func(t *testing.T) {
		c := quick()
		c.Probes = 3
		b := halfOpen(t, c)
		succeed(t, b, 2)
		wantState(t, b, breaker.HalfOpen)
		succeed(t, b, 1)
		wantState(t, b, breaker.Closed)
	})
	bubble(t, "OpenFor is at most MaxOpenFor", func(t *testing.T) {
		b := mustNew(t, breaker.Config{Consecutive: 1, MaxOpenFor: time.Second, DisableJitter: true})
		fail(t, b, 1)
		if got := wantRejected(t, b).RetryAfter(); got != time.Second {
			t.Errorf("RetryAfter() = %v, want 1s", got)
		}
	})
}

func TestNamesOfStatesAndOutcomesAreWords(t *testing.T) {
	var got []string
	for s := breaker.Closed; s <= breaker.Disabled+1; s++ {
		got = append(got, s.String())
	}
	for o := breaker.Success; o <= breaker.Ignored; o++ {
		got = append(got, o.String())
	}
	want := "closed open half-open forced-open disabled unknown success failure ignored"
	if strings.Join(got, " ") != want {
		t.Errorf("String() = %v, want %v", got, want)
	}
}
