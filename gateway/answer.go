package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
)

// answer is the ResponseWriter that the proxy core writes to. It is there for the
// informational responses, which come before the real one: the core would copy
// their headers into those that middleware has set, and wipe all of them.
type answer struct {
	http.ResponseWriter
	early http.Header // of an informational response; nil until there is one
	bare  bool        // the client knows no informational responses
	final bool        // the real response has come
	hints atomic.Int32
}

// What the informational responses are up to. The core waits for one that is being
// written, so that a client who takes none must not make the trip outlast its time.
const (
	hintsWelcome = iota
	hintUnderWay
	hintsOver
)

// Header implements [http.ResponseWriter].
func (a *answer) Header() http.Header {
	if a.final {
		return a.ResponseWriter.Header()
	}
	if a.early == nil {
		a.early = make(http.Header)
	}
	return a.early
}

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(status int) {
	switch {
	case a.final:
		a.ResponseWriter.WriteHeader(status)
	case status == http.StatusContinue:
		// The server says it itself, as soon as the body is read.
	case a.bare: // RFC 9110 §15.2
	case !a.hints.CompareAndSwap(hintsWelcome, hintUnderWay):
	default:
		removeHopByHop(a.early)
		h := a.ResponseWriter.Header()
		kept := maps.Clone(h)
		clear(h)
		maps.Copy(h, a.early)
		a.ResponseWriter.WriteHeader(status)
		clear(h)
		maps.Copy(h, kept)
		a.hints.CompareAndSwap(hintUnderWay, hintsWelcome)
	}
}

// Unwrap lets [http.ResponseController] reach the server's own writer.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

var errSwitch = errors.New("gateway: the upstream switched to a protocol that was not asked for")

// admit checks the final response and removes what is not for the client.
func admit(resp *http.Response) error {
	t := tripOf(resp.Request.Context())
	if !t.arrived() {
		return timeoutError{} // the headers have come, but too late
	}
	switch status := resp.StatusCode; {
	case status == http.StatusSwitchingProtocols:
		if !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || resp.Request.Header.Get("Upgrade") == "" {
			return errSwitch
		}
		t.tunnel = resp.Body
		removeHopByHop(resp.Header)
		resp.Header.Set("Connection", "Upgrade")
		resp.Header.Set("Upgrade", "websocket")
	case status < 200 || status > 599:
		return fmt.Errorf("gateway: the upstream answered with status %d, which HTTP does not have", status)
	}
	if resp.Request.Header.Get("Te") != "" && resp.Request.Method != http.MethodHead {
		resp.Header.Del("Content-Length") // HTTP/1.1 has no trailers where there is a length
	}
	t.exchange.body.stop(untimed)
	if t.http1 && t.exchange.body.unfinished() {
		// Or the server would wait for the rest of the body before it answers.
		resp.Header.Set("Connection", "close")
	}
	if resp.StatusCode != http.StatusSwitchingProtocols { // its body is the connection
		removeFraming(resp.Trailer)
		t.arriving = upstreamBody{resp.Body, t, resp}
		resp.Body = &t.arriving
	}
	resp.Header.Del("Alt-Svc")
	resp.Header.Del(requestIDHeader) // the gateway's own stands already
	t.answer.final = true
	return nil
}
