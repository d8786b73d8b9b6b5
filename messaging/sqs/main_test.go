package sqs_test

import (
	"flag"
	"os"
	"testing"
)

// The tests wait for visibilities and long polls to end, which takes no processor:
// more of them than there are processors run side by side, unless -parallel is given.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", "32") // which exists
	}
	os.Exit(m.Run())
}
