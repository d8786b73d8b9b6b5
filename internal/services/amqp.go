package services

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxGreeting bounds what is read of a server before it has greeted us, since
// anything may listen at a port.
const maxGreeting = 64 << 10

// Methods of AMQP 0-9-1's class connection (specification §1.4), as class<<16 |
// method.
const (
	connectionStart   = 10<<16 | 10
	connectionStartOk = 10<<16 | 11
	connectionTune    = 10<<16 | 30
	connectionClose   = 10<<16 | 50
)

var errAMQP = errors.New("the server does not speak AMQP 0-9-1")

// greetAMQP logs in as guest. A broker that accepts a login goes on to tune the
// connection; there the conversation ends.
func greetAMQP(conn io.ReadWriter) (version string, err error) {
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return "", err
	}
	in := io.LimitReader(conn, maxGreeting)
	method, args, err := readMethod(in)
	if err != nil {
		return "", err
	}
	if method != connectionStart || len(args) < 2 {
		return "", errAMQP
	}
	version = serverVersion(args[2:]) // after the protocol's major and minor

	startOk := binary.BigEndian.AppendUint32(nil, connectionStartOk)
	startOk = append(startOk, 0, 0, 0, 0) // no client properties
	startOk = append(startOk, "\x05PLAIN"+"\x00\x00\x00\x0c\x00guest\x00guest"+"\x05en_US"...)
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(startOk)))
	if _, err := conn.Write(append(append(frame, startOk...), frameEnd)); err != nil {
		return "", err
	}
	method, args, err = readMethod(in)
	switch {
	case errors.Is(err, io.EOF):
		return "", errors.New("the broker refuses guest: it hung up")
	case err != nil:
		return "", err
	case method == connectionTune:
		return version, nil
	case method == connectionClose && len(args) > 2:
		text, _ := cut(args[2:], 1) // after the reply code
		return "", fmt.Errorf("the broker refuses guest: %s", text)
	}
	return "", errAMQP
}

// frameEnd is the octet after the payload of every frame.
const frameEnd = 0xCE

// readMethod reads a method frame of channel 0.
func readMethod(in io.Reader) (method uint32, args []byte, err error) {
	var head [7]byte // type, channel, size
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[3:])
	if head[0] != 1 || size < 4 || size > maxGreeting {
		return 0, nil, errAMQP
	}
	payload := make([]byte, size+1)
	if _, err := io.ReadFull(in, payload); err != nil {
		return 0, nil, err
	}
	if payload[size] != frameEnd {
		return 0, nil, errAMQP
	}
	return binary.BigEndian.Uint32(payload), payload[4:size], nil
}

// serverVersion returns the version among the server's properties, or "" if it
// stands behind a type of field that brokers do not send there.
func serverVersion(args []byte) string {
	table, _ := cut(args, 4)
	for len(table) > 0 {
		var key, value []byte
		key, table = cut(table, 1)
		if len(table) == 0 || !bytes.ContainsRune([]byte("SF"), rune(table[0])) {
			return ""
		}
		value, table = cut(table[1:], 4) // a long string or a table
		if string(key) == "version" {
			return string(value)
		}
	}
	return ""
}

// cut splits b after a field that carries its length in its first width bytes,
// 1 or 4. Both parts are empty if the field is longer than b.
func cut(b []byte, width int) (field, rest []byte) {
	if len(b) < width {
		return nil, nil
	}
	size := int(b[0])
	if width == 4 {
		size = int(binary.BigEndian.Uint32(b))
	}
	if size > len(b)-width {
		return nil, nil
	}
	return b[width : width+size], b[width+size:]
}
