package tracing_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-go/parley/tracing"
)

// forwarded returns what a context sends on that was extracted from h.
func forwarded(h http.Header) http.Header {
	out := http.Header{}
	ctx := tracing.Propagator{}.Extract(context.Background(), propagation.HeaderCarrier(h))
	tracing.Propagator{}.Inject(ctx, propagation.HeaderCarrier(out))
	return out
}

func TestTraceparentIsReadByTheRulesOfVersion00(t *testing.T) {
	const id = "-" + w3cTrace + "-" + w3cSpan + "-"
	for _, tt := range []struct{ does, in, want string }{
		{"is forwarded", "00" + id + "01", "00" + id + "01"},
		{"keeps sampled off", "00" + id + "00", "00" + id + "00"},
		{"keeps the random flag", "00" + id + "03", "00" + id + "03"},
		{"clears unknown flags and keeps the trace, 05", "00" + id + "05", "00" + id + "01"},
		{"clears unknown flags and keeps the trace, ff", "00" + id + "ff", "00" + id + "03"},
		{"becomes version 00", "01" + id + "01", "00" + id + "01"},
		{"becomes version 00 without what follows", "cc" + id + "09-what-comes", "00" + id + "01"},
		{"is refused with a suffix on version 00", "00" + id + "01-x", ""},
		{"is refused in upper case", "00-" + strings.Repeat("A", 32) + "-" + w3cSpan + "-01", ""},
		{"is refused in upper case, version", "AA" + id + "01", ""},
		{"is refused in upper case, flags", "00" + id + "0A", ""},
		{"is refused with version ff", "ff" + id + "01", ""},
		{"is refused when short", "00" + id + "0", ""},
		{"is refused when empty", "", ""},
		{"is refused with other delimiters", strings.ReplaceAll("00"+id+"01", "-", "_"), ""},
		{"is refused with a trace id of zeros", "00-" + strings.Repeat("0", 32) + "-" + w3cSpan + "-01", ""},
		{"is refused with a span id of zeros", "00-" + w3cTrace + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"is refused when prohibitively long", "01" + id + "01-" + strings.Repeat("x", 1<<20), ""},
		{"is refused when two lines were joined", "00" + id + "01,00" + id + "01", ""},
	} {
		t.Run(tt.does, func(t *testing.T) {
			if got := forwarded(http.Header{"Traceparent": {tt.in}}).Get("traceparent"); got != tt.want {
				t.Errorf("traceparent %q was sent on as %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestRepeatedTraceparentIsNone(t *testing.T) {
	h := http.Header{"Traceparent": {w3cParent + "-01", w3cParent + "-01"}, "Tracestate": {"a=1"}}
	if got := forwarded(h); len(got) != 0 {
		t.Errorf("sent on %v, want nothing", got)
	}
}

func TestTracestate(t *testing.T) {
	long := func(key string, n int) string { return key + "=" + strings.Repeat("v", n-len(key)-1) }
	for _, tt := range []struct {
		does string
		in   []string
		want string
	}{
		{"joins several lines in order", []string{"a=1", "b=2", "c=3"}, "a=1,b=2,c=3"},
		{"passes keys of level 2", []string{"foo@=1,1a@@b=2,plain=3"}, "foo@=1,1a@@b=2,plain=3"},
		{"keeps the more recent of a repeated key", []string{"a=1,b=2,a=3", "b=4"}, "a=1,b=2"},
		{"keeps leading spaces of a value", []string{"a=  x "}, "a=  x"},
		{"skips empty members", []string{",, a=1 ,\t,b=2,"}, "a=1,b=2"},
		{"drops the whole over one illegal member", []string{"a=1,B=2"}, ""},
		{"drops the whole over a control character", []string{"a=1,b=\x01"}, ""},
		{"keeps 32 members", []string{countedMembers(1, 32)}, countedMembers(1, 32)},
		{"drops 33 members", []string{countedMembers(1, 33)}, ""},
		{"keeps 512 bytes", []string{long("a", 256) + "," + long("b", 255)}, long("a", 256) + "," + long("b", 255)},
		{"drops members longer than 128 first", []string{long("a", 129) + "," + long("b", 128), long("c", 128) + "," + long("d", 128) + ",e=5"}, long("b", 128) + "," + long("c", 128) + "," + long("d", 128) + ",e=5"},
		{"drops long members from the end and no more than needed", []string{long("a", 200) + "," + long("b", 200) + "," + long("c", 200)}, long("a", 200) + "," + long("b", 200)},
		{"then drops from the end", []string{long("a", 128) + "," + long("b", 128), long("c", 128) + "," + long("d", 128) + ",e=5"}, long("a", 128) + "," + long("b", 128) + "," + long("c", 128)},
		{"is not read beyond 16 KiB", []string{"a=1", strings.Repeat(",", 16<<10)}, ""},
	} {
		t.Run(tt.does, func(t *testing.T) {
			got := forwarded(http.Header{"Traceparent": {w3cParent + "-01"}, "Tracestate": tt.in})
			if state := strings.Join(got["Tracestate"], " | "); state != tt.want {
				t.Errorf("tracestate %q was sent on as %q, want %q", tt.in, state, tt.want)
			}
			if got.Get("traceparent") != w3cParent+"-01" {
				t.Errorf("traceparent was sent on as %q, want it unchanged", got.Get("traceparent"))
			}
		})
	}
}

func TestTracestateOfLevel2IsMergedWithWhatASamplerChanged(t *testing.T) {
	insert := func(key, value string) func(trace.TraceState) trace.TraceState {
		return func(ts trace.TraceState) trace.TraceState {
			ts, err := ts.Insert(key, value)
			if err != nil {
				t.Fatal(err)
			}
			return ts
		}
	}
	for _, tt := range []struct {
		does, in, want string
		change         func(trace.TraceState) trace.TraceState
	}{
		{"added members go first", "x@=1,a=1,b=2", "ot=th:8,x@=1,a=1,b=2", insert("ot", "th:8")},
		{"modified members move to the front", "x@=1,a=1,b=2", "b=3,x@=1,a=1", insert("b", "3")},
		{"removed members are gone", "x@=1,a=1,b=2", "x@=1,b=2", func(ts trace.TraceState) trace.TraceState { return ts.Delete("a") }},
		{"the limits hold after the change", "x@=" + strings.Repeat("v", 127) + ",y@=" + strings.Repeat("v", 250) + ",a=" + strings.Repeat("v", 124), "ot=th:8,x@=" + strings.Repeat("v", 127) + ",a=" + strings.Repeat("v", 124), insert("ot", "th:8")},
		{"the limits hold for level 1 too", "a=" + strings.Repeat("v", 250) + ",b=" + strings.Repeat("v", 250), "ot=th:8,a=" + strings.Repeat("v", 250), insert("ot", "th:8")},
		{"32 members stay the most", "x@=1," + countedMembers(1, 31), "ot=th:8,x@=1," + countedMembers(1, 30), insert("ot", "th:8")},
	} {
		t.Run(tt.does, func(t *testing.T) {
			in := propagation.MapCarrier{"traceparent": w3cParent + "-01", "tracestate": tt.in}
			ctx := tracing.Propagator{}.Extract(t.Context(), in)
			ctx, span := (&recorder{state: tt.change}).Tracer("").Start(ctx, "child")
			defer span.End()
			out := propagation.MapCarrier{}
			tracing.Propagator{}.Inject(ctx, out)
			if out["tracestate"] != tt.want {
				t.Errorf("tracestate = %q, want %q", out["tracestate"], tt.want)
			}
		})
	}
}

func TestTracestateOfAnotherTraceIsNotSent(t *testing.T) {
	ctx := tracing.Propagator{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": w3cParent + "-01", "tracestate": "x@=1"})
	ctx, span := (&recorder{}).Tracer("").Start(ctx, "root", trace.WithNewRoot())
	defer span.End()
	out := propagation.MapCarrier{}
	tracing.Propagator{}.Inject(ctx, out)
	if state, ok := out["tracestate"]; ok {
		t.Errorf("tracestate = %q, want none in a new trace", state)
	}
}

func TestBaggageLimitsHoldOverAllLinesAndKeepWholeMembers(t *testing.T) {
	counted := func(n int) string {
		var m []string
		for i := range n {
			m = append(m, fmt.Sprintf("k%03d=v", i))
		}
		return strings.Join(m, ",")
	}
	big := func(key string, n int) string { return key + "=" + strings.Repeat("v", n-len(key)-1) }
	for _, tt := range []struct {
		does string
		in   []string
		want string
	}{
		{"64 members are kept", []string{counted(64)}, counted(64)},
		{"the 65th member is dropped", []string{counted(65)}, counted(64)},
		{"the 65th member is dropped on another line", []string{counted(64), "x=1"}, counted(64)},
		{"8192 bytes are kept", []string{big("a", 8192)}, big("a", 8192)},
		{"8193 bytes in one member are dropped", []string{big("a", 8193)}, ""},
		{"8192 bytes over two lines are kept", []string{big("a", 4096), big("b", 4095)}, big("a", 4096) + "," + big("b", 4095)},
		{"the member that exceeds 8192 bytes is dropped whole", []string{big("a", 4096), big("b", 4096)}, big("a", 4096)},
		{"nothing after the limit is read", []string{big("a", 4096), strings.Repeat("x=1,", 1<<18)}, big("a", 4096) + ",x=1"},
		{"a hundred thousand empty lines are nothing", append(make([]string, 100_000), "a=1"), ""},
		{"illegal members are dropped alone", []string{"a=1,b,c d=2,e=3;p;q=1"}, "a=1,e=3;p;q=1"},
		{"values are decoded and encoded", []string{"a=%C3%A9%20"}, "a=%C3%A9%20"},
	} {
		t.Run(tt.does, func(t *testing.T) {
			if got := forwarded(http.Header{"Baggage": tt.in}).Get("baggage"); got != tt.want {
				t.Errorf("baggage was sent on as %.80q (%d bytes), want %.80q (%d bytes)", got, len(got), tt.want, len(tt.want))
			}
		})
	}
}

func TestBaggageThatTheProgramMadeIsSentWithinTheLimits(t *testing.T) {
	var bag baggage.Baggage
	for _, m := range []struct{ key, value string }{{"a", "1"}, {"big", strings.Repeat("é", 2000)}, {"ключ", "x"}, {"z", strings.Repeat("v", 4100)}} {
		member, err := baggage.NewMemberRaw(m.key, m.value)
		if err != nil {
			t.Fatal(err)
		}
		if bag, err = bag.SetMember(member); err != nil {
			t.Fatal(err)
		}
	}
	out := propagation.MapCarrier{}
	tracing.Propagator{}.Inject(baggage.ContextWithBaggage(t.Context(), bag), out)
	if want := "a=1,z=" + strings.Repeat("v", 4100); out["baggage"] != want {
		t.Errorf("baggage = %.60q (%d bytes), want %.60q (%d bytes)", out["baggage"], len(out["baggage"]), want, len(want))
	}
}

// A carrier of one's own that holds several lines for a name.
type manyLines struct {
	propagation.MapCarrier
	values map[string][]string
}

func (c manyLines) Values(name string) []string { return c.values[name] }

func TestAllLinesOfACarrierAreRead(t *testing.T) {
	ctx := tracing.Propagator{}.Extract(t.Context(), manyLines{values: map[string][]string{
		"traceparent": {w3cParent + "-01"}, "tracestate": {"a=1", "b=2"}, "baggage": {"k=v", "l=w"},
	}})
	out := propagation.MapCarrier{}
	tracing.Propagator{}.Inject(ctx, out)
	if out["tracestate"] != "a=1,b=2" || out["baggage"] != "k=v,l=w" {
		t.Errorf("sent on %v, want both lines of each", out)
	}
}

func TestPropagatorNamesItsFieldsAndSetsNothingForNothing(t *testing.T) {
	if got := strings.Join(tracing.Propagator{}.Fields(), " "); got != "traceparent tracestate baggage" {
		t.Errorf("Fields() = %q", got)
	}
	out := propagation.MapCarrier{}
	tracing.Propagator{}.Inject(t.Context(), out)
	if len(out) != 0 {
		t.Errorf("Inject() set %v, want nothing", out)
	}
}

func TestDetachKeepsTraceAndBaggageAndDropsTheRest(t *testing.T) {
	type key struct{}
	in := propagation.MapCarrier{"traceparent": w3cParent + "-01", "tracestate": "x@=1,a=1", "baggage": "k=v"}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	ctx := tracing.Propagator{}.Extract(parent, in)
	cancel()
	detached := tracing.Detach(ctx)
	if err := detached.Err(); err != nil {
		t.Errorf("Err() = %v after the original was cancelled, want nil", err)
	}
	if v := detached.Value(key{}); v != nil {
		t.Errorf("Value() = %v, want it to stay behind", v)
	}
	out := propagation.MapCarrier{}
	tracing.Propagator{}.Inject(detached, out)
	if out["traceparent"] != in["traceparent"] || out["tracestate"] != in["tracestate"] || out["baggage"] != in["baggage"] {
		t.Errorf("the detached context sends %v, want %v", out, in)
	}
	if got := tracing.Detach(t.Context()); got != context.Background() {
		t.Errorf("Detach() of a context without a trace = %v, want the background", got)
	}
}
