package services

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// serve lets talk answer each connection to a port of 127.0.0.1 until the test
// ends, and returns the port's address.
func serve(t *testing.T, talk func(conn net.Conn)) *net.TCPAddr {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			talk(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr)
}

// method is a method frame of channel 0.
func method(id uint32, args string) string {
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(4+len(args)))
	return string(binary.BigEndian.AppendUint32(frame, id)) + args + "\xCE"
}

func long(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }

var startArgs = "\x00\x09" + long("\x0ccapabilitiesF"+long("\x01xt\x01")+"\x07productS"+long("RabbitMQ")+"\x07versionS"+long("4.1.4")) +
	long("AMQPLAIN PLAIN") + long("en_US")

// broker answers like RabbitMQ up to the reply to a login by guest.
func broker(t *testing.T, reply string) func(net.Conn) {
	return func(conn net.Conn) {
		header := make([]byte, 8)
		if _, err := io.ReadFull(conn, header); err != nil || string(header) != "AMQP\x00\x00\x09\x01" {
			t.Errorf("the client begins with %q, %v", header, err)
			return
		}
		_, _ = io.WriteString(conn, method(connectionStart, startArgs))
		got, args, err := readMethod(conn)
		if want := "\x00\x00\x00\x00\x05PLAIN" + long("\x00guest\x00guest") + "\x05en_US"; got != connectionStartOk || string(args) != want {
			t.Errorf("the client answers Start with method %#x, %q, %v, want StartOk with %q", got, args, err, want)
		}
		_, _ = io.WriteString(conn, reply)
	}
}

func webServer(conn net.Conn) {
	_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn) // until it hangs up: an early close could overtake the reply
}

func redisServer(replies ...string) func(net.Conn) {
	return func(conn net.Conn) {
		in := bufio.NewReader(conn)
		for _, r := range replies {
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
			_, _ = io.WriteString(conn, r)
		}
	}
}

func message(kind byte, body string) string {
	return string(kind) + string(binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))) + body
}

func postgresServer(t *testing.T, reply string) func(net.Conn) {
	return func(conn net.Conn) {
		startup := make([]byte, 4+4+len("user\x00postgres\x00database\x00postgres\x00\x00"))
		if _, err := io.ReadFull(conn, startup); err != nil || int(startup[3]) != len(startup) {
			t.Errorf("the client begins with %q, %v", startup, err)
		}
		_, _ = io.WriteString(conn, reply)
		_, _ = io.Copy(io.Discard, conn) // as above
	}
}

// kafkaServer answers requests in their turn, each with what a broker's answer holds
// after its header.
func kafkaServer(answers ...string) func(net.Conn) {
	return func(conn net.Conn) {
		for _, a := range answers {
			var size [4]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			request := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(conn, request); err != nil {
				return
			}
			_, _ = io.WriteString(conn, long(string(request[4:8])+a))
		}
	}
}

func TestAServiceIsReadyWhenItHasAnsweredInItsOwnProtocol(t *testing.T) {
	info := "redis_version:7.4.2\r\nredis_mode:standalone\r\n"
	pgReady := message('R', "\x00\x00\x00\x00") + message('S', "server_version\x0017.6 (Debian 17.6-1)\x00") +
		message('K', "12345678") + message('Z', "I")
	const speaks = "\x00\x00\x00\x00\x00\x00"
	for _, c := range []struct {
		about   string
		service Service
		talk    func(net.Conn)
		version string
		fault   string // part of the error; empty means none
	}{
		{"rabbitmq accepts guest", RabbitMQ(), broker(t, method(connectionTune, "12345678")), "4.1.4", ""},
		{"rabbitmq refuses guest", RabbitMQ(), broker(t, method(connectionClose, "\x01\x93\x0eACCESS_REFUSED\x00\x00\x00\x00")), "", "ACCESS_REFUSED"},
		{"rabbitmq hangs up on guest", RabbitMQ(), broker(t, ""), "", "refuses guest"},
		{"rabbitmq's port is open but silent and closes", RabbitMQ(), func(net.Conn) {}, "", ""},
		{"something else listens at rabbitmq's port", RabbitMQ(), webServer, "", "does not speak AMQP"},

		{"redis answers", Redis(), redisServer("+PONG\r\n", "$48\r\n# Server\r\n"+info), "7.4.2", ""},
		{"redis wants a password", Redis(), redisServer("-NOAUTH Authentication required.\r\n"), "", "NOAUTH"},
		{"redis is loading its data", Redis(), redisServer("-LOADING Redis is loading the dataset in memory\r\n"), "", "LOADING"},
		{"redis refuses INFO", Redis(), redisServer("+PONG\r\n", "-NOPERM no permissions\r\n"), "", "NOPERM"},
		{"something else listens at redis's port", Redis(), redisServer("220 mail.example ESMTP\r\n"), "", "220 mail.example"},

		{"postgres accepts", Postgres(), postgresServer(t, pgReady), "17.6", ""},
		{"postgres wants a password", Postgres(), postgresServer(t, message('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")), "", "password"},
		{"postgres is starting", Postgres(), postgresServer(t, message('E', "SFATAL\x00C57P03\x00Mthe database system is starting up\x00\x00")), "", "starting up"},
		{"something else listens at postgres's port", Postgres(), postgresServer(t, "HTTP/1.1 400 Bad Request"), "", "bytes"},

		{"kafka has no broker yet", Kafka(), kafkaServer(speaks, "\x00\x00\x00\x00\x00\x00\x00\x01"), "", "no broker yet"},
		{"kafka does not speak what all brokers do", Kafka(), kafkaServer("\x00\x23\x00\x00\x00\x00"), "", "error 35"},
		{"kafka is for the clients of a network of its own", Kafka(), kafkaServer(speaks, kafkaBroker("kafka-1")), "", `"kafka-1", which is not loopback`},
		{"kafka's answer is cut short", Kafka(), kafkaServer(speaks, kafkaBroker("127.0.0.1")[:12]), "", "does not speak Kafka"},
		{"kafka's port is open but closes", Kafka(), func(net.Conn) {}, "", ""},
		{"something else listens at kafka's port", Kafka(), webServer, "", "does not speak Kafka"},
	} {
		t.Run(c.about, func(t *testing.T) {
			addr := serve(t, c.talk)
			version, err := c.service.hello(t.Context(), addr.String())
			if version != c.version || (err == nil) != (c.version != "") {
				t.Fatalf("hello() = %q, %v, want %q", version, err, c.version)
			}
			if err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("hello() = %q, want it to say %q", err, c.fault)
			}

			// The same decides whether a server at the usual port is reused.
			c.service.Port = addr.Port
			f, err := running(t.Context(), c.service, nil)
			if c.version == "" {
				if err == nil {
					t.Errorf("a server that does not let us in is reused: %+v", f)
				}
				return
			}
			if err != nil || f.how != "reused at "+addr.String() || f.stop != nil {
				t.Errorf("running() = %+v, %v, want the server reused and not ours to stop", f, err)
			}
		})
	}
}

// kafkaBroker is an answer to Metadata of version 1 that lists one broker, up to its
// port.
func kafkaBroker(host string) string {
	return "\x00\x00\x00\x01" + "\x00\x00\x00\x01" + "\x00" + string(rune(len(host))) + host + "\x00\x00\x23\x84"
}

func TestKafkaIsReadyWhenItListsABrokerOnLoopback(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", "localhost"} {
		addr := serve(t, kafkaServer("\x00\x00\x00\x00\x00\x00", kafkaBroker(host)))
		if version, err := Kafka().hello(t.Context(), addr.String()); version != "" || err != nil {
			t.Errorf("hello() of a broker at %s = %q, %v, want nil and no version", host, version, err)
		}
	}
}

func TestAServerThatHangsIsNotWaitedForWithoutEnd(t *testing.T) {
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			reached, hung := make(chan struct{}), make(chan struct{})
			addr := serve(t, func(net.Conn) { close(reached); <-hung })
			defer close(hung)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-reached; cancel() }()
			if version, err := s.hello(ctx, addr.String()); err == nil {
				t.Errorf("hello() of a server that says nothing = %q, want an error when its time is up", version)
			}
		})
	}
}

func TestNothingListensIsSaidSo(t *testing.T) {
	port, err := freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := Redis()
	s.Port = port
	if _, err := running(t.Context(), s, nil); err == nil || !strings.HasPrefix(err.Error(), "nothing listens at 127.0.0.1:") {
		t.Errorf("running() = %v, want that nothing listens", err)
	}
}

func TestEveryWaitHasACap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		began := time.Now()
		err := poll(t.Context(), nil, func(context.Context) error { return refused })
		if took := time.Since(began); took != readyCap {
			t.Errorf("poll() gives up after %v, want %v", took, readyCap)
		}
		if !errors.Is(err, refused) || !strings.Contains(err.Error(), "not ready within 1m0s") {
			t.Errorf("poll() = %v, want the cap and the last refusal", err)
		}
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(told) })
		began := time.Now()
		err := poll(ctx, nil, func(context.Context) error { return errors.New("refused") })
		if took := time.Since(began); took != 5*time.Second || !errors.Is(err, told) {
			t.Errorf("poll() = %v after %v, want the cause after 5s", err, took)
		}
	})
}

func TestAWaitEndsWhenTheServerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		time.AfterFunc(5*time.Second, func() { close(gone) })
		began := time.Now()
		err := poll(t.Context(), gone, func(context.Context) error { return errors.New("refused") })
		if took := time.Since(began); err == nil || took > 6*time.Second {
			t.Errorf("poll() = %v after %v, want an error as soon as the server has ended", err, took)
		}
	})
}

func TestAWaitTriesUntilTheServerIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		err := poll(t.Context(), nil, func(context.Context) error {
			if tries.Add(1) < 10 {
				return errors.New("refused")
			}
			return nil
		})
		if err != nil || tries.Load() != 10 {
			t.Errorf("poll() = %v after %d tries, want nil after 10", err, tries.Load())
		}
	})
}

func TestFreePortLiesOutsideTheRangeOfOutgoingConnections(t *testing.T) {
	for range 20 {
		port, err := freePort(t.Context())
		if err != nil || port < 20000 || port >= 30000 {
			t.Errorf("freePort() = %d, %v, want a port of 20000 to 29999", port, err)
		}
	}
}

// A scripted connection reads what a server says, whatever it is told.
type scripted struct {
	*bytes.Reader
	read int
}

func (s *scripted) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.read += n
	return n, err
}

func (*scripted) Write(b []byte) (int, error) { return len(b), nil }

func FuzzAGreetingReadsNoMoreThanItsBound(f *testing.F) {
	f.Add([]byte(method(connectionStart, startArgs) + method(connectionTune, "12345678")))
	f.Add([]byte(method(connectionStart, startArgs[:40]) + method(connectionClose, "\x01\x93\xff")))
	f.Add([]byte("+PONG\r\n$9\r\nredis_version:7\r\n"))
	f.Add([]byte(message('S', "server_version\x00") + message('E', "M") + message('Z', "I")))
	f.Add([]byte("\x01\x00\x00\xff\xff\xff\xff"))
	f.Add([]byte(long("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00") + long("\x00\x00\x00\x01"+kafkaBroker("127.0.0.1"))))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"QueueUrls\":[]}"))
	f.Fuzz(func(t *testing.T, said []byte) {
		for _, s := range All() {
			conn := &scripted{Reader: bytes.NewReader(said)}
			version, err := s.greet(conn)
			if err != nil && version != "" {
				t.Errorf("%s: greet() = %q, %v, want no version with an error", s.Name, version, err)
			}
			if conn.read > maxGreeting {
				t.Errorf("%s: greet() read %d bytes, want %d at most", s.Name, conn.read, maxGreeting)
			}
		}
	})
}
