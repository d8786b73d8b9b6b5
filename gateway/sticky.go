package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"
)

// Sticky keeps a client on the target that answered it first, by a cookie. The
// cookie names the target by a keyed hash: it tells nothing about the target,
// nobody without the key can make one, and one gateway understands what another
// with the same keys has set. A cookie that is forged, signed by a key that is
// gone, or for a target that is gone or unhealthy, counts as none, and the answer
// sets a new one.
//
// The Picker chooses for those without a cookie. Sticky is for state that is
// lost without harm, such as a cache: targets fall ill.
type Sticky struct {
	// Keys sign the cookies, 16 bytes at least: the first one those that are set,
	// all of them those that come. To rotate, put a new key first, and take the
	// old one away when its cookies have had time to be renewed. Required.
	Keys [][]byte

	// Cookie is the cookie's name. Default "gw-" and the name of the upstream.
	Cookie string

	// MaxAge is how long the browser keeps the cookie. Default: as long as its
	// session. Negative is a fault.
	MaxAge time.Duration

	// SameSite is the cookie's attribute. Default [http.SameSiteLaxMode].
	SameSite http.SameSite

	// Insecure leaves the attribute Secure away, for clients without TLS. With
	// SameSiteNoneMode it is a fault. HttpOnly is always set. Default: Secure.
	Insecure bool
}

const minStickyKey = 16

func (s *Sticky) faults() (faults []string) {
	if len(s.Keys) == 0 {
		faults = append(faults, "Sticky.Keys is empty")
	}
	for i, k := range s.Keys {
		if len(k) < minStickyKey {
			faults = append(faults, fmt.Sprintf("Sticky.Keys[%d] has %d bytes, fewer than %d", i, len(k), minStickyKey))
		}
	}
	if s.MaxAge < 0 {
		faults = append(faults, fmt.Sprintf("Sticky.MaxAge %v is negative", s.MaxAge))
	}
	if s.Insecure && s.SameSite == http.SameSiteNoneMode {
		faults = append(faults, "Sticky.Insecure and SameSiteNoneMode contradict each other")
	}
	if s.Cookie != "" && (&http.Cookie{Name: s.Cookie, Value: "x"}).Valid() != nil {
		faults = append(faults, fmt.Sprintf("Sticky.Cookie %q is no name of a cookie", s.Cookie))
	}
	return faults
}

// tags returns the values by which cookies of the upstream name a target, one for
// each key.
func (s *Sticky) tags(upstream, target string) []string {
	tags := make([]string, len(s.Keys))
	for i, k := range s.Keys {
		mac := hmac.New(sha256.New, k)
		_, _ = mac.Write([]byte(upstream + "\x00" + target))
		tags[i] = base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	return tags
}

// wish returns the index of the instance that the request's cookie names, -1 if
// it names none.
func (s *Sticky) wish(v *view, r *http.Request) int {
	for _, c := range r.CookiesNamed(s.Cookie) {
		if i, ok := v.tags[c.Value]; ok {
			return i
		}
	}
	return -1
}

// renew adds a cookie to the answer unless the client's names the target that
// gave it, by the key of today.
func (s *Sticky) renew(resp *http.Response, r *http.Request, at *Instance) {
	for _, c := range r.CookiesNamed(s.Cookie) {
		if c.Value == at.tags[0] {
			return
		}
	}
	c := http.Cookie{
		Name: s.Cookie, Value: at.tags[0], Path: "/", MaxAge: int(s.MaxAge / time.Second),
		HttpOnly: true, Secure: !s.Insecure, SameSite: s.SameSite,
	}
	resp.Header.Add("Set-Cookie", c.String())
}
