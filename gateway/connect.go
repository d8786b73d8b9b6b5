package gateway

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

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
	case !validPort(u.Port()):
		return nil, errors.New("its port is outside of 1 to 65535")
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

const maxPort = 1<<16 - 1

// maxAnswerHeader bounds the header of an answer. Some servers repeat fields of the
// request, as CORS invites to: a client that sends as much as it may must not get
// a target blamed for it.
const maxAnswerHeader = 2 * maxHeaderBytes

// validPort accepts the port of a URL, which may be missing.
func validPort(s string) bool {
	n, err := strconv.Atoi(s)
	return s == "" || err == nil && n >= 1 && n <= maxPort
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
	if u.Host != "" && config.ServerName == "" {
		config.ServerName = canonicalHost(u.Host)
	}
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: u.DialTimeout, KeepAlive: u.KeepAlive}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    u.DialTimeout,
		MaxIdleConnsPerHost:    u.MaxIdle,
		MaxConnsPerHost:        u.MaxConns,
		IdleConnTimeout:        u.IdleTimeout,
		ResponseHeaderTimeout:  u.HeaderTimeout,
		ExpectContinueTimeout:  u.ContinueTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
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
