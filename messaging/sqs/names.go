package sqs

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

const (
	// SQS takes 80 characters in the name of a queue, those of ".fifo" included.
	maxQueueName = 80
	fifoSuffix   = ".fifo"
	deadSuffix   = "_dlq"
	between      = "_to_" // stands between topic and group
	// maxTopicPart leaves a group no fewer characters than a hash takes.
	maxTopicPart = 36
	hashLength   = 15 // of "_h" and 65 bits
)

// queues names the queues of one group.
type queues struct {
	work, dead string
}

// queuesOf returns the queues of a group: T_to_G for its work, T_to_G_dlq for its
// dead letters. No two groups share a queue, and no topic's queues begin with
// another's prefix: '_' in a name is written "__" and '.' "_p", so that every other
// '_' is this function's own. A part that is too long for SQS ends in "_h" and a
// hash of the whole.
func (c *Config) queuesOf(topic, group string) queues {
	prefix := c.queuePrefix(topic)
	base := prefix + part(group, maxQueueName-len(fifoSuffix)-len(deadSuffix)-len(prefix))
	return queues{work: base + c.suffix(), dead: base + deadSuffix + c.suffix()}
}

// queuePrefix begins the names of the queues of all groups of a topic, and of no
// others.
func (c *Config) queuePrefix(topic string) string {
	return c.Prefix + part(topic, maxTopicPart) + between
}

// topicName returns the name of a topic on SNS.
func (c *Config) topicName(topic string) string {
	return c.Prefix + part(topic, maxTopicPart) + c.suffix()
}

func (c *Config) suffix() string {
	if c.FIFO {
		return fifoSuffix
	}
	return ""
}

// isWork reports whether a queue of a topic, whose name begins with prefix, is that of
// a group's work, and of the kind that c uses.
func (c *Config) isWork(prefix, queue string) bool {
	group, ok := strings.CutPrefix(queue, prefix)
	group, fifo := strings.CutSuffix(group, fifoSuffix)
	before, dead := strings.CutSuffix(group, deadSuffix)
	// After an odd number of '_', the one of the suffix is half of a written "_".
	escape := len(before) - len(strings.TrimRight(before, "_"))
	return ok && fifo == c.FIFO && (!dead || escape%2 == 1)
}

// part returns name in the alphabet of SQS, in at most limit characters.
func part(name string, limit int) string {
	escaped := strings.NewReplacer("_", "__", ".", "_p").Replace(name)
	if len(escaped) <= limit {
		return escaped
	}
	sum := sha256.Sum256([]byte(name))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:hashLength-len("_h")]
	cut := strings.TrimRight(escaped[:limit-hashLength], "_") // half an escape must not join what follows
	return cut + "_h" + hash
}

// token returns text as SQS takes it for the group or the deduplication of a
// message: up to 128 printable characters of ASCII without space. What is not like
// that becomes a hash, and so does what looks like one, so that no two texts have one
// token.
func token(text string) string {
	const mark, limit = "hash:", 128
	plain := text != "" && len(text) <= limit && !strings.HasPrefix(text, mark)
	for i := 0; i < len(text) && plain; i++ {
		plain = '!' <= text[i] && text[i] <= '~'
	}
	if plain {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return mark + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}
