package inventory

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/parley-go/parley/examples/orderflow/httpjson"
)

func status(err error) int {
	if p, ok := errors.AsType[*httpjson.Problem](err); ok {
		return p.Status
	}
	return http.StatusOK
}

func TestTheSameOrderMayAskAgainForTheSameItems(t *testing.T) {
	s := newStock(map[string]int{"a": 1})
	for range 3 {
		if err := s.reserve(1, []string{"a"}); err != nil {
			t.Fatalf("reserve() = %v, want nil each time", err)
		}
	}
	if err := s.reserve(1, []string{"a", "a"}); status(err) != http.StatusUnprocessableEntity {
		t.Errorf("reserve() of other items = %v, want 422", err)
	}
}

func TestARequestToReserveThatArrivesAfterTheRefusalReservesNothing(t *testing.T) {
	s := newStock(map[string]int{"a": 1})
	s.release(1)
	if err := s.reserve(1, []string{"a"}); status(err) != http.StatusGone {
		t.Errorf("reserve() after release() = %v, want 410", err)
	}
	if item, _ := s.item("a"); item.Available != 1 {
		t.Errorf("available = %d, want 1", item.Available)
	}
}

func TestRefusedOrdersAreRememberedWithinABound(t *testing.T) {
	s := newStock(nil)
	for id := range int64(2 * maxGone) {
		s.release(id)
	}
	if len(s.orders) != maxGone || len(s.gone) != maxGone {
		t.Errorf("%d orders and %d refusals are kept, want %d", len(s.orders), len(s.gone), maxGone)
	}
}

// Whatever happens in whatever order, items are conserved, no count is negative,
// and each order's stock moves at most once.
func TestStockIsConservedUnderRandomOperations(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		s := newStock(map[string]int{"a": 5, "b": 3})
		moved := make(map[int64]bool)
		for range 200 {
			id := rnd.Int64N(12)
			switch rnd.IntN(3) {
			case 0:
				_ = s.reserve(id, []string{string(rune('a' + rnd.IntN(3))), "a"}) // "c" does not exist
			case 1:
				if s.commit(id) {
					if moved[id] {
						t.Fatalf("order %d moved twice", id)
					}
					moved[id] = true
				}
			case 2:
				s.release(id)
			}
			for sku, total := range map[string]int{"a": 5, "b": 3} {
				i, _ := s.item(sku)
				if i.Available < 0 || i.Reserved < 0 || i.Sold < 0 || i.Available+i.Reserved+i.Sold != total {
					t.Fatalf("%s: %+v, want a sum of %d and nothing negative", sku, i, total)
				}
			}
		}
		if s.moves != len(moved) {
			t.Fatalf("moves = %d, want %d", s.moves, len(moved))
		}
	}
}

func ExampleItem() {
	s := newStock(map[string]int{"tea": 2})
	_ = s.reserve(456, []string{"tea"})
	s.commit(456)
	item, _ := s.item("tea")
	fmt.Printf("%+v\n", item)
	// Output: {SKU:tea Available:1 Reserved:0 Sold:1}
}
