package bulkhead_test

import (
	"testing"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

func TestNewReportsEveryFaultOnOneLine(t *testing.T) {
	for name, c := range map[string]struct {
		config bulkhead.Config
		want   string
	}{
		"negative figures": {
			bulkhead.Config{Name: "stock", Limit: -1, Queue: -2, Wait: -time.Second, SlowCall: -1, Min: -3, Max: -4},
			`bulkhead "stock": config: Limit -1 is outside 1 to 1000000; Queue -2 is outside 0 to 1000000; ` +
				`Wait -1s is outside 0s to 24h; SlowCall -1ns is negative; Min -3 is outside 1 to 1000000; Max -4 is outside 1 to 1000000`,
		},
		"figures that are too large": {
			bulkhead.Config{Limit: 1_000_001, Queue: 1_000_001, Wait: 25 * time.Hour, SlowCall: 1, Max: 1_000_001},
			`bulkhead: config: Limit 1000001 is outside 1 to 1000000; Queue 1000001 is outside 0 to 1000000; ` +
				`Wait 25h0m0s is outside 0s to 24h; Max 1000001 is outside 1 to 1000000`,
		},
		"fields without the one they need": {
			bulkhead.Config{Wait: 1, Min: 1, Max: 100},
			`bulkhead: config: Wait needs Queue; Min needs SlowCall; Max needs SlowCall`,
		},
		"bounds in the wrong order": {
			bulkhead.Config{SlowCall: 1, Min: 30, Limit: 20, Max: 10},
			`bulkhead: config: Min 30 is above Max 10; Min 30 is above Limit 20; Limit 20 is above Max 10`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := bulkhead.New(c.config)
			if err == nil || err.Error() != c.want || b != nil {
				t.Errorf("New() = %v, %v\nwant nil, %s", b, err, c.want)
			}
		})
	}
}

func TestAnAdaptiveLimitStartsWithinItsBounds(t *testing.T) {
	for _, c := range []struct {
		config bulkhead.Config
		want   int
	}{
		{bulkhead.Config{}, 64},
		{bulkhead.Config{Limit: 1_000_000}, 1_000_000},
		{bulkhead.Config{SlowCall: 1}, 64},
		{bulkhead.Config{SlowCall: 1, Max: 20}, 20},
		{bulkhead.Config{SlowCall: 1, Min: 100}, 100},
		{bulkhead.Config{SlowCall: 1, Min: 10, Limit: 10, Max: 10}, 10},
	} {
		if got := mustNew(t, c.config).Stats().Limit; got != c.want {
			t.Errorf("New(%+v) has Limit %d, want %d", c.config, got, c.want)
		}
	}
}
