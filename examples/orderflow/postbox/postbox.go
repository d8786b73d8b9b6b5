// Package postbox is an SMTP server for the order flow: it speaks the protocol
// on a loopback socket and counts what it receives, so that the flow sends real
// mail without a mail server.
package postbox

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	maxMail  = 64 << 10
	maxMails = 10_000
)

// Postbox is the server. It is safe for concurrent use.
type Postbox struct {
	server *smtp.Server

	mu    sync.Mutex
	mails map[string]int // guarded by mu: copies received, by Message-ID
}

// New returns a server that is not serving yet.
func New() *Postbox {
	p := &Postbox{mails: make(map[string]int)}
	p.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{p}, nil }))
	p.server.Domain = "localhost"
	p.server.MaxMessageBytes, p.server.MaxRecipients = maxMail, 1
	p.server.ReadTimeout, p.server.WriteTimeout = 10*time.Second, 10*time.Second
	p.server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	return p
}

// Serve accepts mail on l until Close.
func (p *Postbox) Serve(l net.Listener) error {
	if err := p.server.Serve(l); !errors.Is(err, smtp.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends Serve and all conversations.
func (p *Postbox) Close() error { return p.server.Close() }

// Report returns how many different mails arrived, and how many arrived more
// than once.
func (p *Postbox) Report() (mails, repeated int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, copies := range p.mails {
		if copies > 1 {
			repeated++
		}
	}
	return len(p.mails), repeated
}

type session struct{ box *Postbox }

func (*session) Mail(string, *smtp.MailOptions) error { return nil }
func (*session) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (*session) Reset()                               {}
func (*session) Logout() error                        { return nil }

func (s *session) Data(r io.Reader) error {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return &smtp.SMTPError{Code: 554, Message: "not a mail message"}
	}
	if _, err := io.Copy(io.Discard, m.Body); err != nil {
		return err
	}
	id := m.Header.Get("Message-Id")
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if s.box.mails[id] == 0 && len(s.box.mails) >= maxMails {
		return &smtp.SMTPError{Code: 452, Message: "the box is full"}
	}
	s.box.mails[id]++
	return nil
}
