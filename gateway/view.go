package gateway

import "net/http"

// view is who may be picked, as of one moment. It is replaced as a whole.
type view struct {
	version uint64
	all     []*Instance
	usable  []*Instance
	pick    func(*http.Request) int // an index of usable
	tags    map[string]int          // an index of usable by the value of a sticky cookie
	until   int64                   // when an ejection ends, on the pool's clock; 0 if there is none
}

// look makes a view of what is known now.
func (p *pool) look(version uint64) *view {
	set, now := *p.set.Load(), p.now()
	v := &view{version: version, all: set}
	for _, i := range set {
		ejected := i.ejected.Load()
		if ejected > now && (v.until == 0 || ejected < v.until) {
			v.until = ejected
		}
		if i.healthy(now) {
			v.usable = append(v.usable, i)
		}
	}
	if len(v.usable) == 0 {
		if p.RefuseUnhealthy || len(set) == 0 {
			return v
		}
		v.usable = set
	}
	v.pick = p.Picker.Over(v.usable)
	if p.Sticky != nil {
		v.tags = make(map[string]int)
		for n, i := range v.usable {
			for _, tag := range i.tags {
				v.tags[tag] = n
			}
		}
	}
	return v
}

// changed makes a new view after a change of what it is made of. No lock is held:
// the Picker is the user's. Of several who do it at once, the latest wins.
func (p *pool) changed() {
	p.version.Add(1)
	p.refresh()
}

func (p *pool) refresh() {
	for {
		wanted, old := p.version.Load(), p.view.Load()
		if old.version >= wanted {
			return
		}
		p.view.CompareAndSwap(old, p.look(wanted))
	}
}

// current returns the view to pick by. Ejections end by the clock alone, so that
// nobody has to run for it.
func (p *pool) current() *view {
	v := p.view.Load()
	if v.until != 0 && p.now() >= v.until {
		p.version.CompareAndSwap(v.version, v.version+1) // by the first who comes
		p.refresh()
		v = p.view.Load()
	}
	return v
}

// first returns the index in v of the instance to begin with.
func (p *pool) first(v *view, t *trip, req *http.Request) int {
	if p.Sticky != nil {
		if i := p.Sticky.wish(v, req); i >= 0 {
			return i
		}
	}
	n := len(v.usable)
	pick := func() int {
		if v.pick == nil { // nothing came of Over
			return 0
		}
		if i := v.pick(req); i >= 0 && i < n {
			return i
		}
		return 0
	}
	no := pick()
	if !t.tries.have(v.usable[no]) && v.usable[no].warm() {
		return no
	}
	// Another word of the Picker spreads what the one would have got; a Picker
	// that says the same again, as a Hash does, has a neighbour.
	for range 2 {
		if i := pick(); i != no && !t.tries.have(v.usable[i]) {
			return i
		}
	}
	return (no + 1) % n
}
