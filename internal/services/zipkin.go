package services

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

const zipkinVersion = "3.6.1"

// Zipkin is a Zipkin server, which keeps spans in memory. The variable holds its
// URL without a path.
func Zipkin() Service {
	return Service{
		Name:     "zipkin",
		Variable: "PARLEY_ZIPKIN_URL",
		Packages: javaPackages(),
		Port:     9411,
		address:  func(hostport string) string { return "http://" + hostport },
		greet:    greetZipkin,
		find:     findZipkin,
		fetch:    fetchZipkin,
		launch:   launchZipkin,
	}
}

// findZipkin returns the path of the server's jar, if there is a java to run it.
func findZipkin() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", err
	}
	return cached("zipkin-" + zipkinVersion + ".jar")
}

// fetchZipkin takes the jar from Maven's repository, and Java and Maven from
// Debian where they are missing.
func fetchZipkin(ctx context.Context, say func(string)) error {
	if err := installJava(ctx, Zipkin(), say); err != nil {
		return err
	}
	say("zipkin: fetching version " + zipkinVersion + " with Maven")
	return fetchInto(ctx, "zipkin-"+zipkinVersion+".jar", func(ctx context.Context, file string) error {
		dir := filepath.Dir(file)
		_, err := command(ctx, dir, "mvn", "-q", "-B", mavenDependency+":copy",
			"-Dartifact=io.zipkin:zipkin-server:"+zipkinVersion+":jar:slim", "-DoutputDirectory="+dir)
		if err != nil {
			return err
		}
		return os.Rename(filepath.Join(dir, "zipkin-server-"+zipkinVersion+"-slim.jar"), file)
	})
}

func launchZipkin(ctx context.Context, dir string, port int) ([]*process, error) {
	jar, err := findZipkin()
	if err != nil {
		return nil, err
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, err
	}
	server, err := start(ctx, program{
		path: java,
		args: []string{
			"-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", // starts in half the time
			"-jar", jar,
			"--armeria.ports[0].ip=127.0.0.1", "--armeria.ports[0].protocols[0]=http",
			"--armeria.ports[0].port=" + strconv.Itoa(port),
		},
		env:  append(os.Environ(), "STORAGE_TYPE=mem"),
		dir:  dir,
		quit: syscall.SIGTERM,
	})
	if err != nil {
		return nil, err
	}
	return []*process{server}, nil
}

func greetZipkin(conn io.ReadWriter) (version string, err error) {
	var info struct{ Zipkin struct{ Version string } }
	if err := getJSON(conn, "/info", &info); err != nil {
		return "", err
	}
	if info.Zipkin.Version == "" {
		return "", errors.New("what answers GET /info is not a Zipkin")
	}
	return info.Zipkin.Version, nil
}
