// Command bench compares parley with what its users use today, side by side in
// one run, and holds the ratios that the design promises. It prints one line a
// row and exits 1 on a MISS. ONLY=breaker runs the rows of one package.
//
// Figures are processor time, so that a busy machine disturbs them less; only
// the ratios are to be trusted.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	missed := 0
	for _, rows := range [][]row{breakerRows(), retryRows(), transportRows(), idempotencyRows()} {
		for _, r := range rows {
			if only := os.Getenv("ONLY"); only != "" && !strings.HasPrefix(r.name, only+"/") {
				continue
			}
			if !r.run(os.Stdout) {
				missed++
			}
		}
	}
	if missed > 0 {
		fmt.Printf("%d rows MISS\n", missed)
		os.Exit(1)
	}
}

// must ends the program: a row that cannot be set up cannot be measured.
func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return v
}
