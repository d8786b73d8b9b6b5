package uuid_test

import (
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/internal/uuid"
)

func TestFormIsThatOfRFC9562(t *testing.T) {
	for name, mint := range map[string]func() string{"4": uuid.V4, "7": uuid.V7} {
		form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-` + name + `[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
		for range 100 {
			if id := mint(); !form.MatchString(id) {
				t.Fatalf("V%s() = %q, want the form %v", name, id, form)
			}
		}
	}
}

func TestIdentifiersDoNotRepeat(t *testing.T) {
	seen := make(map[string]bool)
	for range 10_000 {
		for _, id := range []string{uuid.V4(), uuid.V7()} {
			if seen[id] {
				t.Fatalf("%q was minted twice", id)
			}
			seen[id] = true
		}
	}
}

func TestV7SortsByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := ""
		for range 1000 {
			id := uuid.V7()
			if id <= last {
				t.Fatalf("V7() = %q after %q, want a larger one", id, last)
			}
			last = id
			time.Sleep(time.Millisecond)
		}
	})
}
