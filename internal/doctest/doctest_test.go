// Package doctest keeps the README true: what it shows is code that is compiled
// and run.
package doctest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// body returns the statements of Example(), without its output and one level of
// indentation.
func body(t *testing.T, source string) string {
	t.Helper()
	_, rest, ok := strings.Cut(source, "func Example() {\n")
	code, _, ok2 := strings.Cut(rest, "\t// Output:")
	if !ok || !ok2 {
		t.Fatal("there is no func Example() with an Output comment")
	}
	var out strings.Builder
	for line := range strings.Lines(code) {
		out.WriteString(strings.TrimPrefix(line, "\t"))
	}
	return strings.TrimSpace(out.String())
}

func TestTheSnippetOfTheReadmeIsTheExampleOfThePackage(t *testing.T) {
	code := body(t, read(t, "example_test.go"))
	if !strings.Contains(read(t, "README.md"), "```go\n"+code+"\n```") {
		t.Errorf("README.md does not hold this, the body of Example() in example_test.go, as a go block:\n%s", code)
	}
}

func TestTheReadmeNamesTheCommandsThatExist(t *testing.T) {
	readme, makefile := read(t, "README.md"), read(t, "Makefile")
	targets := regexp.MustCompile(`make ([a-z]+)`).FindAllStringSubmatch(readme, -1)
	if len(targets) == 0 {
		t.Fatal("README.md names no make target")
	}
	for _, m := range targets {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("README.md says make %s, which the Makefile does not have", m[1])
		}
	}
}
