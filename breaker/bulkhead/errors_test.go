package bulkhead_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/parley-go/parley/breaker/bulkhead"
)

func TestAFullErrorIsErrFullAndSaysWhenToComeBack(t *testing.T) {
	for _, c := range []struct {
		err  *bulkhead.FullError
		text string
	}{
		{&bulkhead.FullError{}, "bulkhead: full, call rejected, retry after 1s"},
		{&bulkhead.FullError{Name: "stock"}, `bulkhead "stock": full, call rejected, retry after 1s`},
		{
			&bulkhead.FullError{Name: "stock", Waited: 50 * time.Millisecond},
			`bulkhead "stock": full, call rejected after 50ms in the queue, retry after 1s`,
		},
	} {
		err := fmt.Errorf("wrapped: %w", c.err)
		if !errors.Is(err, bulkhead.ErrFull) || errors.Is(err, errDown) {
			t.Errorf("errors.Is(%v) = not ErrFull alone, want ErrFull alone", err)
		}
		wantRejected(t, err)
		if got := c.err.RetryAfter(); got != time.Second {
			t.Errorf("RetryAfter() = %v, want 1s", got)
		}
		if got := c.err.Error(); got != c.text {
			t.Errorf("Error() = %q, want %q", got, c.text)
		}
	}
}
