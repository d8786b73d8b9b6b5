// Package retryafter reads the Retry-After header (RFC 9110 §10.2.3) the way a
// client under attack must: in both of its forms, without overflow, and without
// a date that rounds down to "at once".
package retryafter

import (
	"math"
	"net/http"
	"strings"
	"time"
)

// Max is what an absurdly large value becomes. It exceeds every sensible cap,
// so that a caller which compares before it sleeps gives up instead of waiting.
const Max = time.Duration(math.MaxInt64)

// Parse returns how long after now the header asks the client to stay away, and
// whether it asks at all. Seconds may carry spaces around them; the three date
// forms of HTTP are read; a date in the past is 0; a number that does not fit
// is [Max]; anything else, a negative number included, is not a request to
// wait.
func Parse(h http.Header, now time.Time) (time.Duration, bool) {
	// Like http.Header.Get: of several lines the first counts.
	v := strings.Trim(h.Get("Retry-After"), " \t")
	if v == "" {
		return 0, false
	}
	if v[0] >= '0' && v[0] <= '9' {
		return seconds(v)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return max(at.Sub(now), 0), true // Sub saturates
}

func seconds(v string) (time.Duration, bool) {
	const most = int64(Max / time.Second)
	var n int64
	for i := range len(v) {
		c := v[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		if n <= most { // past that n only has to stay large
			n = n*10 + int64(c-'0')
		}
	}
	if n > most {
		return Max, true
	}
	return time.Duration(n) * time.Second, true
}
