package notification

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/url"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/parley-go/parley/messaging"
)

// sendTimeout bounds the conversation about one e-mail.
const sendTimeout = 10 * time.Second

// A Mailer sends e-mail over SMTP. It is safe for concurrent use.
type Mailer struct {
	addr, host string
	implicit   bool // TLS from the first byte
	plain      bool // no TLS at all: loopback only
	auth       sasl.Client
	from       mail.Address
}

// NewMailer returns a Mailer for the server at rawURL: smtps://user:secret@host
// speaks TLS from the first byte; smtp://user:secret@host demands STARTTLS,
// except on localhost or a loopback address, where mail may pass in the clear.
func NewMailer(rawURL, from string) (*Mailer, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("mail server: not a URL") // url.Error would show the password
	}
	sender, err := mail.ParseAddress(from)
	if err != nil {
		return nil, fmt.Errorf("mail sender %q: %w", from, err)
	}
	port := map[string]string{"smtp": "587", "smtps": "465"}[u.Scheme]
	if port == "" || u.Hostname() == "" {
		return nil, errors.New("mail server: want smtp://HOST:PORT or smtps://HOST:PORT")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	m := &Mailer{
		addr: net.JoinHostPort(u.Hostname(), port), host: u.Hostname(), from: *sender,
		implicit: u.Scheme == "smtps", plain: u.Scheme == "smtp" && local,
	}
	if u.User != nil {
		password, _ := u.User.Password()
		m.auth = sasl.NewPlainClient("", u.User.Username(), password)
	}
	return m, nil
}

// A Mail is one e-mail. ID makes its Message-ID, the same when it is sent again.
type Mail struct {
	ID, To, Name, Subject, Body string
}

// Send returns nil when the server has accepted the mail. A refusal for good,
// an SMTP code of 5xx, is marked by [messaging.Permanent].
func (m *Mailer) Send(ctx context.Context, e Mail) error {
	to, err := mail.ParseAddress(e.To)
	if err != nil {
		return fmt.Errorf("mail address: %w", err)
	}
	c, err := m.dial(ctx)
	if err != nil {
		return fmt.Errorf("mail server %s: %w", m.addr, err)
	}
	defer c.Close()
	if m.auth != nil {
		if err := c.Auth(m.auth); err != nil {
			return fmt.Errorf("mail server %s: login: %w", m.addr, err)
		}
	}
	if err := c.SendMail(m.from.Address, []string{to.Address}, bytes.NewReader(m.render(e, to))); err != nil {
		err = fmt.Errorf("mail server %s: %w", m.addr, err)
		if refusal, ok := errors.AsType[*smtp.SMTPError](err); ok && !refusal.Temporary() {
			err = messaging.Permanent(err)
		}
		return err
	}
	_ = c.Quit() // the mail is accepted, whatever becomes of the farewell
	return nil
}

func (m *Mailer) dial(ctx context.Context) (*smtp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.addr)
	if err != nil {
		return nil, err
	}
	// The deadline covers the whole conversation; the client sets its own for
	// each command, which are longer.
	deadline, _ := ctx.Deadline()
	conn = &boundedConn{Conn: conn, until: deadline}
	config := &tls.Config{ServerName: m.host, MinVersion: tls.VersionTLS12}
	switch {
	case m.plain:
		return smtp.NewClient(conn), nil
	case m.implicit:
		return smtp.NewClient(tls.Client(conn, config)), nil
	}
	return smtp.NewClientStartTLS(conn, config)
}

// boundedConn never lets a deadline be set past a certain time.
type boundedConn struct {
	net.Conn
	until time.Time
}

// SetDeadline sets the earlier of t and the bound.
func (c *boundedConn) SetDeadline(t time.Time) error {
	if t.IsZero() || t.After(c.until) {
		t = c.until
	}
	return c.Conn.SetDeadline(t)
}

// render writes the mail in the form of RFC 5322. Everything that came from
// outside is encoded, so that no name can add a header.
func (m *Mailer) render(e Mail, to *mail.Address) []byte {
	to.Name = e.Name
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\nSubject: %s\r\n", m.from.String(), to, mime.QEncoding.Encode("utf-8", e.Subject))
	fmt.Fprintf(&b, "Date: %s\r\nMessage-ID: <%s@orderflow.example>\r\n", time.Now().Format(time.RFC1123Z), url.QueryEscape(e.ID))
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(q, e.Body) // a bytes.Buffer takes everything
	_ = q.Close()
	return b.Bytes()
}
