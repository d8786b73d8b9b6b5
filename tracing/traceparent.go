package tracing

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"
)

const (
	parentBytes = 55 // of a traceparent of version 00
	// maxParentBytes bounds what a later version may append. It is ours: the
	// specification asks only for some bound.
	maxParentBytes = 512
	knownFlags     = trace.FlagsSampled | trace.FlagsRandom
)

// parseParent reads the value of a traceparent header (W3C Trace Context level 2
// §3.2). A later version than 00 is read as far as 00 goes, and flags that level
// 2 does not know are cleared, so that what is sent on is always of version 00.
func parseParent(v string) (trace.SpanContext, bool) {
	v = trimSpace(v)
	if len(v) < parentBytes || len(v) > maxParentBytes || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return trace.SpanContext{}, false
	}
	version, ok := hexByte(v[0], v[1])
	if !ok || version == 0xff {
		return trace.SpanContext{}, false
	}
	if len(v) > parentBytes && (version == 0 || v[parentBytes] != '-') {
		return trace.SpanContext{}, false
	}
	flags, ok := hexByte(v[53], v[54])
	if !ok {
		return trace.SpanContext{}, false
	}
	// These refuse upper case and all zeros.
	traceID, err := trace.TraceIDFromHex(v[3:35])
	if err != nil {
		return trace.SpanContext{}, false
	}
	spanID, err := trace.SpanIDFromHex(v[36:52])
	if err != nil {
		return trace.SpanContext{}, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    traceID,
		SpanID:     spanID,
		TraceFlags: trace.TraceFlags(flags) & knownFlags,
		Remote:     true,
	}), true
}

// formatParent returns the traceparent header of sc, which must be valid.
func formatParent(sc trace.SpanContext) string {
	traceID, spanID, flags := sc.TraceID(), sc.SpanID(), [1]byte{byte(sc.TraceFlags() & knownFlags)}
	var b [parentBytes]byte
	b[0], b[1], b[2], b[35], b[52] = '0', '0', '-', '-', '-'
	hex.Encode(b[3:35], traceID[:])
	hex.Encode(b[36:52], spanID[:])
	hex.Encode(b[53:], flags[:])
	return string(b[:])
}

// newIDs returns a fresh span context that says that nobody records it.
func newIDs() trace.SpanContext {
	var cfg trace.SpanContextConfig
	for !cfg.TraceID.IsValid() {
		binary.BigEndian.PutUint64(cfg.TraceID[:8], rand.Uint64())
		binary.BigEndian.PutUint64(cfg.TraceID[8:], rand.Uint64())
	}
	for !cfg.SpanID.IsValid() {
		binary.BigEndian.PutUint64(cfg.SpanID[:], rand.Uint64())
	}
	cfg.TraceFlags = trace.FlagsRandom
	return trace.NewSpanContext(cfg)
}

// hexByte reads two lower-case hexadecimal digits.
func hexByte(hi, lo byte) (byte, bool) {
	h, ok1 := hexDigit(hi)
	l, ok2 := hexDigit(lo)
	return h<<4 | l, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// trimSpace removes what RFC 9110 §5.6.3 calls optional whitespace.
func trimSpace(s string) string {
	for len(s) > 0 && isSpace(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }
