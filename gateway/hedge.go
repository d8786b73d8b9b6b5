package gateway

import (
	"context"
	"net/http"

	"github.com/parley-go/parley/retry"
)

// hedge asks a second target where the first is slow.
type hedge struct {
	how  retry.Hedging
	next http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (h *hedge) RoundTrip(req *http.Request) (*http.Response, error) {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		if req.Body == nil && req.Header["Upgrade"] == nil {
			return retry.Hedge(req.Context(), h.how, func(ctx context.Context) (*http.Response, error) {
				return h.next.RoundTrip(req.WithContext(ctx))
			}, nil)
		}
	}
	return h.next.RoundTrip(req)
}
