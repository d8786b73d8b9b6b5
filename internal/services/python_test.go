//go:build unix

package services

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAPythonClientIsOneThatTheInterpreterCanImport(t *testing.T) {
	s := Service{Name: "x", Python: []string{"python3-no_such_module", "python3-codec"}}
	fakes(t, map[string]string{"python3": `[ "$1 $2" = "-c import no_such_module, codec" ]`})
	if path, err := s.PythonClient(t.Context()); err != nil || !strings.HasSuffix(path, "/python3") {
		t.Errorf("PythonClient() = %q, %v, want the python3 of PATH", path, err)
	}
	fakes(t, map[string]string{"python3": "exit 1"})
	if path, err := s.PythonClient(t.Context()); err == nil || !strings.Contains(err.Error(), "install python3-no_such_module python3-codec") {
		t.Errorf("PythonClient() = %q, %v, want an error that names the package", path, err)
	}
	if path, err := (Service{Name: "x"}).PythonClient(t.Context()); err == nil {
		t.Errorf("PythonClient() of a service that has none = %q, want an error", path)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	if path, err := s.PythonClient(ctx); !errors.Is(err, io.EOF) {
		t.Errorf("PythonClient() = %q, %v, want the cause of its context", path, err)
	}
}

func TestAPythonClientThatCannotBeHadIsSaidAndNoFault(t *testing.T) {
	s := Redis()
	fakes(t, nil) // not even apt-get
	s.Python = []string{"python3-no_such_module"}
	ways := []way{func(context.Context, Service, func(string)) (*found, error) { return new(found), nil }}
	var said []string
	t.Setenv(s.Variable, "")
	_, err := come(t.Context(), s, []string{s.Name}, ways, func(line string) { said = append(said, line) })
	if err != nil || len(said) != 1 || !strings.HasPrefix(said[0], "redis: its Python client is missing: python3-no_such_module is not installed") {
		t.Errorf("come() = %v, saying %q, want nil and what is missing", err, said)
	}

	fakes(t, map[string]string{"python3": ""})
	equip(t.Context(), s, func(line string) { t.Errorf("said %q of a client that is there, want nothing", line) })
}
