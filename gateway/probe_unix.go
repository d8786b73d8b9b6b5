//go:build unix

package gateway

import (
	"errors"
	"syscall"
)

// canProbe says that a connection can be looked at without waiting for it.
const canProbe = true

// look reads what may have come, and waits for nothing. It is called with the
// descriptor of the connection, which does not block.
func (c *wire) look(fd uintptr) bool {
	var b [1]byte
	for {
		_, err := syscall.Read(int(fd), b[:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		c.quiet = errors.Is(err, syscall.EAGAIN)
		return true
	}
}
