package kafka

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/parley-go/parley/messaging"
)

const (
	// maxTopic is how long the name of a topic may be in Kafka.
	maxTopic = 249

	deadSuffix  = ".dlq"
	retryPrefix = ".retry."
	// longestSuffix is that of the longest delay, in milliseconds.
	longestSuffix = len(retryPrefix + "86400000")
)

// names are what a group of a topic has on Kafka.
type names struct {
	topic string // what is published to
	group string // the consumer group that works
	dead  string // the topic of the dead letters
	read  string // the consumer group that looks at them
}

// namesOf returns the names of a group, or an error when Kafka has no room for
// them. No two groups share a name, nor does one have that of a topic that may be
// published to: the last '.' before the suffix separates topic and group, since
// escape leaves none in the name of a group, and checkTopic refuses topics with
// such a suffix.
func namesOf(topic, group string) (names, error) {
	base := topic + "." + escape(group)
	if n := len(base) + longestSuffix; n > maxTopic {
		return names{}, fmt.Errorf("%w: the topics of group %s of %s need names of %d characters, and Kafka takes %d: choose shorter names",
			messaging.ErrInvalid, group, topic, n, maxTopic)
	}
	return names{topic: topic, group: base, dead: base + deadSuffix, read: base + deadSuffix + ".readers"}, nil
}

// rung returns the topic in which messages wait for d.
func (n names) rung(d time.Duration) string {
	return n.group + retryPrefix + strconv.FormatInt(d.Milliseconds(), 10)
}

// delay returns for how long what is in topic waits: 0 where it is no rung of the
// group.
func (n names) delay(topic string) time.Duration {
	ms, ok := strings.CutPrefix(topic, n.group+retryPrefix)
	if d, err := strconv.ParseInt(ms, 10, 64); ok && err == nil {
		return time.Duration(min(max(d, 0), maxDelay.Milliseconds())) * time.Millisecond
	}
	return 0
}

// isRung reports whether topic is one in which messages of the group wait,
// whether this configuration has its delay or an earlier one had.
func (n names) isRung(topic string) bool {
	ms, ok := strings.CutPrefix(topic, n.group+retryPrefix)
	return ok && isDigits(ms)
}

// escape writes the name of a group without '.', so that the last one in the name
// of a topic separates: a '.' is "--d", and a '-' that could be read as the
// beginning of such a mark is "--h". Other names stay as they are.
func escape(group string) string {
	if !strings.Contains(group, ".") && !strings.Contains(group, "--") {
		return group
	}
	var b strings.Builder
	for i := range len(group) {
		switch c := group[i]; {
		case c == '.':
			b.WriteString("--d")
		case c == '-' && i+1 < len(group) && (group[i+1] == '-' || group[i+1] == '.'):
			b.WriteString("--h")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// checkTopic refuses the names that the topics of groups have.
func checkTopic(topic string) error {
	reserved := strings.HasSuffix(topic, deadSuffix)
	if i := strings.LastIndex(topic, retryPrefix); i >= 0 {
		reserved = reserved || isDigits(topic[i+len(retryPrefix):])
	}
	if reserved {
		return fmt.Errorf("%w: the topic name %q ends as those do in which groups keep dead letters and retries", messaging.ErrInvalid, topic)
	}
	return nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
