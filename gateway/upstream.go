package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/parley-go/parley/breaker"
	"github.com/parley-go/parley/retry"
)

// Upstream is a service that requests are forwarded to. It is configuration
// only, which [Builder.Build] reads; change nothing in it afterwards.
type Upstream struct {
	// Name is what routes and the access log call the upstream. Required, and
	// unique within a gateway.
	Name string

	// Targets are the absolute http or https URLs of the service's instances,
	// without query; a path is put before that of each request. Requests go to
	// them in turn, and each retry to another one. At least one is required.
	Targets []string

	// TLS configures connections to https targets: RootCAs to trust a private
	// authority, Certificates for mutual TLS. Versions below TLS 1.2 are a fault,
	// and so is InsecureSkipVerify without a VerifyConnection that checks
	// instead. Default: the system's authorities.
	TLS *tls.Config

	// Retry repeats what has failed, as [retry.Policy.Transport] describes.
	// A request body is sent again if its first 64 KiB are all of it and the
	// method or an Idempotency-Key allows it, or if nothing of it was read.
	// Default: each request is tried once.
	Retry *retry.Policy

	// Breaker is the template of one breaker for each target. A target whose
	// breaker is open is passed over, and the request fails where all are.
	// A Name that is empty becomes that of the upstream and the target's host.
	// Default: no breakers.
	//
	// Without Classify, status 429 counts as a success: it tells one client of its
	// own quota. Leave SlowCall and WholeBody, and AttemptTimeout of Retry, unset
	// where strangers send large bodies: who is slow at that counts against the
	// target.
	Breaker *breaker.Config

	// Wrap puts a RoundTripper around the transport, such as that of a tracer:
	// it sees each attempt, with the target's URL. It is called once, by Build.
	// Default: none.
	Wrap func(http.RoundTripper) http.RoundTripper

	// HTTP2 speaks nothing but HTTP/2 to the targets, and to http targets without
	// asking first, as gRPC servers expect. Default: HTTP/1.1 to http targets, and
	// to https targets what the handshake agrees on.
	HTTP2 bool

	// DialTimeout bounds each connection attempt, and each TLS handshake, anew.
	// Default 5 seconds. Negative is a fault.
	DialTimeout time.Duration

	// IdleTimeout is how long an unused connection is kept. Let it be shorter
	// than that of the targets, so that none is closed under a request.
	// Default 30 seconds. Negative is a fault.
	IdleTimeout time.Duration

	// MaxIdle bounds the unused connections kept for each target. Default 256.
	// Negative is a fault.
	MaxIdle int

	// MaxConns bounds the connections to each target; requests wait for one.
	// Tunnels count. Default: no bound. Negative is a fault.
	MaxConns int
}

const (
	defaultDialTimeout = 5 * time.Second
	defaultIdleTimeout = 30 * time.Second
	defaultMaxIdle     = 256
)

func (u *Upstream) withDefaults() Upstream {
	c := *u
	if c.DialTimeout == 0 {
		c.DialTimeout = defaultDialTimeout
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = defaultIdleTimeout
	}
	if c.MaxIdle == 0 {
		c.MaxIdle = defaultMaxIdle
	}
	return c
}

func (u *Upstream) faults() (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if u.Name == "" {
		fault("Name is empty")
	} else if !safeID(u.Name) {
		fault("Name %q has more than 64 characters or others than letters, digits and - _ .", u.Name)
	}
	if len(u.Targets) == 0 {
		fault("Targets is empty")
	}
	if t := u.TLS; t != nil {
		if t.MinVersion != 0 && t.MinVersion < tls.VersionTLS12 || t.MaxVersion != 0 && t.MaxVersion < tls.VersionTLS12 {
			fault("TLS allows or demands a version below 1.2")
		}
		if t.InsecureSkipVerify && t.VerifyConnection == nil {
			fault("TLS.InsecureSkipVerify trusts anybody; set RootCAs, or check in VerifyConnection")
		}
	}
	if u.Retry != nil {
		if err := u.Retry.Validate(); err != nil {
			fault("Retry: %v", err)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"DialTimeout", u.DialTimeout}, {"IdleTimeout", u.IdleTimeout}} {
		if d.value < 0 {
			fault("%s %v is negative", d.name, d.value)
		}
	}
	if u.MaxIdle < 0 {
		fault("MaxIdle %d is negative", u.MaxIdle)
	}
	if u.MaxConns < 0 {
		fault("MaxConns %d is negative", u.MaxConns)
	}
	return faults
}

// parseTarget reads a target's URL. The path of what it returns ends without a
// slash.
func parseTarget(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("it is no URL") // the parser's text would repeat credentials
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("its scheme is neither http nor https")
	case u.Host == "" || u.Hostname() == "":
		return nil, errors.New("it has no host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("it has more than scheme, host and path")
	}
	if u.Path != "" {
		if _, ok := (pathRules{}).canonical(u); !ok {
			return nil, errors.New("its path is ambiguous")
		}
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	return u, nil
}

// transport returns the connections to the upstream. Nothing of the environment
// changes where they lead. The bodies pass as they are, so that lengths and
// encodings are those that client and upstream agreed on.
func (u *Upstream) transport() *http.Transport {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if u.TLS != nil {
		config = u.TLS.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	}
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: u.DialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    u.DialTimeout,
		MaxIdleConnsPerHost:    u.MaxIdle,
		MaxConnsPerHost:        u.MaxConns,
		IdleConnTimeout:        u.IdleTimeout,
		ExpectContinueTimeout:  time.Second, // zero would send the body unasked
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
	if u.HTTP2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP2(true)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}
