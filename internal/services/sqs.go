package services

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

const elasticVersion = "1.7.1"

// SQS is an ElasticMQ, which speaks the protocol of Amazon SQS, keeps to its
// limits and takes any credentials. It keeps nothing on disk: what it holds ends
// with its process. The variable holds its URL without a path.
func SQS() Service {
	return Service{
		Name:     "elasticmq",
		Variable: "PARLEY_SQS_URL",
		Packages: javaPackages(),
		Port:     9324,
		address:  func(hostport string) string { return "http://" + hostport },
		greet:    greetSQS,
		find:     findSQS,
		fetch:    fetchSQS,
		launch:   launchSQS,
	}
}

// findSQS returns the directory of the server's jars, if there is a java to run
// them.
func findSQS() (string, error) { return findJars("elasticmq-" + elasticVersion) }

func fetchSQS(ctx context.Context, say func(string)) error {
	return fetchJars(ctx, SQS(), "elasticmq-"+elasticVersion, "org.elasticmq:elasticmq-server_2.13:"+elasticVersion, say)
}

func launchSQS(ctx context.Context, dir string, port int) ([]*process, error) {
	jars, err := findSQS()
	if err != nil {
		return nil, err
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "elasticmq.conf")
	text := fmt.Sprintf(`include classpath("application.conf")
node-address { host = "127.0.0.1", port = %[1]d }
rest-sqs { bind-hostname = "127.0.0.1", bind-port = %[1]d, sqs-limits = strict }
rest-stats.enabled = false
`, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	server, err := start(ctx, program{
		path: java,
		args: []string{
			"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
			"-Dconfig.file=" + conf, "-cp", filepath.Join(jars, "*"), "org.elasticmq.server.Main",
		},
		dir:  dir,
		quit: syscall.SIGTERM,
	})
	if err != nil {
		return nil, err
	}
	return []*process{server}, nil
}

// greetSQS asks for a queue's name in SQS's JSON protocol. ElasticMQ does not tell
// its version.
func greetSQS(conn io.ReadWriter) (version string, err error) {
	const body = `{"MaxResults":1}`
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+
		"Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.ListQueues\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxGreeting)), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ListQueues is answered %s", resp.Status)
	}
	var queues struct{ QueueUrls *[]string }
	if err := json.NewDecoder(resp.Body).Decode(&queues); err != nil {
		return "", fmt.Errorf("ListQueues is not answered with JSON: %w", err)
	}
	if queues.QueueUrls == nil {
		return "", errors.New("what answers ListQueues is not an SQS")
	}
	return "", nil
}
