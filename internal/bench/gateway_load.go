package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connections is how many clients wait for their answers at once.
	connections = 64
	// loadCap bounds how long one side of a round may take.
	loadCap = time.Minute
)

// ask is the request of every client: what a browser sends with one that a script of a
// page makes. A proxy adds a few fields to these.
const ask = "GET /v1/orders/7 HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
	"sec-ch-ua: \"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n" +
	"Accept: application/json\r\nAuthorization: Bearer 0123456789abcdef\r\nCache-Control: no-cache\r\n" +
	"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://shop.example/orders\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\r\n"

// upload is the same with a body, which net/http's connections carry in every proxy.
var upload = strings.Replace(strings.TrimSuffix(ask, "\r\n"), "GET", "POST", 1) +
	"Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(kilobyte)) + "\r\n\r\n" + string(kilobyte)

// load sends n requests to addr, from connections that are kept. Every answer is
// read and has to be that of the backend.
func load(addr, request string, n int) error {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, connections)
	var clients sync.WaitGroup
	for i := range connections {
		clients.Go(func() { errs[i] = client(addr, request, &left) })
	}
	clients.Wait()
	return errors.Join(errs...)
}

// client sends one request after the other for as long as there are some left.
func client(addr, ask string, left *atomic.Int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(loadCap))
	request, answer := []byte(ask), bufio.NewReader(c)
	for left.Add(-1) >= 0 {
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := skip(answer); err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
	return nil
}

// skip reads one answer. It does as little as it can, since client and proxy share
// the machine.
func skip(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answer %q", line)
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length != len(kilobyte) {
		return fmt.Errorf("an answer of %d bytes, want %d", length, len(kilobyte))
	}
	_, err = r.Discard(length)
	return err
}
