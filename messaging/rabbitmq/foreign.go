package rabbitmq

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The CloudEvents binding for AMQP allows two prefixes for attributes: the one
// that this package writes, and one that only some programs can write.
const (
	cePrefix      = "cloudEvents_"
	ceColonPrefix = "cloudEvents:"
)

// canonical returns headers with one prefix for all CloudEvents attributes. Where
// one attribute has both, cePrefix wins.
func canonical(headers amqp.Table) amqp.Table {
	var changed amqp.Table
	for name, field := range headers {
		attribute, ok := strings.CutPrefix(name, ceColonPrefix)
		if !ok {
			continue
		}
		if changed == nil {
			changed = maps.Clone(headers)
		}
		delete(changed, name)
		if _, ok := headers[cePrefix+attribute]; !ok {
			changed[cePrefix+attribute] = field
		}
	}
	if changed == nil {
		return headers
	}
	return changed
}

// synthesise returns an ID for a message that was published without one, the
// same each time that the broker delivers it. Two messages that are alike in all
// they have get the same. What the broker may add between two deliveries is not
// part of it.
func synthesise(d *amqp.Delivery) string {
	h := sha256.New()
	for _, part := range [...]string{
		d.Exchange, d.RoutingKey, d.Type, d.AppId, d.CorrelationId, d.ReplyTo, d.ContentType, d.ContentEncoding,
		strconv.FormatInt(d.Timestamp.Unix(), 10), string(d.Body),
	} {
		mix(h, part)
	}
	own := make(amqp.Table, len(d.Headers))
	for name, field := range d.Headers {
		if !strings.HasPrefix(name, reserved) && !isBrokers(name) && !isCopies(name) {
			own[name] = field
		}
	}
	mixField(h, own)
	return "amqp-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// mix adds part to h, with its length, so that no two lists of parts are alike.
func mix(h hash.Hash, part string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(part)))
	_, _ = h.Write(n[:])
	_, _ = io.WriteString(h, part)
}

// mixField adds the value of a header to h, the same in every process.
func mixField(h hash.Hash, field any) {
	switch v := field.(type) {
	case amqp.Table:
		mix(h, fmt.Sprintf("table %d", len(v)))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			mix(h, name)
			mixField(h, v[name])
		}
	case []any:
		mix(h, fmt.Sprintf("list %d", len(v)))
		for _, e := range v {
			mixField(h, e)
		}
	case time.Time: // whose text depends on the zone of the process
		mix(h, "time "+strconv.FormatInt(v.Unix(), 10))
	default:
		mix(h, fmt.Sprintf("%T %v", v, v))
	}
}
