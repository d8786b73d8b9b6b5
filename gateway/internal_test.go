package gateway

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// Whatever passes is one path to everybody: it survives being cleaned, decoded
// and encoded again, and holds nothing that somebody would split or skip.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/%61", "/a%2fb", "/a/../b", "/%2e%2e/", "/a;b", "/a//b", "/%25%32", "/caf%c3%a9", "/%ff", "/\\", "/100%25", "/...", "/a:b@c", "/%250%30"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.ParseRequestURI(s)
		if err != nil || u.Host != "" {
			return
		}
		at, ok := (pathRules{}).canonical(u)
		if !ok {
			return
		}
		got := at.escaped
		decoded, err := url.PathUnescape(got)
		if err != nil || decoded != u.Path || !utf8.ValidString(decoded) {
			t.Fatalf("canonicalPath(%q) = %q, which decodes to %q, %v, want %q", s, got, decoded, err, u.Path)
		}
		if again, ok := (pathRules{}).canonical(&url.URL{Path: decoded, RawPath: got}); !ok || again != at {
			t.Fatalf("canonicalPath(%q) = %q, and of that %q, %v: want a fixed point", s, got, again, ok)
		}
		if out := (&url.URL{Path: decoded, RawPath: got}).EscapedPath(); out != got {
			t.Fatalf("canonicalPath(%q) = %q, sent as %q", s, got, out)
		}
		for _, text := range []string{got, decoded} {
			if strings.ContainsAny(text, ";\\\x00\r\n") || strings.Contains(text, "//") || !strings.HasPrefix(text, "/") {
				t.Fatalf("canonicalPath(%q) = %q has a delimiter or an empty segment", s, got)
			}
			for seg := range strings.SplitSeq(text, "/") {
				if seg == "." || seg == ".." {
					t.Fatalf("canonicalPath(%q) = %q has a dot segment", s, got)
				}
			}
		}
		if strings.Count(got, "/") != strings.Count(decoded, "/") {
			t.Fatalf("canonicalPath(%q) = %q hides a slash", s, got)
		}
		if twice, err := url.PathUnescape(decoded); err == nil && twice != decoded {
			t.Fatalf("canonicalPath(%q) = %q decodes to %q and then to %q", s, got, decoded, twice)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"GET /a/{b}/{c...}", "host/", "/{$}", "[::1]/x", "/%41", "GET  \thost/{a}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePattern(s)
		if err != nil {
			return
		}
		if !p.meets(p) || !p.covers(p) || !(&route{pattern: p}).conflicts(&route{pattern: p}) {
			t.Fatalf("pattern %q does not match what it matches", s)
		}
		// ServeMux refuses by panicking; what we accept, it accepts.
		http.NewServeMux().HandleFunc(s, func(http.ResponseWriter, *http.Request) {})
	})
}

// A body is read by attempts that stop at random, against a model that has all of
// it.
func TestAttemptsReadTheWholeBodyOrNoneAtAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	opened, refused := 0, 0
	for range 5000 {
		want := make([]byte, rnd.IntN(64))
		for i := range want {
			want[i] = byte(rnd.IntN(256))
		}
		b := &replay{src: iotest.OneByteReader(bytes.NewReader(want)), max: rnd.IntN(64)}
		read := 0 // from the source, by all attempts
		for range 4 {
			body, err := b.open()
			if lost := read > b.max; (err != nil) != lost {
				t.Fatalf("open() = %v after %d bytes of at most %d", err, read, b.max)
			}
			if err != nil {
				refused++
				break
			}
			opened++
			n := rnd.IntN(len(want) + 1)
			got := make([]byte, n)
			if _, err := io.ReadFull(body, got); err != nil || !bytes.Equal(got, want[:n]) {
				t.Fatalf("attempt read %q, %v, want %q", got, err, want[:n])
			}
			read = max(read, n)
			if rnd.IntN(2) == 0 {
				rest, err := io.ReadAll(body)
				if err != nil || !bytes.Equal(rest, want[n:]) {
					t.Fatalf("attempt read on %q, %v, want %q", rest, err, want[n:])
				}
				read = len(want)
			}
			if rnd.IntN(2) == 0 {
				body.Close()
				if _, err := body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
					t.Fatalf("Read() after Close = %v, want ErrBodyReadAfterClose", err)
				}
			}
		}
	}
	if min(opened, refused) < 100 {
		t.Errorf("%d attempts and %d refusals, want 100 of each", opened, refused)
	}
}

func TestAttemptThatWaitsForTheClientKeepsTheNextOneFromOpening(t *testing.T) {
	src, client := io.Pipe()
	b := &replay{src: src, max: 10}
	first, _ := b.open()
	done := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(done)
		p := make([]byte, 2)
		n, err := io.ReadFull(first, p)
		if n != 2 || err != nil {
			t.Errorf("first attempt read %d, %v, want 2", n, err)
		}
		close(started)
		if n, err := first.Read(p); n != 2 || err != nil {
			t.Errorf("first attempt read %d, %v, want 2", n, err)
		}
	}()
	_, _ = client.Write([]byte("ab"))
	<-started
	for { // until the second Read is under way
		b.mu.Lock()
		reading := b.reading
		b.mu.Unlock()
		if reading {
			break
		}
	}
	if _, err := b.open(); !errors.Is(err, errNotReplayable) {
		t.Errorf("open() = %v, want errNotReplayable", err)
	}
	_, _ = client.Write([]byte("cd"))
	<-done
	_ = client.Close()
	second, err := b.open()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(second); string(got) != "abcd" || err != nil {
		t.Errorf("second attempt read %q, %v, want abcd", got, err)
	}
	if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the first attempt read on: %d, %v, want an error", n, err)
	}
}
