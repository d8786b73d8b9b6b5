package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/parley-go/parley/gateway"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := new(authority)
	a.cert, a.key = issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	}, nil)
	return a
}

func issue(t *testing.T, c *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// of returns a certificate for a name.
func (a *authority) of(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// whoami answers with the client's certificate, the host it asked for, and the
// name by which it asked for a certificate.
func whoami(w http.ResponseWriter, r *http.Request) {
	name := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		name = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	_, _ = io.WriteString(w, name+" "+r.Host+" "+r.TLS.ServerName)
}

func TestMutualTLSToTheUpstreamAndTheNameThatHostGivesIt(t *testing.T) {
	ca := newAuthority(t)
	backend := httptest.NewUnstartedServer(http.HandlerFunc(whoami))
	backend.Config.ErrorLog = quiet()
	backend.TLS = &tls.Config{Certificates: []tls.Certificate{ca.of(t, "orders.internal")}, ClientCAs: ca.pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	backend.StartTLS()
	t.Cleanup(backend.Close)
	for name, c := range map[string]struct {
		host   string
		config *tls.Config
		want   int
	}{
		"with a certificate":    {"orders.internal", &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.of(t, "gateway")}}, 200},
		"without one":           {"orders.internal", &tls.Config{RootCAs: ca.pool()}, 502},
		"of another authority":  {"orders.internal", &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{newAuthority(t).of(t, "gateway")}}, 502},
		"target by address":     {"", &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.of(t, "gateway")}}, 502},
		"target of other name":  {"users.internal", &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.of(t, "gateway")}}, 502},
		"ServerName over Host":  {"public.example", &tls.Config{RootCAs: ca.pool(), ServerName: "orders.internal", Certificates: []tls.Certificate{ca.of(t, "gateway")}}, 200},
		"Host with port of own": {"orders.internal:8443", &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.of(t, "gateway")}}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, build(t, gateway.Upstream{Targets: []string{backend.URL}, TLS: c.config, Host: c.host}, everything))
			resp, body := get(t, s.URL)
			if resp.StatusCode != c.want || c.want == 200 && body != "gateway "+c.host+" orders.internal" {
				t.Errorf("response = %s %q, want %d for gateway under the name of Host", resp.Status, body, c.want)
			}
		})
	}
}

func TestServerSpeaksTLSFrom12OnAndDemandsCertificatesWhereItIsTold(t *testing.T) {
	ca := newAuthority(t)
	srv := build(t, gateway.Upstream{Targets: []string{serve(t, new(recorder)).URL}}, everything).Server("")
	srv.TLSConfig.Certificates = []tls.Certificate{ca.of(t, "gateway.example")}
	srv.TLSConfig.ClientAuth, srv.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool()
	srv.ErrorLog = quiet()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
	for name, c := range map[string]struct {
		config *tls.Config
		ok     bool
	}{
		"with a certificate": {&tls.Config{Certificates: []tls.Certificate{ca.of(t, "client")}}, true},
		"without one":        {&tls.Config{}, false},
		"of TLS 1.1":         {&tls.Config{Certificates: []tls.Certificate{ca.of(t, "client")}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.RootCAs, c.config.ServerName = ca.pool(), "gateway.example"
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: c.config, ForceAttemptHTTP2: true}}
			defer client.CloseIdleConnections()
			resp, err := client.Get("https://" + l.Addr().String())
			if err != nil {
				if c.ok {
					t.Fatal(err)
				}
				return
			}
			defer resp.Body.Close()
			if !c.ok || resp.StatusCode != http.StatusOK || resp.Proto != "HTTP/2.0" {
				t.Errorf("response = %s over %s, want %v over HTTP/2.0", resp.Status, resp.Proto, c.ok)
			}
		})
	}
}
