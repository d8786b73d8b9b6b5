package main

import (
	"context"
	"net/http"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
)

// stub answers at once, so that only what the transports add is measured.
type stub struct{}

func (stub) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}

func transportRows() []row {
	ctx := context.Background()
	get := func(t http.RoundTripper) loop {
		return func(n int) {
			for range n {
				req := must(http.NewRequestWithContext(ctx, http.MethodGet, "http://in.memory/orders", nil))
				resp := must(t.RoundTrip(req))
				_ = resp.Body.Close()
			}
		}
	}
	b := must(breaker.New(breaker.Config{}))
	both := retry.Policy{}.Transport(b.Transport(stub{}))
	failsafeBoth := failsafehttp.NewRoundTripper(stub{}, failsafehttp.NewRetryPolicyBuilder().Build(),
		circuitbreaker.NewBuilder[*http.Response]().WithFailureRateThreshold(.5, 20, 10*time.Second).Build())
	client := retryablehttp.NewClient()
	client.Logger, client.HTTPClient.Transport = nil, stub{}
	retryable := &retryablehttp.RoundTripper{Client: client}
	return []row{
		{name: "retry/transport_with_breaker", ours: get(both), peer: "failsafehttp", them: get(failsafeBoth), base: get(stub{}), most: .25, allocs: 3},
		{name: "retry/transport", ours: get(retry.Policy{}.Transport(stub{})), peer: "retryablehttp", them: get(retryable), base: get(stub{}), allocs: 3},
	}
}
