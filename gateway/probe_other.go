//go:build !unix

package gateway

// canProbe says that connections cannot be looked at here without waiting for them, so
// that all of them are net/http's.
const canProbe = false

func (c *wire) look(uintptr) bool { return true }
