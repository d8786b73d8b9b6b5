package gateway

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
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

// With the slashes that a Builder may let pass, there is still one path: cleaned,
// it stays what it is, and whoever decodes it finds no way out of it.
func FuzzCanonicalPathWithSlashes(f *testing.F) {
	for _, s := range []string{"//a//b", "/a%2Fb", "/a%2f..%2fb", "/%2F/", "//%2e", "/a%2F%2Fb/", "/a%252Fb", "/a//%2F//b"} {
		f.Add(s, true, true)
	}
	f.Fuzz(func(t *testing.T, s string, merge, encoded bool) {
		u, err := url.ParseRequestURI(s)
		if err != nil || u.Host != "" {
			return
		}
		rules := pathRules{mergeSlashes: merge, encodedSlash: encoded}
		at, ok := rules.canonical(u)
		if strict, was := (pathRules{}).canonical(u); was && (!ok || at != strict) {
			t.Fatalf("%q is %+v, %v by %+v, though the strictest rules let it pass as %+v", s, at, ok, rules, strict)
		}
		if !ok {
			return
		}
		if again, ok := rules.canonical(&url.URL{Path: at.decoded, RawPath: at.escaped}); !ok || again != at {
			t.Fatalf("canonical(%q) = %+v, and of that %+v, %v: want a fixed point", s, at, again, ok)
		}
		if decoded, err := url.PathUnescape(at.escaped); err != nil || decoded != at.decoded {
			t.Fatalf("canonical(%q) = %+v, which decodes to %q, %v", s, at, decoded, err)
		}
		if strings.ReplaceAll(at.key, "%2F", "/") != at.decoded || strings.Count(at.key, "/") != strings.Count(at.escaped, "/") {
			t.Fatalf("canonical(%q) = %+v: the key is another path", s, at)
		}
		if strings.Contains(at.escaped, "//") || strings.ContainsAny(at.decoded, ";\\\x00") || hasDots(at.decoded) || !encoded && at.key != at.decoded {
			t.Fatalf("canonical(%q) = %+v has what is refused", s, at)
		}
	})
}

// The walk through X-Forwarded-For, in the plainest way: split everything, go back
// to front, stop at whom nobody vouches for.
func FuzzOrigin(f *testing.F) {
	f.Add("10.0.0.1:1", "6.6.6.6, 10.0.0.9", "")
	f.Add("[::ffff:10.0.0.1]:1", "[2001:db8::1]:2,,x", "10.0.0.3")
	f.Add("192.0.2.1", "1.1.1.1", "fe80::1%eth0, [::1]")
	known := trusted{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	read := func(s string) (string, bool) {
		for _, form := range []string{s, strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")} {
			if a, err := netip.ParseAddr(form); err == nil && (form == s || "["+form+"]" == s) {
				return a.Unmap().WithZone("").String(), true
			}
		}
		a, err := netip.ParseAddrPort(s)
		return a.Addr().Unmap().WithZone("").String(), err == nil
	}
	f.Fuzz(func(t *testing.T, peer, first, second string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {first, second}}}
		got := known.origin(r)
		client, ok := read(peer)
		if !ok {
			if got.client.IsValid() || got.chain[0] != "" {
				t.Fatalf("peer %q = %v, %q, want nobody", peer, got.client, got.chain[0])
			}
			return
		}
		chain := client
		entries := strings.Split(first+","+second, ",")
		for i := range min(len(entries), maxHops) {
			if !known.contains(netip.MustParseAddr(client)) {
				break
			}
			hop, ok := read(strings.Trim(entries[len(entries)-1-i], " \t"))
			if !ok {
				break
			}
			client, chain = hop, hop+", "+chain
		}
		if got.client.String() != client || got.chain[0] != chain {
			t.Fatalf("peer %q, list %q, %q = %v, %q, want %s, %q", peer, first, second, got.client, got.chain[0], client, chain)
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
