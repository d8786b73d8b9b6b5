package rabbitmq

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/parley-go/parley/messaging"
)

// maxQueueBase leaves room in AMQP's 255 bytes for the longest suffix,
// ".retry." and ten digits.
const maxQueueBase = 255 - len(".retry.4294967295")

// queues names the queues of one group.
type queues struct {
	work, dead string
}

// queuesOf returns the queues of a group: T.G for its work, T.G.dlq for its dead
// letters. No two groups share a queue: a '.' in the name of the group is
// written '~', which no name contains, so the last '.' always separates topic
// and group; a group whose name could be read as a suffix gets a '~' in front;
// names too long for AMQP are cut and made unique by a hash.
func queuesOf(topic, group string) queues {
	g := strings.ReplaceAll(group, ".", "~")
	if g == "dlq" || strings.Trim(g, "0123456789") == "" {
		g = "~" + g
	}
	base := topic + "." + g
	if len(base) > maxQueueBase {
		sum := sha256.Sum256([]byte(base))
		base = base[:maxQueueBase-33] + "~" + hex.EncodeToString(sum[:16])
	}
	return queues{work: base, dead: base + ".dlq"}
}

// rung returns the queue in which messages wait for d.
func (q queues) rung(d time.Duration) string {
	return q.work + ".retry." + strconv.FormatInt(d.Milliseconds(), 10)
}

// checkTopic refuses what AMQP keeps for itself.
func checkTopic(topic string) error {
	if strings.HasPrefix(topic, "amq.") {
		return fmt.Errorf("%w: the topic name %q begins with \"amq.\", which AMQP reserves", messaging.ErrInvalid, topic)
	}
	return nil
}
