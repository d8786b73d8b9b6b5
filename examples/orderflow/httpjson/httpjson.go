// Package httpjson is the REST style that the services of the order flow share:
// JSON in and out, RFC 9457 problem details for what goes wrong.
package httpjson

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// MaxBody bounds every body that a service reads, from clients and from other
// services alike.
const MaxBody = 64 << 10

// A Problem is an error with an HTTP answer.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Wait is how long the client should stay away, 0 where nothing is known.
	Wait time.Duration `json:"-"`
}

// Error returns the title and the detail.
func (p *Problem) Error() string { return fmt.Sprintf("%s: %s", p.Title, p.Detail) }

// RetryAfter returns Wait, which a retry policy and a message consumer read.
func (p *Problem) RetryAfter() time.Duration { return p.Wait }

// Errorf returns a Problem with the given status and detail.
func Errorf(status int, format string, args ...any) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// Read decodes the one JSON value that r's body must hold. Its errors are
// Problems: a field that v does not have is an error, because a misspelt name
// would otherwise be lost without a word.
func Read(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return Errorf(http.StatusRequestEntityTooLarge, "the body exceeds %d bytes", MaxBody)
	}
	if err != nil {
		return Errorf(http.StatusBadRequest, "the body could not be read")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return Errorf(http.StatusBadRequest, "the body is not the JSON expected here: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Errorf(http.StatusBadRequest, "the body goes on after its JSON value")
	}
	return nil
}

// ID reads a number from a path, in its one canonical form.
func ID(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}

// Write answers with v.
func Write(w http.ResponseWriter, status int, v any) {
	write(w, status, "application/json", v)
}

// Fail answers with err: as it is where it is a Problem; otherwise without
// details, which may hold what a client must not see.
func Fail(w http.ResponseWriter, err error) {
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		p = &Problem{Title: http.StatusText(http.StatusInternalServerError), Status: http.StatusInternalServerError}
	}
	if p.Wait > 0 {
		seconds := (p.Wait + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	write(w, p.Status, "application/problem+json", p)
}

func write(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, contentType, body = http.StatusInternalServerError, "application/problem+json", []byte(`{"title":"Internal Server Error","status":500}`)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// Call sends in, or nothing if in is nil, and decodes the answer into out. An
// answer outside 2xx becomes a Problem; a failure to get any answer is returned
// as the transport reported it.
func Call(ctx context.Context, c *http.Client, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b) // a type with which net/http can send the body again
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		p := &Problem{}
		if json.Unmarshal(b, p) != nil || p.Title == "" {
			p.Title = http.StatusText(resp.StatusCode)
		}
		p.Status = resp.StatusCode
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			p.Wait = time.Duration(min(s, 3600)) * time.Second
		}
		return p
	}
	return json.Unmarshal(b, out)
}
