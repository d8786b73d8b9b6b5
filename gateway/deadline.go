package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

const (
	requestTimeoutHeader = "X-Request-Timeout"
	grpcTimeoutHeader    = "Grpc-Timeout"
	maxTimeoutDigits     = 8 // as gRPC has it
)

// limits are what a client asks for by itself; zero asks for nothing.
type limits struct {
	timeout time.Duration // until the headers of the answer, by X-Request-Timeout
	grpc    time.Duration // until the end of the call, by Grpc-Timeout
}

func limitsOf(h http.Header) (l limits) {
	if v := h[requestTimeoutHeader]; len(v) == 1 {
		l.timeout = count(v[0], time.Millisecond)
	}
	if v := h[grpcTimeoutHeader]; len(v) == 1 && len(v[0]) > 1 {
		last := len(v[0]) - 1
		l.grpc = count(v[0][:last], grpcUnit(v[0][last]))
	}
	return l
}

// cap returns the shortest of what the client and its route grant.
func (l limits) cap(d time.Duration) time.Duration {
	for _, asked := range [...]time.Duration{l.timeout, l.grpc} {
		if asked > 0 {
			d = min(d, asked)
		}
	}
	return d
}

// count reads a number of at most 8 digits; what is none is 0.
func count(s string, unit time.Duration) time.Duration {
	if len(s) > maxTimeoutDigits {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || unit == 0 {
		return 0
	}
	if n > uint64(math.MaxInt64/unit) {
		return math.MaxInt64
	}
	return time.Duration(n) * unit
}

// grpcUnit returns what a letter of the gRPC protocol means, 0 for all others.
func grpcUnit(c byte) time.Duration {
	switch c {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

// deadlines tells the upstream, with each attempt, how long the gateway will wait
// for it: at most patience, where that is not 0.
type deadlines struct {
	next     http.RoundTripper
	patience time.Duration
}

// RoundTrip implements [http.RoundTripper].
func (d *deadlines) RoundTrip(req *http.Request) (*http.Response, error) {
	t := tripOf(req.Context())
	if t.told[0] != "" {
		// What sent the attempt before may still read the header.
		header := req.Header.Clone()
		req = req.WithContext(req.Context())
		req.Header = header
	}
	t.announce(req.Header, d.patience)
	return d.next.RoundTrip(req)
}

// announce sets what remains of the client's and the route's time. gRPC counts a
// call to its end, which Timeout says nothing about: its header says what the
// client has said, less what has passed since, and nothing of itself.
func (t *trip) announce(h http.Header, patience time.Duration) {
	left := time.Until(t.deadline)
	if patience > 0 {
		left = min(left, patience)
	}
	value := t.told[:] // of the first attempt; another one may come while it is read
	if t.told[0] != "" {
		value = make([]string, 1)
	}
	value[0] = strconv.FormatInt(max(left.Milliseconds(), 1), 10)
	h[requestTimeoutHeader] = value
	if t.limits.grpc > 0 {
		passed := time.Since(t.exchange.started)
		h[grpcTimeoutHeader] = []string{grpcTimeout(t.limits.grpc - passed)}
	} else {
		delete(h, grpcTimeoutHeader)
	}
}

// grpcTimeout writes a duration, rounded down, in the finest unit that has room
// for it.
func grpcTimeout(d time.Duration) string {
	d = max(d, 1)
	for _, unit := range [...]byte{'n', 'u', 'm', 'S', 'M'} {
		if n := int64(d / grpcUnit(unit)); n < 1e8 {
			return strconv.FormatInt(n, 10) + string(unit)
		}
	}
	return strconv.FormatInt(int64(d/time.Hour), 10) + "H"
}
