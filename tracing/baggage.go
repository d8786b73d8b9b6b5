package tracing

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/baggage"
)

// The limits of W3C Baggage §3.3.2, for what is read and for what is sent.
const (
	maxBaggageMembers = 64
	maxBaggageBytes   = 8192
)

// parseBaggage reads the lines of a baggage header: the first 64 members within
// the first 8192 bytes over all lines, whole ones only. Illegal members are left
// out; of members with one key the last is kept, as OpenTelemetry demands.
func parseBaggage(lines []string) baggage.Baggage {
	if len(lines) == 0 {
		return baggage.Baggage{}
	}
	// An error says that members were left out, which is what we want of them.
	b, _ := baggage.Parse(limitBaggage(lines))
	return b
}

// limitBaggage joins lines as RFC 9110 §5.3 says and cuts the list to the
// limits. It looks at no more than the limit, however much was sent.
func limitBaggage(lines []string) string {
	if len(lines) == 1 && len(lines[0]) <= maxBaggageBytes && strings.Count(lines[0], ",") < maxBaggageMembers {
		return lines[0]
	}
	var kept []string
	total := 0
	for i, line := range lines {
		if i == maxBaggageBytes {
			break // each line counts at least its comma
		}
		// One byte more than the limit is enough to see that a member exceeds it.
		for text := range strings.SplitSeq(line[:min(len(line), maxBaggageBytes+1)], ",") {
			text = trimSpace(text)
			if text == "" {
				continue
			}
			if total += len(text) + 1; total-1 > maxBaggageBytes || len(kept) == maxBaggageMembers {
				return strings.Join(kept, ",")
			}
			kept = append(kept, text)
		}
	}
	return strings.Join(kept, ",")
}

// formatBaggage returns the baggage header for ctx, "" if there is none. Members
// stand in the order of their keys, so that equal baggage is equal text; those
// that the limits leave no room for are dropped whole.
func formatBaggage(ctx context.Context) string {
	bag := baggage.FromContext(ctx)
	if bag.Len() == 0 {
		return ""
	}
	// What the program itself put in may exceed the limits too.
	texts := make([]string, 0, bag.Len())
	for _, m := range bag.Members() {
		if text := m.String(); text != "" { // "" is a key that no header can carry
			texts = append(texts, text)
		}
	}
	slices.Sort(texts)
	kept, total := texts[:0], 0
	for _, text := range texts {
		if len(kept) == maxBaggageMembers {
			break
		}
		if total+len(text) > maxBaggageBytes {
			continue
		}
		total += len(text) + 1
		kept = append(kept, text)
	}
	return strings.Join(kept, ",")
}
