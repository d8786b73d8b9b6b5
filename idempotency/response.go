package idempotency

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// A recorded response is: a version byte; the status; for each header its name,
// number of values and values, where no values delete the header; an empty name;
// the body. Numbers are unsigned
// varints, and strings are preceded by their length.
const responseVersion = 1

// encodeHead appends all but the body. It leaves out headers that must not be
// replayed, those to drop and those that are as they were in outer, and deletes
// those of outer that are gone.
func encodeHead(b *bytes.Buffer, status int, h, outer http.Header, drop map[string]bool) {
	room := b.AvailableBuffer()
	room = append(room, responseVersion)
	room = binary.AppendUvarint(room, uint64(status))
	for name, values := range h {
		if was, set := outer[name]; len(values) == 0 || set && slices.Equal(was, values) || drop[http.CanonicalHeaderKey(name)] || !isLasting(name, h) {
			continue
		}
		room = appendString(room, name)
		room = binary.AppendUvarint(room, uint64(len(values)))
		for _, v := range values {
			room = appendString(room, v)
		}
	}
	for name := range outer {
		if _, set := h[name]; !set && !drop[http.CanonicalHeaderKey(name)] && isLasting(name, h) {
			room = append(appendString(room, name), 0)
		}
	}
	b.Write(append(room, 0)) // an empty name
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// isLasting reports whether a header of the first response belongs to a replay. It
// does not if it speaks of that one connection, client or moment.
func isLasting(name string, h http.Header) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", // RFC 9110 §7.6.1
		"Content-Length", "Date", "Retry-After", "Server-Timing",
		"Set-Cookie", "Set-Cookie2",
		"Traceparent", "Tracestate", "Traceresponse", "Baggage",
		replayedHeader:
		return false
	}
	if name == "" || strings.HasPrefix(name, "Proxy-") || strings.HasPrefix(name, http.TrailerPrefix) {
		return false
	}
	for _, line := range h["Connection"] {
		for named := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(named), name) {
				return false
			}
		}
	}
	return true
}

// HTTPResult returns the result by which a repeated request is answered with this
// response. It is for a handler that completes its own claim, before it answers,
// inside the transaction that has its effect (package sqlstore). Headers that speak
// of one connection, client or moment are left out, as [Guard.Middleware] says, and
// those of DropHeaders when it is replayed. What a middleware outside has set cannot
// be told from the rest here: make the header of what the handler itself sets, not
// of w.Header().
//
// A status outside of 200 to 999 makes a result that is NotStored. It is safe for
// concurrent use, and keeps neither header nor body.
func HTTPResult(status int, header http.Header, body []byte) Result {
	if status < 200 || status > 999 {
		return Result{NotStored: true}
	}
	var b bytes.Buffer
	encodeHead(&b, status, header, nil, nil)
	if hasBody(status) {
		b.Write(body)
	}
	return Result{Data: b.Bytes()}
}

// replay answers with the recorded response. It leaves out the headers to drop, which
// may be more than when the record was made, by [HTTPResult] for example.
func replay(w http.ResponseWriter, data []byte, drop map[string]bool) error {
	h := w.Header()
	status, body, err := decodeHead(data, h, drop)
	if err != nil {
		return err
	}
	h[replayedHeader] = []string{"true"} // as Set would, but the name is canonical
	if hasBody(status) {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	if len(body) > 0 {
		_, _ = w.Write(body) // the client may be gone
	}
	return nil
}

// errResponse means that another program wrote the record, or a later version
// of this one.
var errResponse = errors.New("idempotency: the recorded response cannot be read")

// decodeHead reads what encodeHead wrote, sets the headers but those to drop, and
// returns the rest of data. h is not changed when it returns an error.
func decodeHead(data []byte, h http.Header, drop map[string]bool) (status int, body []byte, err error) {
	if len(data) == 0 || data[0] != responseVersion {
		return 0, nil, errResponse
	}
	d := decoder{data: data, at: 1}
	status = d.number()
	if status < 200 || status > 999 {
		return 0, nil, errResponse
	}
	// The first pass checks and counts, so that the second needs two allocations
	// for any number of headers.
	start, total := d.at, 0
	for name := d.number(); name > 0; name = d.number() {
		d.skip(name)
		values := d.number()
		for range values {
			d.skip(d.number())
		}
		total += values
	}
	if d.bad {
		return 0, nil, errResponse
	}
	body = data[d.at:]
	text, all := string(data[:d.at]), make([]string, 0, total)
	for d.at = start; ; {
		name, first := d.text(text), len(all)
		if name == "" {
			return status, body, nil
		}
		for range d.number() {
			all = append(all, d.text(text))
		}
		switch {
		case drop[http.CanonicalHeaderKey(name)]:
		case len(all) == first:
			delete(h, name)
		default:
			h[name] = all[first:len(all):len(all)]
		}
	}
}

// decoder walks over data and turns bad instead of leaving it; from there on all
// numbers are 0.
type decoder struct {
	data []byte
	at   int
	bad  bool
}

// number reads a varint, which counts bytes or things of at least a byte, so
// that it cannot be larger than the data.
func (d *decoder) number() int {
	v, n := binary.Uvarint(d.data[d.at:])
	if d.bad || n <= 0 || v > uint64(max(len(d.data), 999)) {
		d.bad = true
		return 0
	}
	d.at += n
	return int(v)
}

func (d *decoder) skip(n int) {
	if d.bad || n > len(d.data)-d.at {
		d.bad = true
		return
	}
	d.at += n
}

func (d *decoder) text(all string) string {
	n := d.number()
	d.at += n
	return all[d.at-n : d.at]
}
