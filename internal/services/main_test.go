package services

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// TestMain is also the program that TestServersEndWithTheProgramThatStartedThem
// kills. The tests set the variables that steer Run; those of the run that they
// are part of do not count.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PARLEY_TEST_NODE"); dir != "" {
		n, err := Redis().Start(context.Background(), dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n.URL())
		select {}
	}
	_ = os.Unsetenv("PARLEY_SERVICES")
	_ = os.Unsetenv("PARLEY_REQUIRE")
	os.Exit(m.Run())
}
