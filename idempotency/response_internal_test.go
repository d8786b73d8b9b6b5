package idempotency

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func encoded(status int, h, outer http.Header, body string) []byte {
	var b bytes.Buffer
	encodeHead(&b, status, h, outer, nil)
	b.WriteString(body)
	return b.Bytes()
}

func TestARecordedResponseIsReadBackAsItWas(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
	}{
		"nothing":        {200, http.Header{}, ""},
		"no content":     {204, http.Header{"Etag": {`"1"`}}, ""},
		"several values": {201, http.Header{"Link": {"<a>", "<b>", ""}, "Content-Type": {"text/plain"}}, "hello"},
		"binary body":    {200, http.Header{"X": {"\x00ü"}}, "\x00\x01\xff"},
		"largest status": {999, http.Header{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			status, body, err := decodeHead(encoded(c.status, c.header, nil, c.body), h, nil)
			if status != c.status || string(body) != c.body || err != nil {
				t.Errorf("decodeHead() = %d, %q, %v, want %d, %q, nil", status, body, err, c.status, c.body)
			}
			if diff := cmp.Diff(c.header, h); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReplayedHeadersDoNotShareMemory(t *testing.T) {
	h := http.Header{}
	if _, _, err := decodeHead(encoded(200, http.Header{"A": {"1"}, "B": {"2"}, "C": {"3"}}, nil, ""), h, nil); err != nil {
		t.Fatal(err)
	}
	for name := range h {
		h.Add(name, "added")
	}
	want := http.Header{"A": {"1", "added"}, "B": {"2", "added"}, "C": {"3", "added"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestADamagedRecordIsAnErrorAndSetsNoHeader(t *testing.T) {
	whole := encoded(201, http.Header{"Content-Type": {"text/plain"}, "Link": {"<a>", "<b>"}}, nil, "")
	for cut := range len(whole) {
		w := httptest.NewRecorder()
		if err := replay(w, whole[:cut], nil); err == nil || len(w.Header()) != 0 {
			t.Errorf("replay() of %d of %d bytes = %v with headers %v, want an error and none", cut, len(whole), err, w.Header())
		}
	}
	for name, data := range map[string][]byte{
		"another version": append([]byte{2}, whole[1:]...),
		"status 0":        {responseVersion, 0, 0},
		"status 100":      {responseVersion, 100, 0},
		"huge length":     {responseVersion, 0xc8, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"huge count":      {responseVersion, 0xc8, 1, 1, 'X', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
	} {
		if err := replay(httptest.NewRecorder(), data, nil); err == nil {
			t.Errorf("replay() of a record with %s = nil, want an error", name)
		}
	}
}

func FuzzDecodeHead(f *testing.F) {
	f.Add(encoded(201, http.Header{"Content-Type": {"text/plain"}, "Link": {"<a>", "<b>"}}, nil, "hello"))
	f.Add([]byte{responseVersion, 0xc8, 1, 1, 'X', 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		h := http.Header{}
		status, body, err := decodeHead(data, h, nil)
		if err != nil {
			if len(h) > 0 {
				t.Fatalf("decodeHead() = %v and set %v", err, h)
			}
			return
		}
		if status < 200 || status > 999 || !bytes.HasSuffix(data, body) {
			t.Fatalf("decodeHead() = %d, body %q, want a status of three digits and the end of the data", status, body)
		}
	})
}
