package idempotency

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// HTTP says how [Guard.Middleware] treats requests. Scope or GlobalScope must be
// set; everything else has a default.
type HTTP struct {
	// Scope returns whose the request's key is, such as the tenant that
	// authentication found. The same key in another scope is another key, so
	// that nobody gets, or can probe for, the answers of somebody else. Where
	// several services share a Store, the scope must begin with the name of the
	// service. An error or an empty scope is answered by 500, without running the
	// handler.
	Scope func(*http.Request) (string, error)

	// GlobalScope says that all callers share one scope. That is safe where all
	// of them may see each other's answers, and only one service uses the Store.
	// Default: Scope decides.
	GlobalScope bool

	// Required refuses requests without a key by 400. Default: they pass
	// untouched.
	Required bool

	// Methods are those that the middleware looks at; all others pass untouched.
	// Default POST and PATCH.
	Methods []string

	// Strict takes only keys in the form of the draft, a quoted String. Default:
	// a bare key is taken too, and is the same key as the quoted one.
	Strict bool

	// MaxBody is the largest request body, in bytes; a larger one is answered by
	// 413. Each request with a key holds its body in memory while it runs.
	// Default 1 MiB. Negative is an error.
	MaxBody int

	// MaxStored is the largest response body that is kept, in bytes. A larger
	// one reaches the client whole, and a repeated request is answered by 409
	// without running the handler. Each request with a key holds its response in
	// memory up to this size. Default 1 MiB. Negative is an error.
	MaxStored int

	// Wait is how long a request waits while another one with its key is
	// running, before it is answered by 409. Default: it does not wait. Negative
	// is an error.
	Wait time.Duration

	// DocsURL is where the service documents its use of keys. It becomes the
	// type of the problem answers, with the kind as fragment, and a Link.
	// Default: none. It must be an absolute http or https URL without fragment.
	DocsURL string

	// FailOpen runs the handler without protection when the Store fails or is
	// full; not where it fails only after it said that another request with the
	// key is running. Default: such requests are answered by 503.
	FailOpen bool

	// ReplayAll keeps and replays responses of 5xx too. Default: they release
	// the key, so that a repeated request runs the handler again. 401, 403, 408,
	// 409, 425 and 429 always release it.
	ReplayAll bool

	// DropHeaders are headers of the response that a replay leaves out, beside
	// those that it leaves out anyway (see [Guard.Middleware]), such as one that
	// counts requests. Default: none.
	DropHeaders []string

	// Fingerprint returns what stands for the body in the comparison with the
	// first request; method, path, query, Content-Type and Content-Encoding
	// always count. The host does not: a gateway that tries another instance of
	// the service may ask for it by another name. See [CanonicalJSON]. It must not
	// change the request or the body. Default: the body as it is.
	//
	// Of a body that ParseForm has read before the middleware, body is PostForm,
	// encoded anew.
	Fingerprint func(r *http.Request, body []byte) []byte
}

const (
	defaultMaxBody   = 1 << 20
	defaultMaxStored = 1 << 20
)

// Middleware returns a middleware that runs a handler once for each key that
// clients send in the Idempotency-Key header, and answers repeated requests with
// the first one's response. The error lists every fault of the config.
//
// The table shows how requests with a key are answered. Errors are problem
// details (RFC 9457) of the type DocsURL#kind; they never contain the key.
//
//	request                           status    kind of problem
//	first                             handler's
//	repeated, first one done          recorded  (with Idempotency-Replayed: true)
//	repeated, first one running       409       in-progress, with Retry-After
//	repeated with another payload     422       key-reused
//	repeated, response was not kept   409       response-not-stored
//	without a key that is required    400       key-missing
//	with a malformed key, or several  400       key-invalid
//	with a body that breaks off       400       body-incomplete
//	with a body over MaxBody          413       body-too-large
//	Scope failed                      500       scope-unknown
//	its body was read outside         500       body-consumed
//	store did not answer              503       store-unavailable, with Retry-After
//	its claim was lost before the
//	handler wrote anything            503       interrupted, with Retry-After
//
// The handler's response is held back, up to MaxStored bytes, until it is
// recorded: a client that has it and repeats the request gets the replay. Kept
// are all responses but those of 5xx (see ReplayAll), 401, 403, 408, 409, 425
// and 429, which release the key. A handler that returns without writing has
// answered 200, also when its client has left: one that gives up must answer by
// 5xx or panic with [http.ErrAbortHandler].
//
// A handler that flushes or hijacks, or writes more than MaxStored bytes,
// continues directly to the client; its response is not kept, and neither is the
// handler run again, even if it panics after that.
//
// A replay leaves out Set-Cookie, the headers of the connection (RFC 9110
// §7.6.1), of tracing, Date, Retry-After and Server-Timing, all trailers, and the
// headers that a middleware outside had set before the handler ran, unless the
// handler changed or deleted them. Compression belongs outside too, so that what
// is replayed suits every client.
//
// What reads the body, such as ParseForm, belongs inside. A form that was parsed
// outside is compared as it was parsed; any other body of which nothing is left
// is refused, and so is a multipart form. A body without Content-Length that was
// read outside cannot be told from an empty one.
//
// Of several of these middlewares around one handler, with the same scope, the
// outermost acts. A request that the handler makes to another one in the process
// passes it under the handler's own key and scope, and needs a claim of its own
// under any other.
//
// The Pattern that a ServeMux inside finds is set on the request outside; values
// of its path are not.
func (g *Guard) Middleware(config HTTP) (func(http.Handler) http.Handler, error) {
	var f faults
	if g == nil {
		f.add("the Guard is nil")
	}
	switch {
	case config.Scope == nil && !config.GlobalScope:
		f.add("neither Scope nor GlobalScope is set: say whose a key is")
	case config.Scope != nil && config.GlobalScope:
		f.add("both Scope and GlobalScope are set")
	}
	for _, m := range config.Methods {
		if m == "" || m != strings.ToUpper(m) {
			f.add("method %q is not an upper-case name", m)
		}
	}
	drop := make(map[string]bool, len(config.DropHeaders))
	for _, name := range config.DropHeaders {
		if name == "" || strings.ContainsAny(name, " \t\r\n:") {
			f.add("DropHeaders: %q is not the name of a header", name)
		}
		drop[http.CanonicalHeaderKey(name)] = true
	}
	if config.MaxBody < 0 {
		f.add("MaxBody %d is negative", config.MaxBody)
	}
	if config.MaxStored < 0 {
		f.add("MaxStored %d is negative", config.MaxStored)
	}
	f.negative("Wait", config.Wait)
	if config.DocsURL != "" {
		if err := checkDocsURL(config.DocsURL); err != nil {
			f.add("DocsURL: %v", err)
		}
	}
	if err := f.err("HTTP config"); err != nil {
		return nil, err
	}
	if config.MaxBody == 0 {
		config.MaxBody = defaultMaxBody
	}
	if config.MaxStored == 0 {
		config.MaxStored = defaultMaxStored
	}
	if len(config.Methods) == 0 {
		config.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	pool := &sync.Pool{}
	return func(next http.Handler) http.Handler {
		return &handler{guard: g, config: config, next: next, drop: drop, buffers: pool}
	}, nil
}

func checkDocsURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("not a URL") // the parser's error repeats the URL in many words
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q is not an absolute http or https URL", s)
	case u.Fragment != "" || strings.ContainsAny(s, "<>\" #"):
		return fmt.Errorf("%q has a fragment or a character that a Link cannot carry", s)
	}
	return nil
}
