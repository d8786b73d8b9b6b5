package memhttp_test

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-go/parley/internal/memhttp"
)

func TestVirtualTimePassesDuringARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.New(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Hour)
			_, _ = io.WriteString(w, "late")
		}))
		start := time.Now()
		resp, err := (&http.Client{Transport: s.Transport}).Get("http://in.memory/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "late" {
			t.Errorf("body = %q, %v, want late", body, err)
		}
		if took := time.Since(start); took != time.Hour {
			t.Errorf("the request took %v, want exactly 1h", took)
		}
	})
}
