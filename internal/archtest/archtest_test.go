// Package archtest holds the rule of who may import whom, and of what the root
// module may require.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/parley-go/parley"

// Third-party families, by the prefix of their import paths. That of otel is the
// API alone: see isSDK.
const (
	xsync      = "golang.org/x/sync"
	otel       = "go.opentelemetry.io/otel"
	amqp       = "github.com/rabbitmq/amqp091-go"
	prometheus = "github.com/prometheus/client_golang"
	gocmp      = "github.com/google/go-cmp"
)

// mayImport lists, for each package of the root module, what it may import
// beside the standard library, parley's internal/ and, for a sub-package, its
// parents: packages by their path below the module, others by family. A package
// that is not listed fails the test, so that each new one is decided on.
var mayImport = map[string][]string{
	"":                            {},
	"breaker":                     {},
	"breaker/bulkhead":            {},
	"retry":                       {},
	"idempotency":                 {},
	"idempotency/idempotencytest": {},
	"idempotency/sqlstore":        {},
	"messaging":                   {xsync},
	"messaging/memory":            {},
	"messaging/messagingtest":     {},
	"messaging/outbox":            {},
	"messaging/rabbitmq":          {amqp},
	"gateway":                     {"breaker", "retry", xsync},
	"gateway/auth":                {},
	"gateway/ratelimit":           {},
	"tracing":                     {"messaging", otel},
	"metrics":                     {"breaker", "breaker/bulkhead", "retry", "idempotency", "messaging", "gateway", "tracing", prometheus},
}

// adapters lists, for each adapter that is a module of its own, the family that it
// adds; beside that it may import its parents and parley's internal/.
var adapters = map[string]string{
	"idempotency/redisstore": "github.com/redis/go-redis/v9",
	"messaging/kafka":        "github.com/twmb/franz-go",
	"messaging/sqs":          "github.com/aws",
	"tracing/otlp":           otel,
}

// ownParents says which parents a package may import: gateway's sub-packages
// stand alone, so that any service may use them without the gateway.
func ownParents(pkg string) []string {
	if strings.HasPrefix(pkg, "gateway/") {
		return nil
	}
	var parents []string
	for dir := filepath.Dir(pkg); dir != "."; dir = filepath.Dir(dir) {
		parents = append(parents, dir)
	}
	return parents
}

type goPackage struct {
	ImportPath, Dir string
	Standard        bool
	Imports         []string
	TestImports     []string
	XTestImports    []string
}

func TestPackagesImportOnlyWhatTheRuleAllows(t *testing.T) {
	for _, p := range list(t, "./...") {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		allowed, listed := mayImport[pkg]
		switch {
		case strings.HasPrefix(pkg, "internal/"):
			allowed = nil // the standard library and other internal packages
		case !listed:
			t.Errorf("%s stands in no rule: add it to mayImport and to the design", p.ImportPath)
			continue
		}
		allowed = append(slices.Clone(allowed), ownParents(pkg)...)
		for _, imp := range p.Imports {
			if !permitted(imp, allowed) {
				t.Errorf("%s imports %s, which the rule of this test does not allow", p.ImportPath, imp)
			}
		}
	}
}

func TestAdaptersAddOneFamily(t *testing.T) {
	for dir, family := range adapters {
		for _, p := range listIn(t, dir, "./...") {
			allowed := append(ownParents(dir), dir, family)
			for _, imp := range p.Imports {
				sdk := family == otel && isSDK(imp) // for programs that choose one
				if !sdk && !permitted(imp, allowed) {
					t.Errorf("%s imports %s, want nothing from others than %s", p.ImportPath, imp, family)
				}
			}
		}
	}
}

func TestTestsOfAPackageAddOnlyGoCmp(t *testing.T) {
	for _, p := range list(t, "./...") {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		allowed := append(slices.Clone(mayImport[pkg]), ownParents(pkg)...)
		// Tests may import what a composition is documented with: any package of
		// the root, but nothing that the root module does not require anyway.
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			if strings.HasPrefix(imp, module) || strings.HasPrefix(imp, gocmp) {
				continue
			}
			if !permitted(imp, allowed) {
				t.Errorf("the tests of %s import %s", p.ImportPath, imp)
			}
		}
	}
}

// isSDK reports whether a package or module makes or exports telemetry, which is
// the choice of the program and not of a library.
func isSDK(path string) bool {
	return strings.HasPrefix(path, otel+"/sdk") || strings.HasPrefix(path, otel+"/exporters")
}

func permitted(imp string, allowed []string) bool {
	if isSDK(imp) {
		return false
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return true // the standard library
	}
	if rest, own := strings.CutPrefix(imp, module+"/"); own {
		return strings.HasPrefix(rest, "internal/") || slices.Contains(allowed, rest)
	}
	return slices.ContainsFunc(allowed, func(a string) bool { return imp == a || strings.HasPrefix(imp, a+"/") })
}

func TestNobodyImportsExamplesBenchmarksOrIntegrationTests(t *testing.T) {
	leaves := []string{module + "/examples", module + "/internal/bench", module + "/internal/integration"}
	for _, p := range list(t, "work") {
		for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for _, leaf := range leaves {
				if strings.HasPrefix(imp, leaf) && !strings.HasPrefix(p.ImportPath, leaf) {
					t.Errorf("%s imports %s", p.ImportPath, imp)
				}
			}
		}
	}
}

func TestRootModuleRequiresOnlyTheFiveFamilies(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	decode(t, &mod, "go", "mod", "edit", "-json")
	families := []string{amqp, xsync, otel, prometheus, gocmp}
	for _, r := range mod.Require {
		allowed := slices.ContainsFunc(families, func(f string) bool { return r.Path == f || strings.HasPrefix(r.Path, f+"/") })
		if !r.Indirect && (!allowed || isSDK(r.Path)) {
			t.Errorf("go.mod requires %s directly; whatever is not one of %v belongs in a nested module", r.Path, families)
		}
	}
}

// A user who imports one light package must find one line more in go.mod, and
// nothing that moves.
func TestConsumerOfBreakerGetsOneRequireLine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.com/consumer\n\ngo 1.26.0\n\nrequire "+module+" v0.0.0\n\nreplace "+module+" => "+root(t)+"\n")
	write("main.go", "package main\n\nimport _ \""+module+"/breaker\"\n\nfunc main() {}\n")
	tidy := exec.CommandContext(t.Context(), "go", "mod", "tidy")
	tidy.Dir, tidy.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	if out, err := tidy.CombinedOutput(); err != nil {
		t.Fatalf("go mod tidy: %v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	requires := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " v") && !strings.HasPrefix(line, "replace") {
			requires++
		}
	}
	if requires != 1 {
		t.Errorf("a consumer of breaker has %d require lines, want 1:\n%s", requires, text)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func list(t *testing.T, pattern string) []goPackage {
	t.Helper()
	return listIn(t, ".", pattern)
}

// listIn lists from within a directory of the repository: a module of its own is
// seen from there alone, with or without the workspace.
func listIn(t *testing.T, dir, pattern string) []goPackage {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(run(t, "go", "list", "-C", dir, "-json=ImportPath,Dir,Standard,Imports,TestImports,XTestImports", pattern)))
	var all []goPackage
	for {
		var p goPackage
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			if len(all) == 0 {
				t.Fatalf("go list %s found no package", pattern)
			}
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func decode(t *testing.T, v any, command ...string) {
	t.Helper()
	if err := json.Unmarshal(run(t, command...), v); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, command ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, &stderr)
	}
	return out
}
