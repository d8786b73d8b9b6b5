package services

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// fetchCap bounds how long it may take to download and build one program.
const fetchCap = 15 * time.Minute

// cacheDir returns the directory of the programs that were fetched, which later
// runs find there.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "parley-services"), nil
}

// cached returns the path of a program that was fetched.
func cached(name string) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	_, err = os.Stat(path)
	return path, err
}

// fetchInto has get write a file or a directory, and puts it into the cache as name
// when it is complete. get may use the directory that it is in.
func fetchInto(ctx context.Context, name string, get func(ctx context.Context, file string) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchCap, fmt.Errorf("not fetched within %v", fetchCap))
	defer cancel()
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	// In the cache itself, so that a rename suffices; two that fetch the same do
	// not meet.
	dir, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, name)
	if err := get(ctx, file); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return err
	}
	err = os.Rename(file, filepath.Join(cache, name))
	if errors.Is(err, os.ErrExist) {
		return nil // another has fetched the same directory meanwhile
	}
	return err
}

// buildInto builds a package of a module's version, and puts it into the cache as
// name. `go install` refuses a module that replaces others, but `go build` inside of
// it takes them as they are.
func buildInto(ctx context.Context, name, module, version, pkg string) error {
	return fetchInto(ctx, name, func(ctx context.Context, file string) error {
		out, err := command(ctx, filepath.Dir(file), "go", "mod", "download", "-json", module+"@v"+version)
		if err != nil {
			return err
		}
		var m struct{ Dir string }
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			return fmt.Errorf("go mod download: %w", err)
		}
		_, err = command(ctx, m.Dir, "go", "build", "-o", file, pkg)
		return err
	})
}

// command runs a program to its end in dir and returns what it prints. It lets
// everybody else go first: meanwhile other servers start, which have a limit.
func command(ctx context.Context, dir, name string, args ...string) (output string, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	if nice, err := exec.LookPath("nice"); err == nil {
		cmd = exec.CommandContext(ctx, nice, append([]string{"-n", "19", path}, args...)...)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, &out, &log, time.Second
	// The workspace and the flags of this repository have no part in another's.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if err := cmd.Run(); err != nil {
		return "", withLog(fmt.Errorf("%s %s: %w", name, args[0], err), strings.TrimSpace(out.String()+log.String()))
	}
	return out.String(), nil
}

// getJSON asks an HTTP server for path and reads its answer into v.
func getJSON(conn io.ReadWriter, path string, v any) error {
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxGreeting)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s is answered %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("GET %s is not answered with JSON: %w", path, err)
	}
	return nil
}
