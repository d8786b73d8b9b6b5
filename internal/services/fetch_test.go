//go:build unix

package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakes puts shell scripts into an otherwise empty PATH, and an empty cache in
// place, which it returns.
func fakes(t *testing.T, scripts map[string]string) (cache string) {
	t.Helper()
	bin := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// left returns the names of what is in the cache.
func left(t *testing.T, cache string) string {
	t.Helper()
	entries, err := os.ReadDir(cache)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestJaegerIsBuiltOnceInTheDirectoryOfItsModule(t *testing.T) {
	module := t.TempDir()
	cache := fakes(t, map[string]string{"go": `
case "$1" in
mod) echo '{"Dir": "` + module + `"}';;
build) [ "$GOWORK$GOFLAGS" = off ] && [ "$PWD" = "` + module + `" ] && echo built >"$3";;
esac`})
	if _, err := findJaeger(); err == nil {
		t.Fatal("findJaeger() found one before it was built")
	}
	var said []string
	if err := fetchJaeger(t.Context(), func(line string) { said = append(said, line) }); err != nil {
		t.Fatal(err)
	}
	path, err := findJaeger()
	if err != nil || path != filepath.Join(cache, "jaeger-"+jaegerVersion) || read(t, path) != "built\n" {
		t.Errorf("findJaeger() = %s, %v, want what was built, in %s", path, err, cache)
	}
	if len(said) != 1 || !strings.Contains(said[0], "building version "+jaegerVersion) || left(t, cache) != filepath.Base(path) {
		t.Errorf("said %q, leaving %s, want one line and the program alone", said, left(t, cache))
	}
}

func TestABuildThatFailsLeavesNothingAndTellsWhy(t *testing.T) {
	for script, want := range map[string]string{
		`echo "no such module" >&2; exit 1`: "no such module",
		`echo '{'`:                          "go mod download: unexpected end of JSON input",
		`case "$1" in mod) echo '{"Dir": "/"}';; *) echo "does not compile" >&2; exit 1;; esac`: "does not compile",
	} {
		cache := fakes(t, map[string]string{"go": script})
		err := fetchJaeger(t.Context(), quiet)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("fetchJaeger() = %v, want %q", err, want)
		}
		if left(t, cache) != "" {
			t.Errorf("%s is left in the cache, want nothing", left(t, cache))
		}
	}
}

func TestAFetchEndsWithItsContext(t *testing.T) {
	fakes(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	err := fetchInto(ctx, "x", func(ctx context.Context, _ string) error {
		cancel(io.ErrClosedPipe)
		return context.Cause(ctx)
	})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("fetchInto() = %v, want the cause", err)
	}
}

func TestZipkinIsFetchedWithMaven(t *testing.T) {
	cache := fakes(t, map[string]string{
		"java": "",
		"mvn":  `for a; do case "$a" in -DoutputDirectory=*) echo jar >"${a#*=}/zipkin-server-` + zipkinVersion + `-slim.jar";; esac; done`,
	})
	if _, err := findZipkin(); err == nil {
		t.Fatal("findZipkin() found one before it was fetched")
	}
	if err := fetchZipkin(t.Context(), quiet); err != nil {
		t.Fatal(err)
	}
	if path, err := findZipkin(); err != nil || read(t, path) != "jar\n" || left(t, cache) != "zipkin-"+zipkinVersion+".jar" {
		t.Errorf("findZipkin() = %s, %v, leaving %s, want the jar alone", path, err, left(t, cache))
	}
}

func TestZipkinWithoutJavaIsInstalledFirst(t *testing.T) {
	fakes(t, nil) // not even apt-get
	if _, err := findZipkin(); err == nil {
		t.Error("findZipkin() without java = nil, want an error")
	}
	err := fetchZipkin(t.Context(), quiet)
	if err == nil || !strings.Contains(err.Error(), "openjdk-17-jre-headless maven is not installed") {
		t.Errorf("fetchZipkin() = %v, want it to name the packages", err)
	}
}

// A mvn that copies the artefact of the project it is run in.
const mavenScript = `
set -e
artefact=$(/bin/sed -n 's/.*<artifactId>\([^<]*\)<.artifactId><version>\([^<]*\)<.*/\1-\2/p' pom.xml)
for a; do case "$a" in -DoutputDirectory=*) out="${a#*=}"; /bin/mkdir "$out"; echo jar >"$out/$artefact.jar";; esac; done`

func TestKafkaAndElasticMQAreFetchedWithMaven(t *testing.T) {
	for _, tt := range []struct {
		service  Service
		dir, jar string
	}{
		{Kafka(), "kafka-" + kafkaVersion, "kafka_2.13-" + kafkaVersion},
		{SQS(), "elasticmq-" + elasticVersion, "elasticmq-server_2.13-" + elasticVersion},
	} {
		cache := fakes(t, map[string]string{"java": "", "mvn": mavenScript})
		if _, err := tt.service.find(); err == nil {
			t.Fatal("find() found it before it was fetched")
		}
		for range 2 { // the second is one of two runs at once that comes last
			var said []string
			if err := tt.service.fetch(t.Context(), func(line string) { said = append(said, line) }); err != nil {
				t.Fatal(err)
			}
			path, err := tt.service.find()
			if err != nil || read(t, filepath.Join(path, tt.jar+".jar")) != "jar\n" || left(t, cache) != tt.dir {
				t.Errorf("%s: find() = %s, %v, leaving %s, want the jars of %s alone", tt.service.Name, path, err, left(t, cache), tt.jar)
			}
			if len(said) != 1 || !strings.HasPrefix(said[0], tt.service.Name+": fetching version ") {
				t.Errorf("%s: said %q, want one line", tt.service.Name, said)
			}
		}
	}
}

func TestAServerOfJarsWithoutJavaIsInstalledFirst(t *testing.T) {
	fakes(t, nil) // not even apt-get
	for _, s := range []Service{Kafka(), SQS()} {
		if _, err := s.find(); err == nil {
			t.Errorf("%s: find() without java = nil, want an error", s.Name)
		}
		err := s.fetch(t.Context(), quiet)
		if err == nil || !strings.Contains(err.Error(), "openjdk-17-jre-headless maven is not installed") {
			t.Errorf("%s: fetch() = %v, want it to name the packages", s.Name, err)
		}
		if _, err := s.launch(t.Context(), t.TempDir(), 1); err == nil {
			t.Errorf("%s: launch() without java = nil, want an error", s.Name)
		}
	}
}

func TestAServiceThatIsFetchedIsNotInstalled(t *testing.T) {
	s := Redis()
	s.find = func() (string, error) { return "", os.ErrNotExist }
	s.fetch = func(context.Context, func(string)) error { return io.ErrNoProgress }
	if _, err := own(t.Context(), s, quiet); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("own() = %v, want the error of fetch", err)
	}
}

// answering serves one HTTP answer to each connection.
func answering(t *testing.T, status int, body string) *net.TCPAddr {
	t.Helper()
	return serve(t, func(c net.Conn) {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nConnection: close\r\n\r\n%s", status, http.StatusText(status), body)
	})
}

func TestHTTPServersGreetWithTheirOwnAnswer(t *testing.T) {
	for _, tt := range []struct {
		service       Service
		status        int
		body          string
		version, want string
	}{
		{Zipkin(), 200, `{"zipkin":{"version":"3.6.1"}}`, "3.6.1", ""},
		{Zipkin(), 200, `{}`, "", "is not a Zipkin"},
		{Zipkin(), 200, `<html>`, "", "not answered with JSON"},
		{Zipkin(), 500, ``, "", "is answered 500 Internal Server Error"},
		{SQS(), 200, `{"QueueUrls":[]}`, "", ""},
		{SQS(), 200, `{}`, "", "is not an SQS"},
		{SQS(), 200, `<html>`, "", "not answered with JSON"},
		{SQS(), 404, ``, "", "is answered 404 Not Found"},
		{SQS(), 0, ``, "", "malformed HTTP"},
		{Jaeger(), 200, `{"data":null}`, "", ""},
		{Jaeger(), 0, ``, "", "malformed HTTP"},
	} {
		version, err := tt.service.hello(t.Context(), answering(t, tt.status, tt.body).String())
		if version != tt.version || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s that says %d %q: hello() = %q, %v, want %q and %q", tt.service.Name, tt.status, tt.body, version, err, tt.version, tt.want)
		}
	}
}

func TestFurtherPortsStandBesideTheFirst(t *testing.T) {
	s := Jaeger()
	if got, want := (&Node{service: s, port: 20001}).URL(), "127.0.0.1:20001,127.0.0.1:20002,127.0.0.1:20003"; got != want {
		t.Errorf("URL() = %s, want %s", got, want)
	}
	addr := answering(t, 200, `{}`)
	s.Port = addr.Port
	f, err := running(t.Context(), s, quiet)
	if want := addr.String() + ",127.0.0.1:4318,127.0.0.1:4317"; err != nil || f.address != want {
		t.Errorf("running() = %+v, %v, want %s", f, err, want)
	}
	fakeDocker(t, `case "$*" in *" port jaeger 4317") echo 127.0.0.1:2;; *" port jaeger 4318") echo 127.0.0.1:3;; *" port "*) echo `+addr.String()+`;; esac`)
	f, err = compose("compose.yaml")(t.Context(), s, quiet)
	if want := addr.String() + ",127.0.0.1:3,127.0.0.1:2"; err != nil || f.address != want {
		t.Errorf("compose() = %+v, %v, want %s", f, err, want)
	}
	fakeDocker(t, `case "$*" in *" port jaeger 4317") exit 1;; *" port "*) echo `+addr.String()+`;; esac`)
	if _, err := compose("compose.yaml")(t.Context(), s, quiet); err == nil {
		t.Error("compose() = nil, want docker's error for the last port")
	}
}
