package idempotency

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Key names work that is to be done once.
type Key struct {
	// Scope says what the key is for and whose it is, such as "charge/tenant-7":
	// the same ID in another scope is another key. Required.
	Scope string
	// ID is the key itself, such as the number of an order. Required.
	ID string
	// Fingerprint is what must be the same whenever the key is, such as the
	// encoded arguments of the work. Where it differs, the work is refused with
	// [ErrMismatch]. Default: nothing is compared.
	Fingerprint []byte
}

// Kinds of use: part of every ID, so that a client's header never meets the key
// of a message.
const (
	kindHTTP  = "http"
	kindValue = "value"
	kindInbox = "inbox"
)

// Claim returns the claim that [Value] makes for k, without a Lease and a TTL.
// It is for stores that offer to do the work inside their own transaction. The
// error is [ErrKey].
func (k Key) Claim() (Claim, error) {
	if k.Scope == "" || k.ID == "" {
		return Claim{}, fmt.Errorf("%w: set both Scope and ID", ErrKey)
	}
	return Claim{ID: digest(kindValue, k.Scope, k.ID), Fingerprint: sha256.Sum256(k.Fingerprint)}, nil
}

// digest hashes a list so that no two lists have one digest.
func digest(list ...string) [32]byte {
	var room [512]byte // enough for most, so that hashing allocates nothing
	return sha256.Sum256(parts(room[:0], list...))
}

// parts appends a list to b so that no two lists look alike: each part is preceded
// by its length.
func parts(b []byte, list ...string) []byte {
	for _, p := range list {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}
