package idempotency

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"
)

// CanonicalJSON is an [HTTP].Fingerprint for clients that encode the same JSON
// differently when they repeat a request: white space, the order of members and
// the escaping of strings do not count. How a number is written does. A body
// that is not one JSON value in UTF-8 stands for itself.
func CanonicalJSON(_ *http.Request, body []byte) []byte {
	if !utf8.Valid(body) {
		return body // else different bad bytes would all become U+FFFD
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // large numbers that differ must not meet in a float64
	var v any
	if err := d.Decode(&v); err != nil {
		return body
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return body // something follows
	}
	canonical, err := json.Marshal(v) // sorts members
	if err != nil {
		return body
	}
	return canonical
}

// fingerprint hashes what must be the same whenever the key is. The body comes last
// and so needs no length.
func fingerprint(r *http.Request, body []byte) (sum [32]byte) {
	var room [512]byte
	h := sha256.New()
	h.Write(parts(room[:0], r.Method, r.URL.EscapedPath(), r.URL.RawQuery,
		first(r.Header["Content-Type"]), first(r.Header["Content-Encoding"])))
	h.Write(body)
	h.Sum(sum[:0])
	return sum
}

// first is Header.Get without its search for a canonical name.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// errBodyTooLarge is the reason for which readBody refuses a body.
var errBodyTooLarge = errors.New("idempotency: the request body is too large")

// errBodyGone says that somebody has read the body, of which nothing is left.
var errBodyGone = errors.New("idempotency: the request body was read before the middleware")

// parsedBody returns what stands for a body that readBody has not found: the
// form, if that is what somebody outside has made of it. A body that is gone must
// not pass for an empty one, or every payload would look like the first. The
// parts of a multipart form may be files, which are not read for this, and what
// readBody finds of its body may be only the end.
func parsedBody(r *http.Request) ([]byte, error) {
	switch {
	case r.MultipartForm != nil:
		return nil, errBodyGone
	case len(r.PostForm) > 0:
		return []byte(r.PostForm.Encode()), nil
	case r.ContentLength > 0:
		return nil, errBodyGone
	}
	return nil, nil
}

// readBody reads the whole body, which must be known before the store is asked.
// It reads no more than limit and trusts Content-Length only for small bodies,
// so that a client pays for memory in bytes that it sends.
func readBody(r *http.Request, limit int) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > int64(limit) {
		return nil, errBodyTooLarge
	}
	const trusted = 64 << 10
	room := 512
	if r.ContentLength >= 0 {
		room = int(min(r.ContentLength, trusted)) + 1 // one more to meet io.EOF
	}
	b := make([]byte, 0, room)
	for {
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return nil, errBodyTooLarge
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
				return nil, errBodyTooLarge
			}
			return nil, err
		case len(b) == cap(b):
			b = append(b, 0)[:len(b)]
		}
	}
}

// again is a request body that has been read and is given to the handler.
type again struct{ bytes.Reader }

// Close implements [io.Closer]. The server closes the body that was read.
func (*again) Close() error { return nil }

// withBody returns a copy of r with ctx and a fresh body.
func withBody(ctx context.Context, r *http.Request, body []byte) *http.Request {
	r = r.WithContext(ctx)
	r.Body = http.NoBody
	if len(body) > 0 {
		b := &again{}
		b.Reset(body)
		r.Body = b
	}
	return r
}
