package inventory

import (
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/parley-go/parley/examples/orderflow/httpjson"
)

// An Item is what the service knows about one article.
type Item struct {
	SKU string `json:"sku"`
	// Available can be ordered; Reserved belongs to orders that do not stand
	// yet; Sold has left the store.
	Available int `json:"available"`
	Reserved  int `json:"reserved"`
	Sold      int `json:"sold"`
}

// reservation is what an order holds, and how it ended.
type reservation struct {
	items map[string]int
	state state
}

type state int

const (
	held      state = iota // counted in Item.Reserved
	committed              // moved to Item.Sold
	released               // given back; the order can never be reserved again
)

// stock keeps articles and reservations. Each method is one step: it either
// happens as a whole or changes nothing.
type stock struct {
	mu     sync.Mutex
	items  map[string]*Item       // guarded by mu
	orders map[int64]*reservation // guarded by mu
	moves  int                    // guarded by mu: reservations that were committed
	gone   []int64                // guarded by mu: released orders, oldest first
}

// maxGone bounds how many refused orders are remembered, so that a request to
// reserve which arrives after the refusal of its order finds it. A request lives
// for seconds at most.
const maxGone = 10_000

func newStock(available map[string]int) *stock {
	s := &stock{items: make(map[string]*Item), orders: make(map[int64]*reservation)}
	for sku, n := range available {
		s.items[sku] = &Item{SKU: sku, Available: n}
	}
	return s
}

// reserve sets items aside for an order. The same order may ask again, as a
// caller does that heard no answer, and gets the same answer for the same items.
func (s *stock) reserve(order int64, skus []string) error {
	want := count(skus)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.orders[order]; ok {
		switch {
		case r.state == released:
			return httpjson.Errorf(http.StatusGone, "order %d was refused before", order)
		case !maps.Equal(r.items, want):
			return httpjson.Errorf(http.StatusUnprocessableEntity, "order %d reserved other items before", order)
		}
		return nil
	}
	for _, sku := range slices.Sorted(maps.Keys(want)) {
		switch item := s.items[sku]; {
		case item == nil:
			return httpjson.Errorf(http.StatusUnprocessableEntity, "there is no item %q", sku)
		case item.Available < want[sku]:
			return httpjson.Errorf(http.StatusConflict, "item %q is out of stock: %d left", sku, item.Available)
		}
	}
	for sku, n := range want {
		s.items[sku].Available -= n
		s.items[sku].Reserved += n
	}
	s.orders[order] = &reservation{items: want}
	return nil
}

// commit takes a placed order's items out of the store. It reports false when
// nothing is reserved for the order, which is a fault of the flow.
func (s *stock) commit(order int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.orders[order]
	if !ok || r.state != held {
		return false
	}
	for sku, n := range r.items {
		s.items[sku].Reserved -= n
		s.items[sku].Sold += n
	}
	r.state = committed
	s.moves++
	return true
}

// release gives back what a refused order reserved, and remembers that it was
// refused, because the request to reserve may still be on its way.
func (s *stock) release(order int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.orders[order]
	if ok && r.state != held {
		return
	}
	if ok {
		for sku, n := range r.items {
			s.items[sku].Reserved -= n
			s.items[sku].Available += n
		}
	}
	s.orders[order] = &reservation{state: released}
	s.gone = append(s.gone, order)
	if len(s.gone) > maxGone {
		delete(s.orders, s.gone[0])
		s.gone = s.gone[1:]
	}
}

func (s *stock) item(sku string) (Item, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if item, ok := s.items[sku]; ok {
		return *item, true
	}
	return Item{}, false
}

func count(skus []string) map[string]int {
	n := make(map[string]int, len(skus))
	for _, sku := range skus {
		n[sku]++
	}
	return n
}
