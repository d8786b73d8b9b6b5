package services

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// caddyVersion is the release that [Caddy] is built from.
const caddyVersion = "2.11.9"

// Nginx is a reverse proxy in front of the backend at a host:port, for tests and
// benchmarks that compare with it. Like [HAProxy], [Caddy] and [Program] it is none
// of [All], and ready when GET / is answered by less than 500, which the backend has to
// do. All three are set up as their documentation has it for connections that are kept,
// 256 of them, and for WebSocket; they say to the backend whom they forward for, and
// log nothing.
func Nginx(backend string) Service {
	s := web("nginx", inPath("nginx"), func(dir string, port int) ([]string, error) {
		user := ""
		if os.Geteuid() == 0 {
			user = "user root;\n" // to whom dir belongs
		}
		file, err := config(dir, "nginx.conf", user+fmt.Sprintf(nginxConf, dir, backend, port))
		return []string{"-p", dir, "-c", file, "-e", "stderr"}, err
	})
	s.Packages = []string{"nginx-light"}
	return s
}

// HAProxy is described at [Nginx].
func HAProxy(backend string) Service {
	s := web("haproxy", inPath("haproxy"), func(dir string, port int) ([]string, error) {
		file, err := config(dir, "haproxy.cfg", fmt.Sprintf(haproxyCfg, port, backend))
		return []string{"-db", "-f", file}, err
	})
	s.Packages = []string{"haproxy"}
	return s
}

// Caddy is described at [Nginx].
func Caddy(backend string) Service { return caddy("caddy", backend, "") }

// CaddyLogging is [Caddy] with its access log, as JSON, to the file that keeps nothing.
func CaddyLogging(backend string) Service { return caddy("caddy_log", backend, caddyLog) }

func caddy(name, backend, log string) Service {
	find := func() (string, error) { return cached("caddy-" + caddyVersion) }
	s := web(name, find, func(dir string, port int) ([]string, error) {
		file, err := config(dir, "Caddyfile", fmt.Sprintf(caddyfile, dir, port, backend, log))
		return []string{"run", "--config", file, "--adapter", "caddyfile"}, err
	})
	s.fetch = func(ctx context.Context, say func(string)) error {
		say("caddy: building version " + caddyVersion + " from its source, which takes some minutes the first time")
		return buildInto(ctx, "caddy-"+caddyVersion, "github.com/caddyserver/caddy/v2", caddyVersion, "./cmd/caddy")
	}
	return s
}

// Program is a server of the caller's own, which gets as its last argument the port
// of 127.0.0.1 at which it is to serve HTTP.
func Program(name, path string, args ...string) Service {
	find := func() (string, error) { return path, nil }
	return web(name, find, func(_ string, port int) ([]string, error) {
		return append(args[:len(args):len(args)], strconv.Itoa(port)), nil
	})
}

// Install installs the server's program, or builds it, where it is missing, and
// tells say before it does.
func (s Service) Install(ctx context.Context, say func(string)) error {
	if err := s.provide(ctx, say); err != nil {
		return fmt.Errorf("services: %s: %w", s.Name, err)
	}
	return nil
}

// web is a server that speaks HTTP, started with what args returns.
func web(name string, find func() (string, error), args func(dir string, port int) ([]string, error)) Service {
	return Service{
		Name:    name,
		address: func(hostport string) string { return hostport },
		greet:   greetHTTP,
		find:    find,
		launch: func(ctx context.Context, dir string, port int) ([]*process, error) {
			path, err := find()
			if err != nil {
				return nil, err
			}
			list, err := args(dir, port)
			if err != nil {
				return nil, err
			}
			server, err := start(ctx, program{path: path, args: list, dir: dir, quit: syscall.SIGTERM, orphans: true})
			if err != nil {
				return nil, err
			}
			return []*process{server}, nil
		},
	}
}

func inPath(name string) func() (string, error) {
	return func() (string, error) { return exec.LookPath(name) }
}

// config writes a server's configuration into its directory.
func config(dir, name, text string) (file string, err error) {
	file = filepath.Join(dir, name)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// greetHTTP returns what the server calls itself, if it does.
func greetHTTP(conn io.ReadWriter) (version string, err error) {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxGreeting)), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return "", fmt.Errorf("GET / is answered %s", resp.Status) // by a proxy that lacks its backend
	}
	return resp.Header.Get("Server"), nil
}

// nginxConf takes the directory, the backend and the port.
const nginxConf = `daemon off;
worker_processes auto;
events { worker_connections 4096; }
pid nginx.pid;
error_log stderr;
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests 1000000000;
	upstream backend {
		server %[2]s;
		keepalive 256;
		keepalive_requests 1000000000;
	}
	map $http_upgrade $switch_to { default ""; "~*^websocket$" websocket; }
	map $switch_to $switch { default ""; websocket upgrade; }
	server {
		listen 127.0.0.1:%[3]d;
		location / {
			proxy_pass http://backend;
			proxy_http_version 1.1;
			proxy_set_header Host $host;
			proxy_set_header Upgrade $switch_to;
			proxy_set_header Connection $switch;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Host $host;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}
}
`

// haproxyCfg takes the port and the backend.
const haproxyCfg = `global
	maxconn 4096
defaults
	mode http
	option forwardfor
	http-reuse always
	timeout connect 5s
	timeout client 1m
	timeout server 1m
frontend in
	bind 127.0.0.1:%[1]d
	default_backend out
backend out
	server one %[2]s pool-max-conn 256
`

// caddyfile takes the directory, the port, the backend, and what the site has besides.
const caddyfile = `{
	admin off
	auto_https off
	persist_config off
	storage file_system %[1]s
	log {
		output discard
	}
}
http://:%[2]d {
	bind 127.0.0.1
	reverse_proxy %[3]s {
		transport http {
			keepalive_idle_conns 256
			keepalive_idle_conns_per_host 256
		}
	}
%[4]s}
`

const caddyLog = `	log {
		output file /dev/null {
			roll_disabled
		}
		format json
	}
`
