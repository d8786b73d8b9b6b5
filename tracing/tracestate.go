package tracing

import (
	"strings"

	"go.opentelemetry.io/otel/trace"
)

const (
	maxStateMembers = 32       // W3C Trace Context level 2 §3.3.1
	maxStateBytes   = 512      // what is sent on, §3.3.1.5
	longMember      = 128      // a member longer than this is the first to go
	maxStateInput   = 16 << 10 // what is read, over all lines; 32 of the longest members fit
)

// A state is a tracestate that [trace.TraceState] cannot hold, because that type
// knows only the keys of level 1. It rides in the context beside the span
// context of the same trace.
type state struct {
	traceID trace.TraceID
	members []member
	known   trace.TraceState // those of members that level 1 allows
}

type member struct{ key, value string }

// size returns the bytes that m takes in a list, its comma not included.
func (m member) size() int { return len(m.key) + 1 + len(m.value) }

// parseState reads the lines of a tracestate header (W3C Trace Context level 2
// §3.3). The second result is nil unless the first could not hold everything.
// One illegal member spoils the whole, as do more than 32; of two members with
// one key the first, being the more recent, is kept.
func parseState(lines []string) (trace.TraceState, *state) {
	if len(lines) == 1 && len(lines[0]) <= maxStateBytes {
		// What is legal on level 1 is legal on level 2.
		if ts, err := trace.ParseTraceState(lines[0]); err == nil {
			return ts, nil
		}
	}
	members := limitState(splitState(lines))
	if ts, err := trace.ParseTraceState(joinState(members)); err == nil {
		return ts, nil
	}
	// A sampler sees what level 1 can express; its own members are among that.
	var known []member
	for _, m := range members {
		if _, err := trace.ParseTraceState(joinState([]member{m})); err == nil {
			known = append(known, m)
		}
	}
	ts, _ := trace.ParseTraceState(joinState(known))
	return ts, &state{members: members, known: ts}
}

// splitState returns the members of all lines in order, or nil if the list is
// not legal.
func splitState(lines []string) []member {
	var members []member
	total := 0
	for _, line := range lines {
		if total += len(line) + 1; total > maxStateInput {
			return nil
		}
		for text := range strings.SplitSeq(line, ",") {
			if text = trimSpace(text); text == "" {
				continue // §3.3.1.1 allows empty members
			}
			key, value, ok := strings.Cut(text, "=")
			if !ok || !legalKey(key) || !legalValue(value) || len(members) == maxStateMembers {
				return nil
			}
			members = append(members, member{key, value})
		}
	}
	return unique(members)
}

// unique drops in place the later of members with the same key. A list has at
// most a few more than 32 members, so that comparing each with each is bounded.
func unique(members []member) []member {
	kept := members[:0]
	for _, m := range members {
		if !hasKey(kept, m.key) {
			kept = append(kept, m)
		}
	}
	return kept
}

func hasKey(members []member, key string) bool {
	for _, m := range members {
		if m.key == key {
			return true
		}
	}
	return false
}

// limitState removes members until the list is short enough to be sent on, in
// the order of §3.3.1.5: those longer than 128 bytes first, then from the end.
func limitState(members []member) []member {
	if len(members) > maxStateMembers {
		members = members[:maxStateMembers]
	}
	total := len(members) - 1
	for _, m := range members {
		total += m.size()
	}
	for _, least := range [...]int{longMember + 1, 0} {
		for i := len(members) - 1; i >= 0 && total > maxStateBytes; i-- {
			if size := members[i].size(); size >= least {
				total -= size + 1
				members = append(members[:i], members[i+1:]...)
			}
		}
	}
	return members
}

// joinState writes a list in the one form that all receivers take: one line,
// without whitespace.
func joinState(members []member) string {
	var b strings.Builder
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(m.key)
		b.WriteByte('=')
		b.WriteString(m.value)
	}
	return b.String()
}

// formatState returns the tracestate header for a span whose own state is ts and
// whose trace came in with the state kept aside in s, or with none if s is nil.
func formatState(ts trace.TraceState, s *state) string {
	var members []member
	switch own := ts.String(); {
	case s == nil && len(own) <= maxStateBytes:
		return own
	case s == nil:
		members = stateMembers(ts)
	case own == s.known.String():
		return joinState(s.members)
	default:
		members = mergeState(ts, s)
	}
	return joinState(limitState(members))
}

// mergeState brings together what came in and what a sampler changed: modified
// members move to the front, the others keep their order (§3.5).
func mergeState(ts trace.TraceState, s *state) []member {
	var merged []member
	for _, m := range stateMembers(ts) {
		if s.known.Get(m.key) != m.value {
			merged = append(merged, m)
		}
	}
	for _, m := range s.members {
		removed := s.known.Get(m.key) != "" && ts.Get(m.key) == ""
		if !removed && !hasKey(merged, m.key) {
			merged = append(merged, m)
		}
	}
	return merged
}

// stateMembers returns the members of ts in order.
func stateMembers(ts trace.TraceState) []member {
	members := make([]member, 0, ts.Len())
	ts.Walk(func(key, value string) bool {
		members = append(members, member{key, value})
		return true
	})
	return members
}

// legalKey implements the key rule of §3.3.1.3.1.
func legalKey(key string) bool {
	if key == "" || len(key) > 256 || !isLowerAlnum(key[0]) {
		return false
	}
	for i := 1; i < len(key); i++ {
		if c := key[i]; !isLowerAlnum(c) && c != '_' && c != '-' && c != '*' && c != '/' && c != '@' {
			return false
		}
	}
	return true
}

// legalValue implements the value rule of §3.3.1.3.2; trailing spaces are gone.
func legalValue(value string) bool {
	if value == "" || len(value) > 256 {
		return false
	}
	for i := range len(value) {
		if c := value[i]; c < 0x20 || c > 0x7e || c == ',' || c == '=' {
			return false
		}
	}
	return true
}

func isLowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
