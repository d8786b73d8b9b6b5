package sqs_test

import (
	"flag"
	"os"
	"testing"
)

// The tests wait for visibilities and long polls to end, which takes no processor:
// more of them than there are processors run side by side.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
