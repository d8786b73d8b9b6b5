package kafka_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// newCertificate returns a certificate for 127.0.0.1 that is its own authority.
func newCertificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool
}

// exchange has a message go all the way.
func exchange(t *testing.T, conf kafka.Config) {
	t.Helper()
	b := newBroker(t, conf)
	topic := unique("t")
	come := make(chan *messaging.Delivery, 1)
	subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, settling(come, messaging.Verdict{}))
	m := messaging.NewMessage("T", []byte("secret"))
	publish(t, b, topic, m)
	if d := receive(t, come); d.ID != m.ID || string(d.Payload) != "secret" {
		t.Errorf("received %+v, want %+v", d.Message, m)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, pool := newCertificate(t)
	server := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	t.Run("with a trusted server messages pass", func(t *testing.T) {
		t.Parallel()
		exchange(t, kafka.Config{Seeds: fake(t, kfake.TLS(server)).ListenAddrs(), TLS: &tls.Config{RootCAs: pool}})
	})
	t.Run("with certificates on both sides messages pass", func(t *testing.T) {
		t.Parallel()
		mutual := server.Clone()
		mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, pool
		exchange(t, kafka.Config{Seeds: fake(t, kfake.TLS(mutual)).ListenAddrs(), TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}})
	})
	t.Run("it is spoken on top of what Dial returns", func(t *testing.T) {
		t.Parallel()
		var dials atomic.Int64
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		seeds := fake(t, kfake.TLS(server)).ListenAddrs()
		exchange(t, kafka.Config{Seeds: seeds, TLS: &tls.Config{RootCAs: pool}, Dial: dial})
		if dials.Load() == 0 {
			t.Error("Dial was not called")
		}
		denied(t, kafka.Config{Seeds: seeds, TLS: new(tls.Config), Dial: dial})
		denied(t, kafka.Config{Seeds: seeds, TLS: &tls.Config{RootCAs: pool, ServerName: "elsewhere"}, Dial: dial})
	})
	t.Run("an untrusted server is denied", func(t *testing.T) {
		t.Parallel()
		denied(t, kafka.Config{Seeds: fake(t, kfake.TLS(server)).ListenAddrs(), TLS: new(tls.Config)})
	})
	t.Run("a server that wants a client certificate denies a client without one", func(t *testing.T) {
		t.Parallel()
		mutual := server.Clone()
		mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, pool
		denied(t, kafka.Config{Seeds: fake(t, kfake.TLS(mutual)).ListenAddrs(), TLS: &tls.Config{RootCAs: pool}})
	})
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// denied asserts that neither Publish nor Subscribe goes on trying, and that no
// password stands in what they say.
func denied(t *testing.T, conf kafka.Config) {
	t.Helper()
	var log lockedBuffer // the client may have a last word after Close
	conf.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b := newBroker(t, conf)
	ctx := within(t, patience)
	perr := b.Publish(ctx, "t", numbered(1)...)
	serr := b.Subscribe(ctx, messaging.Subscription{Topic: "t", Group: "g"}, nothing)
	if !errors.Is(perr, messaging.ErrDenied) || !errors.Is(serr, messaging.ErrDenied) || ctx.Err() != nil {
		t.Fatalf("Publish(), Subscribe() = %v; %v, want ErrDenied from both at once", perr, serr)
	}
	shut(t, b)
	if said := perr.Error() + serr.Error() + log.String(); conf.SASL.Password != "" && strings.Contains(said, conf.SASL.Password) {
		t.Errorf("the password stands in %s", said)
	}
}

func TestSASL(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			c := fake(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "me", "right-one"))
			exchange(t, kafka.Config{Seeds: c.ListenAddrs(), SASL: kafka.SASL{Mechanism: mechanism, User: "me", Password: "right-one"}})
			// Where the fake only hangs up, Kafka says why.
			c.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
				resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
				return resp, nil, true
			})
			denied(t, kafka.Config{Seeds: c.ListenAddrs(), SASL: kafka.SASL{Mechanism: mechanism, User: "me", Password: "wrong-one"}})
		})
	}
	t.Run("a mechanism that the cluster does not have is denied", func(t *testing.T) {
		t.Parallel()
		c := fake(t, kfake.EnableSASL(), kfake.Superuser(kafka.Plain, "me", "right-one"))
		c.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
			resp.ErrorCode, resp.SupportedMechanisms = kerr.UnsupportedSaslMechanism.Code, []string{kafka.Plain}
			return resp, nil, true
		})
		denied(t, kafka.Config{Seeds: c.ListenAddrs(), SASL: kafka.SASL{Mechanism: "", User: "me", Password: "right-one"}})
	})
}

func TestAUserWithoutPermissionsIsDenied(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser(kafka.ScramSHA256, "root", "root"), kfake.User(kafka.ScramSHA256, "me", "right-one"), kfake.SeedTopics(1, "t"))
	denied(t, kafka.Config{Seeds: c.ListenAddrs(), SASL: kafka.SASL{Mechanism: kafka.ScramSHA256, User: "me", Password: "right-one"}})
}
