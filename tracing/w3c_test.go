package tracing_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/parley-go/parley/tracing"
)

// The cases below are those of the W3C trace-context conformance harness at
// SPEC_LEVEL=2 and STRICT_LEVEL=2, by its names: what it sends to a service over
// a real connection, and what it expects of the calls that the service makes in
// answer. The service here is built on the package: its middleware, its
// transport, and a provider that records.

const (
	w3cTrace  = "12345678901234567890123456789012"
	w3cSpan   = "1234567890123456"
	w3cParent = "00-" + w3cTrace + "-" + w3cSpan
)

// A call is the context that the service sent on.
type call struct{ traceID, spanID, flags, state string }

// has reports whether the tracestate has a member.
func (c call) has(member string) bool { return slices.Contains(strings.Split(c.state, ","), member) }

func (c call) hasKey(key string) bool {
	return slices.ContainsFunc(strings.Split(c.state, ","), func(m string) bool { return strings.HasPrefix(m, key+"=") })
}

// harness sends header lines to the service and returns its calls, n of them.
type harness func(t *testing.T, n int, lines ...string) []call

func newHarness(t *testing.T) harness {
	var got http.Header
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	t.Cleanup(callback.Close)
	tracer := mustNew(t, tracing.Config{Provider: &recorder{}})
	client := &http.Client{Transport: tracer.Transport(callback.Client().Transport)}
	var n int
	var headers []http.Header
	service := httptest.NewServer(tracer.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for range n {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, callback.URL, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			headers = append(headers, got)
		}
	})))
	t.Cleanup(service.Close)
	return func(t *testing.T, count int, lines ...string) []call {
		t.Helper()
		n, headers = count, nil
		send(t, service.Listener.Addr().String(), lines)
		if len(headers) != count {
			t.Fatalf("the service made %d calls, want %d", len(headers), count)
		}
		calls := make([]call, count)
		for i, h := range headers {
			calls[i] = parseCall(t, h)
		}
		return calls
	}
}

// send posts a request whose header lines are on the wire exactly as given.
func send(t *testing.T, addr string, lines []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n",
		strings.Join(append(lines, ""), "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the service answered %d, want 200", resp.StatusCode)
	}
}

func parseCall(t *testing.T, h http.Header) call {
	t.Helper()
	parents, states := h.Values("traceparent"), h.Values("tracestate")
	if len(parents) != 1 || len(states) > 1 {
		t.Fatalf("traceparent, tracestate = %q, %q, want one line and at most one", parents, states)
	}
	parts := strings.Split(parents[0], "-")
	if len(parts) != 4 || parts[0] != "00" || len(parts[1]) != 32 || len(parts[2]) != 16 || len(parts[3]) != 2 ||
		parts[1] == strings.Repeat("0", 32) || parts[2] == strings.Repeat("0", 16) || strings.Trim(strings.Join(parts, ""), "0123456789abcdef") != "" {
		t.Fatalf("traceparent = %q, which is not legal", parents[0])
	}
	return call{traceID: parts[1], spanID: parts[2], flags: parts[3], state: strings.Join(states, ",")}
}

// Expectations of a single call.
type check func(call) error

func sameTrace(c call) error {
	if c.traceID != w3cTrace || c.spanID == w3cSpan {
		return fmt.Errorf("trace and span = %s %s, want trace %s and a span of its own", c.traceID, c.spanID, w3cTrace)
	}
	return nil
}

func newTrace(c call) error {
	if strings.Contains(c.traceID, "234567890123456") {
		return fmt.Errorf("trace = %s, want a new one", c.traceID)
	}
	return nil
}

func members(want ...string) check {
	return func(c call) error {
		for _, m := range want {
			if !c.has(m) {
				return fmt.Errorf("tracestate = %q, want a member %q", c.state, m)
			}
		}
		return sameTrace(c)
	}
}

func withoutKeys(keys ...string) check {
	return func(c call) error {
		for _, k := range keys {
			if c.hasKey(k) {
				return fmt.Errorf("tracestate = %q, want no key %q", c.state, k)
			}
		}
		return sameTrace(c)
	}
}

func exactly(state string) check {
	return func(c call) error {
		if c.state != state {
			return fmt.Errorf("tracestate = %q, want %q", c.state, state)
		}
		return sameTrace(c)
	}
}

// An exchange is what is sent and what the answer must be.
type exchange struct {
	lines []string
	check check
}

func parent(value string, c check) exchange {
	return exchange{[]string{"traceparent: " + value}, c}
}

func states(c check, values ...string) exchange {
	lines := []string{"traceparent: " + w3cParent + "-00"}
	for _, v := range values {
		lines = append(lines, "tracestate: "+v)
	}
	return exchange{lines, c}
}

func countedMembers(from, to int) string {
	var m []string
	for i := from; i <= to; i++ {
		m = append(m, fmt.Sprintf("bar%02d=%02d", i, i))
	}
	return strings.Join(m, ",")
}

func printable(from, to byte) string {
	var b strings.Builder
	for c := from; c <= to; c++ {
		b.WriteByte(c)
	}
	return b.String()
}

func w3cCases() map[string][]exchange {
	legal := func(call) error { return nil }
	noState := func(c call) error {
		if c.state != "" {
			return fmt.Errorf("tracestate = %q, want none", c.state)
		}
		return nil
	}
	future := "-what-the-future-will-be-like"
	plainKey := printable('a', 'z') + "0123456789_-*/"
	vendorKey := plainKey + "@a-z0-9_-*/"
	value := printable(0x20, 0x2b) + printable(0x2d, 0x3c) + printable(0x3e, 0x7e)
	return map[string][]exchange{
		"both_traceparent_and_tracestate_missing":    {{nil, legal}},
		"traceparent_included_tracestate_missing":    {parent(w3cParent+"-01", sameTrace)},
		"traceparent_duplicated":                     {{[]string{"traceparent: 00-12345678901234567890123456789011-" + w3cSpan + "-01", "traceparent: " + w3cParent + "-01"}, newTrace}},
		"traceparent_header_name":                    {{[]string{"trace-parent: " + w3cParent + "-01"}, newTrace}, {[]string{"trace.parent: " + w3cParent + "-01"}, newTrace}},
		"traceparent_header_name_valid_casing":       {{[]string{"TraceParent: " + w3cParent + "-01"}, sameTrace}, {[]string{"TrAcEpArEnT: " + w3cParent + "-01"}, sameTrace}, {[]string{"TRACEPARENT: " + w3cParent + "-01"}, sameTrace}},
		"traceparent_version_0x00":                   {parent(w3cParent+"-01.", newTrace), parent(w3cParent+"-01"+future, newTrace)},
		"traceparent_version_0xcc":                   {parent("cc"+w3cParent[2:]+"-01", sameTrace), parent("cc"+w3cParent[2:]+"-01"+future, sameTrace), parent("cc"+w3cParent[2:]+"-01."+future[1:], newTrace)},
		"traceparent_version_0xff":                   {parent("ff"+w3cParent[2:]+"-01", newTrace)},
		"traceparent_version_illegal_characters":     {parent(".0"+w3cParent[2:]+"-01", newTrace), parent("0."+w3cParent[2:]+"-01", newTrace)},
		"traceparent_version_too_long":               {parent("0"+w3cParent+"-01", newTrace), parent("00"+w3cParent+"-01", newTrace)},
		"traceparent_version_too_short":              {parent(w3cParent[1:]+"-01", newTrace)},
		"traceparent_trace_id_all_zero":              {parent("00-"+strings.Repeat("0", 32)+"-"+w3cSpan+"-01", newTrace)},
		"traceparent_trace_id_illegal_characters":    {parent("00-."+w3cTrace[1:]+"-"+w3cSpan+"-01", newTrace), parent("00-"+w3cTrace[:31]+".-"+w3cSpan+"-01", newTrace)},
		"traceparent_trace_id_too_long":              {parent("00-"+w3cTrace+"3-"+w3cSpan+"-01", newTrace)},
		"traceparent_trace_id_too_short":             {parent("00-"+w3cTrace[:31]+"-"+w3cSpan+"-01", newTrace)},
		"traceparent_parent_id_all_zero":             {parent("00-"+w3cTrace+"-"+strings.Repeat("0", 16)+"-01", newTrace)},
		"traceparent_parent_id_illegal_characters":   {parent("00-"+w3cTrace+"-."+w3cSpan[1:]+"-01", newTrace), parent("00-"+w3cTrace+"-"+w3cSpan[:15]+".-01", newTrace)},
		"traceparent_parent_id_too_long":             {parent(w3cParent+"7-01", newTrace)},
		"traceparent_parent_id_too_short":            {parent(w3cParent[:len(w3cParent)-1]+"-01", newTrace)},
		"traceparent_trace_flags_illegal_characters": {parent(w3cParent+"-.0", newTrace), parent(w3cParent+"-0.", newTrace)},
		"traceparent_trace_flags_too_long":           {parent(w3cParent+"-001", newTrace)},
		"traceparent_trace_flags_too_short":          {parent(w3cParent+"-1", newTrace)},
		"traceparent_ows_handling": {
			parent(" "+w3cParent+"-01", sameTrace), parent("\t"+w3cParent+"-01", sameTrace), parent(w3cParent+"-01 ", sameTrace),
			parent(w3cParent+"-01\t", sameTrace), parent("\t "+w3cParent+"-01 \t", sameTrace),
		},
		"tracestate_included_traceparent_missing":  {{[]string{"tracestate: foo=1"}, noState}, {[]string{"tracestate: foo=1,bar=2"}, noState}},
		"tracestate_included_traceparent_included": {states(members("foo=1", "bar=2"), "foo=1,bar=2")},
		"tracestate_header_name": {
			{[]string{"traceparent: " + w3cParent + "-00", "trace-state: foo=1"}, withoutKeys("foo")},
			{[]string{"traceparent: " + w3cParent + "-00", "trace.state: foo=1"}, withoutKeys("foo")},
		},
		"tracestate_header_name_valid_casing": {
			{[]string{"traceparent: " + w3cParent + "-00", "TraceState: foo=1"}, members("foo=1")},
			{[]string{"traceparent: " + w3cParent + "-00", "TrAcEsTaTe: foo=1"}, members("foo=1")},
			{[]string{"traceparent: " + w3cParent + "-00", "TRACESTATE: foo=1"}, members("foo=1")},
		},
		"tracestate_empty_header": {states(exactly(""), ""), states(members("foo=1"), "foo=1", ""), states(members("foo=1"), "", "foo=1")},
		"tracestate_multiple_headers_different_keys": {
			states(exactly("foo=1,bar=2,rojo=1,congo=2,baz=3"), "foo=1,bar=2", "rojo=1,congo=2", "baz=3"),
		},
		"tracestate_duplicated_keys": {
			states(exactly("foo=1"), "foo=1,foo=1"), states(exactly("foo=1"), "foo=1,foo=2"),
			states(exactly("foo=1"), "foo=1", "foo=1"), states(exactly("foo=1"), "foo=1", "foo=2"),
		},
		"tracestate_all_allowed_characters": {states(exactly(plainKey+"="+value), plainKey+"="+value), states(exactly(vendorKey+"="+value), vendorKey+"="+value)},
		"tracestate_ows_handling": {
			states(members("foo=1", "bar=2", "baz=3"), "foo=1 \t , \t bar=2, \t baz=3"),
			states(members("foo=1", "bar=2", "baz=3"), "foo=1\t \t,\t \tbar=2,\t \tbaz=3"),
			states(members("foo=1"), " foo=1"), states(members("foo=1"), "\tfoo=1"), states(members("foo=1"), "foo=1 "),
			states(members("foo=1"), "foo=1\t"), states(members("foo=1"), "\t foo=1 \t"),
		},
		"tracestate_key_illegal_characters": {
			states(withoutKeys("foo ", "foo"), "foo =1"), states(withoutKeys("FOO"), "FOO=1"), states(withoutKeys("foo.bar"), "foo.bar=1"),
		},
		"tracestate_key_illegal_vendor_format": {
			states(members("foo@=1", "bar=2"), "foo@=1,bar=2"), states(withoutKeys("@foo", "bar"), "@foo=1,bar=2"),
			states(members("foo@@bar=1", "bar=2"), "foo@@bar=1,bar=2"), states(members("foo@bar@baz=1", "bar=2"), "foo@bar@baz=1,bar=2"),
		},
		"tracestate_member_count_limit": {
			states(exactly(countedMembers(1, 32)), countedMembers(1, 10), countedMembers(11, 20), countedMembers(21, 30), countedMembers(31, 32)),
			states(withoutKeys("bar01"), countedMembers(1, 10), countedMembers(11, 20), countedMembers(21, 30), countedMembers(31, 33)),
		},
		"tracestate_key_length_limit": {
			states(members("foo=1", strings.Repeat("z", 256)+"=1"), "foo=1", strings.Repeat("z", 256)+"=1"),
			states(withoutKeys("foo"), "foo=1", strings.Repeat("z", 257)+"=1"),
			states(members("foo=1", strings.Repeat("t", 241)+"@"+strings.Repeat("v", 14)+"=1"), "foo=1", strings.Repeat("t", 241)+"@"+strings.Repeat("v", 14)+"=1"),
			states(members("foo=1", strings.Repeat("t", 242)+"@v=1"), "foo=1", strings.Repeat("t", 242)+"@v=1"),
			states(members("foo=1", "t@"+strings.Repeat("v", 15)+"=1"), "foo=1", "t@"+strings.Repeat("v", 15)+"=1"),
		},
		"tracestate_value_illegal_characters": {states(withoutKeys("foo"), "foo=bar=baz"), states(withoutKeys("foo", "bar"), "foo=,bar=3")},
		"propagates_random_flag": {parent(w3cParent+"-02", func(c call) error {
			if c.flags != "02" {
				return fmt.Errorf("flags = %s, want 02", c.flags)
			}
			return sameTrace(c)
		})},
	}
}

// w3cMultiple are the cases in which the service makes three calls.
func w3cMultiple() map[string]exchange {
	return map[string]exchange{
		"multiple_requests_with_valid_traceparent":   parent(w3cParent+"-01", sameTrace),
		"multiple_requests_without_traceparent":      {nil, newTrace},
		"multiple_requests_with_illegal_traceparent": parent("00-"+strings.Repeat("0", 32)+"-"+w3cSpan+"-01", newTrace),
	}
}

func TestW3CConformance(t *testing.T) {
	run := newHarness(t)
	single, multiple := w3cCases(), w3cMultiple()
	if n := len(single) + len(multiple); n != 41 {
		t.Errorf("%d cases, want the harness's 41", n)
	}
	for name, exchanges := range single {
		t.Run(name, func(t *testing.T) {
			for _, e := range exchanges {
				if err := e.check(run(t, 1, e.lines...)[0]); err != nil {
					t.Errorf("after %q: %v", e.lines, err)
				}
			}
		})
	}
	for name, e := range multiple {
		t.Run(name, func(t *testing.T) {
			spans := map[string]bool{}
			for _, c := range run(t, 3, e.lines...) {
				spans[c.spanID] = true
				if err := e.check(c); err != nil {
					t.Errorf("after %q: %v", e.lines, err)
				}
			}
			if len(spans) != 3 {
				t.Errorf("3 calls have %d span ids, want 3", len(spans))
			}
		})
	}
}

func mustNew(t testing.TB, cfg tracing.Config) *tracing.Tracer {
	t.Helper()
	tracer, err := tracing.New(cfg)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	return tracer
}
