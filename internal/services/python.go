package services

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// debianPython is the interpreter that Debian's packages of modules serve; one that
// the user has put before it in PATH does not see them.
const debianPython = "/usr/bin/python3"

// PythonClient returns a Python interpreter that has the service's Python client, or
// an error that says what to install.
func (s Service) PythonClient(ctx context.Context) (interpreter string, err error) {
	if s.Python == nil {
		return "", fmt.Errorf("services: %s has no Python client", s.Name)
	}
	var modules []string
	for _, p := range s.Python {
		modules = append(modules, strings.TrimPrefix(p, "python3-"))
	}
	list := strings.Join(modules, ", ")
	for _, python := range []string{debianPython, "python3"} {
		path, err := exec.LookPath(python)
		if err == nil && exec.CommandContext(ctx, path, "-c", "import "+list).Run() == nil {
			return path, nil
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", fmt.Errorf("services: %s: no python3 has the modules %s: install %s", s.Name, list, strings.Join(s.Python, " "))
}

// equip installs the service's Python client where that is missing and can be had.
// Tests that need it say so if it cannot.
func equip(ctx context.Context, s Service, say func(string)) {
	if s.Python == nil {
		return
	}
	if _, err := s.PythonClient(ctx); err == nil {
		return
	}
	if err := install(ctx, Service{Name: s.Name, Packages: s.Python}, say); err != nil {
		say(fmt.Sprintf("%s: its Python client is missing: %v", s.Name, err))
	}
}
