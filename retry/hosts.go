package retry

import (
	"maps"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
)

// maxHosts bounds the budgets of a Transport. The hosts of a service are few;
// only where strangers choose them are there more, and those share one budget,
// which errs on the side of fewer retries.
const maxHosts = 1024

// hostBudgets are the budgets of a Transport by host. Readers take no lock: the
// map is replaced as a whole when a host is new.
type hostBudgets struct {
	known atomic.Pointer[map[string]*Budget]
	rest  *Budget    // of all hosts past the first maxHosts
	mu    sync.Mutex // held while a host is added
}

func newHostBudgets() *hostBudgets {
	h := &hostBudgets{rest: newBucket(defaultRetryRate, defaultMinPerSecond, defaultBurst)}
	h.known.Store(&map[string]*Budget{})
	return h
}

// of returns the budget for the host of u, nil for a request without a URL,
// which the transport below will refuse.
func (h *hostBudgets) of(u *url.URL) *Budget {
	if u == nil {
		return nil
	}
	host := u.Host
	known := *h.known.Load()
	if b := known[host]; b != nil {
		return b
	}
	// One host has one budget, however it is spelt. Only the usual spelling is
	// ever added, so that others find it here.
	host = usual(u)
	if b := known[host]; b != nil {
		return b
	}
	if len(known) >= maxHosts {
		return h.rest
	}
	return h.add(host)
}

// usual returns the host of u in lower case, without a final dot and without a
// port that its scheme implies.
func usual(u *url.URL) string {
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if port == "" || u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
		return host
	}
	return host + ":" + port
}

func (h *hostBudgets) add(host string) *Budget {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := *h.known.Load()
	if b := known[host]; b != nil {
		return b
	}
	if len(known) >= maxHosts {
		return h.rest
	}
	grown := maps.Clone(known)
	b := newBucket(defaultRetryRate, defaultMinPerSecond, defaultBurst)
	grown[host] = b
	h.known.Store(&grown)
	return b
}
