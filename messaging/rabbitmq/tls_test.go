package rabbitmq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/rabbitmq"
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

// terminate accepts TLS connections and carries what is in them to to, or
// nowhere when to is empty. It returns its address.
func terminate(t testing.TB, config *tls.Config, to string) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				if to == "" {
					_, _ = io.Copy(io.Discard, c)
					return
				}
				s, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer s.Close()
				running.Go(func() {
					defer c.Close()
					_, _ = io.Copy(c, s)
				})
				_, _ = io.Copy(s, c)
			})
		}
	})
	return l.Addr().String()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, pool := newCertificate(t)
	t.Run("an untrusted server is denied", func(t *testing.T) {
		t.Parallel()
		addr := terminate(t, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, "")
		b := newBroker(t, rabbitmq.Config{URL: "amqps://guest:guest@" + addr + "/"})
		if err := b.Publish(within(t, patience), "t", numbered(1)...); !errors.Is(err, messaging.ErrDenied) {
			t.Errorf("Publish() = %v, want ErrDenied", err)
		}
	})
	t.Run("a server that wants a client certificate denies a client without one", func(t *testing.T) {
		t.Parallel()
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			addr := terminate(t, &tls.Config{
				Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: version, MaxVersion: version,
			}, "")
			b := newBroker(t, rabbitmq.Config{URL: "amqps://guest:guest@" + addr + "/", TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}})
			if err := b.Publish(within(t, patience), "t", numbered(1)...); !errors.Is(err, messaging.ErrDenied) {
				t.Errorf("Publish() with TLS %x = %v, want ErrDenied", version, err)
			}
		}
	})
	t.Run("with certificates on both sides messages pass", func(t *testing.T) {
		t.Parallel()
		a := newAdmin(t)
		u, err := url.Parse(serverURL(t))
		if err != nil {
			t.Fatal("PARLEY_RABBITMQ_URL is not a URL")
		}
		u.Host = terminate(t, &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13,
		}, u.Host)
		u.Scheme = "amqps"
		b := newBroker(t, rabbitmq.Config{URL: u.String(), TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}})
		topic := a.topic("g")
		got := make(chan *messaging.Delivery, 1)
		subscribe(t, b, messaging.Subscription{Topic: topic, Group: "g"}, into(got, messaging.Verdict{}))
		m := messaging.NewMessage("T", []byte("over TLS"))
		if err := b.Publish(within(t, patience), topic, m); err != nil {
			t.Fatalf("Publish() = %v, want nil", err)
		}
		if d := receive(t, got); d.ID != m.ID || string(d.Payload) != "over TLS" {
			t.Errorf("received %+v, want %+v", d.Message, m)
		}
	})
}
