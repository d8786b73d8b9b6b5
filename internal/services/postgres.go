package services

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Postgres is a PostgreSQL server whose superuser postgres needs no password.
// It does not force its data to the disk: they survive its crash, not that of
// the machine. The variable holds a connection URL for the database postgres.
func Postgres() Service {
	return Service{
		Name:     "postgres",
		Variable: "PARLEY_POSTGRES_URL",
		Packages: []string{"postgresql"},
		Port:     5432,
		address: func(hostport string) string {
			return "postgres://postgres@" + hostport + "/postgres?sslmode=disable"
		},
		greet:  greetPostgres,
		find:   findPostgres,
		launch: launchPostgres,
	}
}

// findPostgres returns the newest server program. Debian keeps it, and initdb
// beside it, out of PATH, in a directory for each version.
func findPostgres() (string, error) {
	paths, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(paths) == 0 {
		return exec.LookPath("postgres")
	}
	newest, highest := "", -1
	for _, p := range paths {
		v, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		if err == nil && v > highest {
			newest, highest = p, v
		}
	}
	return exec.LookPath(newest)
}

func launchPostgres(ctx context.Context, dir string, port int) ([]*process, error) {
	path, err := findPostgres()
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "postgres" // initdb and postgres refuse to run as root
		if err := giveTo(user, dir); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		if err := initPostgres(ctx, filepath.Join(filepath.Dir(path), "initdb"), data, user); err != nil {
			return nil, err
		}
	}
	server, err := start(ctx, program{
		path: path,
		args: []string{
			"-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(port),
			// No socket file: its path would have to be short, and dir need not be.
			"-c", "unix_socket_directories=", "-c", "fsync=off",
		},
		dir:  dir,
		user: user,
		quit: syscall.SIGINT, // a fast shutdown: does not wait for clients to leave
	})
	if err != nil {
		return nil, err
	}
	return []*process{server}, nil
}

// initPostgres makes the cluster in which a server keeps its data.
func initPostgres(ctx context.Context, path, data, user string) error {
	return finish(ctx, program{
		path: path,
		args: []string{"-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"},
		dir:  filepath.Dir(data),
		user: user,
		quit: syscall.SIGTERM,
	})
}

// greetPostgres sends the startup message of protocol 3.0 and reads until the
// server is ready for a query. PostgreSQL manual, "Message Formats".
func greetPostgres(conn io.ReadWriter) (version string, err error) {
	const parameters = "user\x00postgres\x00database\x00postgres\x00\x00"
	startup := binary.BigEndian.AppendUint32(nil, uint32(8+len(parameters)))
	startup = binary.BigEndian.AppendUint32(startup, 3<<16)
	if _, err := conn.Write(append(startup, parameters...)); err != nil {
		return "", err
	}
	in := io.LimitReader(conn, maxGreeting)
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return "", err
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size < 4 || size > maxGreeting {
			return "", fmt.Errorf("postgres sends a message of %d bytes", size)
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(in, body); err != nil {
			return "", err
		}
		switch head[0] {
		case 'R': // Authentication…; all zero means that none is needed
			if !bytes.Equal(body, make([]byte, 4)) {
				return "", errors.New("postgres asks for a password")
			}
		case 'S': // ParameterStatus: name and value, each with a zero after it
			name, value, _ := strings.Cut(string(body), "\x00")
			if name == "server_version" {
				// Such as "15.18 (Debian 15.18-0+deb12u1)".
				version, _, _ = strings.Cut(strings.TrimRight(value, "\x00"), " ")
			}
		case 'E': // ErrorResponse
			return "", fmt.Errorf("postgres refuses: %s", postgresError(body))
		case 'Z': // ReadyForQuery
			_, err := conn.Write([]byte{'X', 0, 0, 0, 4}) // Terminate
			return version, err
		}
	}
}

// postgresError returns the field M, the message for people, of an error's
// fields, each of which is a letter and a string that ends with a zero.
func postgresError(body []byte) string {
	for field := range bytes.SplitSeq(body, []byte{0}) {
		if len(field) > 0 && field[0] == 'M' {
			return string(field[1:])
		}
	}
	return "without a reason"
}
