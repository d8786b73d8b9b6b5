package notification

import (
	"io"
	"net"
	"net/mail"
	"strings"
	"testing"

	"github.com/parley-go/parley/examples/orderflow/postbox"
)

func TestMailIsSentOnceForEachSendWithItsOwnMessageID(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	box := postbox.New()
	served := make(chan error, 1)
	go func() { served <- box.Serve(l) }()
	m, err := NewMailer("smtp://"+l.Addr().String(), "Shop <shop@example.com>")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "2", "2"} {
		if err := m.Send(t.Context(), Mail{ID: id, To: "ada@example.com", Name: "Ada", Subject: "Order", Body: "Hello\n.\nend\n"}); err != nil {
			t.Fatalf("Send(%s) = %v", id, err)
		}
	}
	if mails, repeated := box.Report(); mails != 2 || repeated != 1 {
		t.Errorf("Report() = %d, %d, want 2 mails, 1 of them repeated", mails, repeated)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v, want nil after Close", err)
	}
}

func TestNothingFromOutsideCanAddAHeader(t *testing.T) {
	m, err := NewMailer("smtp://127.0.0.1:2525", "shop@example.com")
	if err != nil {
		t.Fatal(err)
	}
	text := m.render(Mail{
		ID: "1>\r\nBcc: evil@example.com", Name: "Ada\r\nBcc: evil@example.com", Subject: "Hi\r\nBcc: evil@example.com",
		Body: "Bcc: evil@example.com",
	}, &mail.Address{Address: "ada@example.com"})
	got, err := mail.ReadMessage(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if got.Header.Get("Bcc") != "" || len(got.Header) != 8 {
		t.Errorf("headers = %v, want the 8 of ours", got.Header)
	}
	if body, _ := io.ReadAll(got.Body); !strings.Contains(string(body), "Bcc: evil@example.com") {
		t.Errorf("body = %q, want the text unchanged", body)
	}
}

func TestTLSIsDemandedOffLoopback(t *testing.T) {
	for url, plain := range map[string]bool{
		"smtp://127.0.0.1:25": true, "smtp://[::1]:25": true, "smtp://localhost:25": true,
		"smtp://mail.example.com": false, "smtps://127.0.0.1": false, "smtp://10.0.0.1:25": false,
	} {
		m, err := NewMailer(url, "shop@example.com")
		if err != nil {
			t.Fatal(err)
		}
		if m.plain != plain {
			t.Errorf("NewMailer(%s) sends in the clear = %v, want %v", url, m.plain, plain)
		}
	}
}

func TestABadServerURLIsRefusedWithoutItsSecret(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:25", "http://user:s3cret@host", "smtp://", "smtp://user:s3cret@host:%zz"} {
		_, err := NewMailer(url, "shop@example.com")
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("NewMailer(%q) = %v, want an error without the secret", url, err)
		}
	}
}

func TestAMailServerThatDoesNotAnswerIsAnErrorThatNamesIt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	m, err := NewMailer("smtp://"+addr, "shop@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Send(t.Context(), Mail{To: "ada@example.com"}); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("Send() = %v, want an error that names %s", err, addr)
	}
}
