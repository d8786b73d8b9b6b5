// Package uuid mints the two kinds of identifier that parley needs: version 4
// where an identifier must not be guessed, version 7 where it should sort by
// the time of its making (RFC 9562 §5.4, §5.7).
package uuid

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

// V4 returns a random UUID in its 36-character form. Its 122 random bits come
// from crypto/rand, so it may serve as an idempotency key.
func V4() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return format(b, 4)
}

// V7 returns a UUID that begins with the current Unix time in milliseconds.
// Identifiers of different milliseconds sort by time, which keeps database
// indexes compact; its 74 random bits and its visible time make it unfit as a
// secret.
func V7() string {
	var b [16]byte
	_, _ = rand.Read(b[6:])
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (8 * (5 - i)))
	}
	return format(b, 7)
}

func format(b [16]byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:36], b[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}
