package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	dialTimeout  = 10 * time.Second
	closeTimeout = 2 * time.Second
)

var errDialTimeout = errors.New("no connection within 10s")

// A connection is one AMQP connection and the socket under it.
type connection struct {
	amqp    *amqp.Connection
	socket  *socket
	log     *slog.Logger
	answer  time.Duration // how long the broker has to answer a request
	blocked atomic.Bool   // the broker reads nothing from it
	gone    chan struct{} // closed when the connection is lost or being closed
	once    sync.Once
}

func (c *connection) lost() <-chan struct{} { return c.gone }

func (c *connection) shut() { c.once.Do(func() { close(c.gone) }) }

func (c *connection) cut() { _ = c.socket.Close() }

// dial connects to the broker for purpose, and sets the connection up while ctx
// and the timeout can still interrupt it: amqp091 itself cannot be interrupted,
// save by closing the socket under it.
func (b *Broker) dial(ctx context.Context, purpose string, setup func(*amqp.Connection) error) (*connection, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	uri := b.set.uri
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
	if err != nil {
		return nil, dialError(err)
	}
	if uri.Scheme == "amqps" {
		tc := tls.Client(nc, b.set.TLS)
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, dialError(err)
		}
		nc = tc
	}
	s := newSocket(nc)
	b.workers.Go(s.flush)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	props := amqp.Table{"product": "parley", "platform": "Go", "connection_name": strings.TrimSpace(b.set.Source + " " + purpose)}
	conn, err := amqp.Open(s, amqp.Config{
		SASL:       []amqp.Authentication{&plain{user: uri.Username, password: uri.Password, props: props}},
		Vhost:      uri.Vhost,
		Heartbeat:  b.set.Heartbeat,
		Locale:     "en_US",
		Properties: props,
	})
	if err == nil {
		err = s.expect(conn.Config.Heartbeat + conn.Config.Heartbeat/2)
	}
	if err == nil {
		err = setup(conn)
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = s.Close()
		// What amqp091 reports may only be the echo of why the socket failed.
		if cause := s.failed.Load(); cause != nil {
			err = fmt.Errorf("%w (%w)", err, *cause)
		}
		return nil, dialError(err)
	}
	log := b.set.Logger.With(slog.String("purpose", purpose))
	c := &connection{amqp: conn, socket: s, log: log, answer: b.answer, gone: make(chan struct{})}
	closes := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	b.workers.Go(func() { c.watch(closes, blocks) })
	return c, nil
}

// watch reads what amqp091 tells about the connection, for amqp091 stops reading
// from the broker where nobody listens, and closes it when it is no longer used.
func (c *connection) watch(closes chan *amqp.Error, blocks chan amqp.Blocking) {
	for waiting := true; waiting; {
		select {
		case blocked, ok := <-blocks:
			c.blocked.Store(blocked.Active)
			switch {
			case !ok:
				blocks = nil
			case blocked.Active:
				c.log.Warn("rabbitmq: the broker blocks publishing", slog.String("reason", blocked.Reason))
			default:
				c.log.Info("rabbitmq: the broker takes messages again")
			}
		case err := <-closes:
			if err != nil {
				c.log.Warn("rabbitmq: connection lost", slog.Any("err", err))
			}
			c.shut()
			waiting = false
		case <-c.gone:
			waiting = false
		}
	}
	_ = c.amqp.CloseDeadline(time.Now().Add(closeTimeout))
	_ = c.socket.Close()
	for blocks != nil {
		if _, ok := <-blocks; !ok {
			blocks = nil
		}
	}
}

// plain is the SASL mechanism PLAIN (RFC 4616). It also asks RabbitMQ to answer
// wrong credentials with an error. RabbitMQ does so for clients that announce
// it, and makes others wait before it drops the socket, which looks like any
// other lost connection; amqp091 does not announce it. Response runs after
// amqp091 has filled in the capabilities, and before it sends them.
type plain struct {
	user, password string
	props          amqp.Table
}

func (*plain) Mechanism() string { return "PLAIN" }

func (p *plain) Response() string {
	if can, ok := p.props["capabilities"].(amqp.Table); ok {
		can["authentication_failure_close"] = true
	}
	return "\x00" + p.user + "\x00" + p.password
}
