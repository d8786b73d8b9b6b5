package main

import (
	"os"
	"strings"
	"testing"
)

func TestItSaysHowManyTestsRanAndWhichWereSkipped(t *testing.T) {
	u, err := newUse()
	if err != nil {
		t.Fatal(err)
	}
	defer u.remove()
	if err := os.WriteFile(u.file, []byte("redis ran TestB\nredis ran TestA/one\nredis ran TestA/two\npostgres skipped TestC\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	u.print(&out)
	want := "tests that need postgres: skipped 1: TestC\ntests that need redis: ran 2\n"
	if out.String() != want {
		t.Errorf("print() wrote %q, want %q", out.String(), want)
	}
}
