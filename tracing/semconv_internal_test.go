package tracing

import (
	"net"
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
)

func TestNamesAreThoseOfThePinnedVersion(t *testing.T) {
	if schemaURL != semconv.SchemaURL {
		t.Errorf("schemaURL = %q, want %q", schemaURL, semconv.SchemaURL)
	}
	if doc, err := os.ReadFile("doc.go"); err != nil || !strings.Contains(string(doc), semconvVersion) {
		t.Errorf("doc.go does not name version %s (%v)", semconvVersion, err)
	}
	for got, want := range map[attribute.Key]attribute.Key{
		keyErrorType: semconv.ErrorTypeKey, keyExceptionType: semconv.ExceptionTypeKey, keyExceptionStacktrace: semconv.ExceptionStacktraceKey,
		keyPeerAddress: semconv.NetworkPeerAddressKey, keyPeerPort: semconv.NetworkPeerPortKey, keyProtocolVersion: semconv.NetworkProtocolVersionKey,
		keyServerAddress: semconv.ServerAddressKey, keyServerPort: semconv.ServerPortKey,
		keyMethod: semconv.HTTPRequestMethodKey, keyMethodOriginal: semconv.HTTPRequestMethodOriginalKey, keyResendCount: semconv.HTTPRequestResendCountKey,
		keyStatusCode: semconv.HTTPResponseStatusCodeKey, keyRoute: semconv.HTTPRouteKey, keyURLFull: semconv.URLFullKey, keyURLPath: semconv.URLPathKey,
		keyURLQuery: semconv.URLQueryKey, keyURLScheme: semconv.URLSchemeKey, keyUserAgent: semconv.UserAgentOriginalKey,
		keyBatchCount: semconv.MessagingBatchMessageCountKey, keyConsumerGroup: semconv.MessagingConsumerGroupNameKey, keyDestination: semconv.MessagingDestinationNameKey,
		keyMessageID: semconv.MessagingMessageIDKey, keyOperationName: semconv.MessagingOperationNameKey, keyOperationType: semconv.MessagingOperationTypeKey,
		keySystem: semconv.MessagingSystemKey,
	} {
		if got != want {
			t.Errorf("key = %q, want %q", got, want)
		}
	}
	for got, want := range map[string]interface {
		Name() string
		Unit() string
	}{metricServer: httpconv.ServerRequestDuration{}, metricClient: httpconv.ClientRequestDuration{}} {
		if got != want.Name() || want.Unit() != "s" {
			t.Errorf("measure %q in s, want %q in %q", got, want.Name(), want.Unit())
		}
	}
	for got, want := range map[string]attribute.KeyValue{
		typeSend: semconv.MessagingOperationTypeSend, typeProcess: semconv.MessagingOperationTypeProcess, valueOther: semconv.HTTPRequestMethodOther,
	} {
		if got != want.Value.AsString() {
			t.Errorf("value = %q, want %q", got, want.Value.AsString())
		}
	}
	for _, m := range []attribute.KeyValue{
		semconv.HTTPRequestMethodConnect, semconv.HTTPRequestMethodDelete, semconv.HTTPRequestMethodGet, semconv.HTTPRequestMethodHead, semconv.HTTPRequestMethodOptions,
		semconv.HTTPRequestMethodPatch, semconv.HTTPRequestMethodPost, semconv.HTTPRequestMethodPut, semconv.HTTPRequestMethodTrace, semconv.HTTPRequestMethodQuery,
	} {
		method := m.Value.AsString()
		if value, name := knownMethod(method); value != method || name != method {
			t.Errorf("knownMethod(%q) = %q, %q, want it known", method, value, name)
		}
	}
}

// The signatures of redirected and signed URLs are removed whatever else is in
// the query.
func FuzzRedactQuery(f *testing.F) {
	for _, seed := range []string{"a=1&sig=x", "sig", "sig=&sig=1;sig=2", "%73ig=1", "=&;", strings.Repeat("a", 1023) + "&sig=x", "s%6=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		out := redactQuery(query, signatureParams())
		for param := range strings.FieldsFuncSeq(out, func(r rune) bool { return r == '&' || r == ';' }) {
			if name, value, ok := strings.Cut(param, "="); ok && isSecret(name, signatureParams()) && value != redacted {
				t.Errorf("redactQuery(%q) = %q, which shows %q", query, out, value)
			}
		}
		if again := redactQuery(out, signatureParams()); len(out) <= maxText && again != out {
			t.Errorf("redactQuery(%q) = %q, want it to stay", out, again)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("é\xff", 1)
	f.Add(strings.Repeat("é", 10), 7)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 0 || limit > 1<<10 {
			return
		}
		got := text(s, limit)
		if len(got) > limit || strings.ToValidUTF8(got, "") != got {
			t.Errorf("text(%q, %d) = %q, want valid UTF-8 of at most %d bytes", s, limit, got, limit)
		}
		if len(s) <= limit && strings.ToValidUTF8(s, "") == s && got != s {
			t.Errorf("text(%q, %d) = %q, want it unchanged", s, limit, got)
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"h:80", "h", "[::1]:80", "[::1]", "::1", ":80", "", "h:99999", "h:x", "[", "]:1", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, digits := splitHostPort(s)
		if wantHost, wantDigits, err := net.SplitHostPort(s); err == nil && (strings.Trim(wantHost, "[]") != host || wantDigits != digits) {
			t.Errorf("splitHostPort(%q) = %q, %q, want %q, %q as the standard library has it", s, host, digits, wantHost, wantDigits)
		}
		if port := portOf(digits, 7); port < 0 || port > 65535 {
			t.Errorf("portOf(%q) = %d, want a port", digits, port)
		}
		for _, a := range appendAddress(nil, keyServerAddress, keyServerPort, s, 80) {
			if a.Key == keyServerAddress && (a.Value.AsString() == "" || len(a.Value.AsString()) > maxText) {
				t.Errorf("%q has the address %q", s, a.Value.AsString())
			}
		}
	})
}
