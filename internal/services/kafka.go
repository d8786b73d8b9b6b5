package services

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

const kafkaVersion = "4.1.2"

// Kafka is an Apache Kafka of one node, which is its own controller (KRaft). It
// makes no topic that nobody has created. What it has confirmed survives a crash
// of its process, not that of the machine: it does not force its data to the disk.
// The variable holds host:port, or several with commas between.
func Kafka() Service {
	return Service{
		Name:       "kafka",
		Variable:   "PARLEY_KAFKA_ADDR",
		Packages:   javaPackages(),
		Python:     []string{"python3-kafka", "python3-snappy"}, // what our clients send is compressed
		Port:       9092,
		advertises: true,
		address:    func(hostport string) string { return hostport },
		greet:      greetKafka,
		find:       findKafka,
		fetch:      fetchKafka,
		launch:     launchKafka,
	}
}

// findKafka returns the directory of the server's jars, if there is a java to run
// them.
func findKafka() (string, error) { return findJars("kafka-" + kafkaVersion) }

func fetchKafka(ctx context.Context, say func(string)) error {
	return fetchJars(ctx, Kafka(), "kafka-"+kafkaVersion, "org.apache.kafka:kafka_2.13:"+kafkaVersion, say)
}

// KafkaBehind is a Kafka that sends its clients to another address than its own: that
// of a proxy, which proxy returns for the server's address each time that a [Node]
// starts. It is not one of [All]: the variable is that of Kafka.
func KafkaBehind(proxy func(hostport string) (advertised string, err error)) Service {
	s := Kafka()
	s.launch = func(ctx context.Context, dir string, port int) ([]*process, error) {
		advertised, err := proxy(loopback(port))
		if err != nil {
			return nil, err
		}
		return runKafka(ctx, dir, port, advertised)
	}
	return s
}

func launchKafka(ctx context.Context, dir string, port int) ([]*process, error) {
	return runKafka(ctx, dir, port, loopback(port))
}

func runKafka(ctx context.Context, dir string, port int, advertised string) ([]*process, error) {
	jars, err := findKafka()
	if err != nil {
		return nil, err
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, err
	}
	conf, err := kafkaConf(ctx, dir, port, advertised)
	if err != nil {
		return nil, err
	}
	kafka := func(mainAndArgs ...string) program {
		return program{
			path: java,
			args: append([]string{
				"-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
				"-Dlog4j2.configurationFile=" + filepath.Join(dir, "log4j2.properties"),
				"-cp", filepath.Join(jars, "*"),
			}, mainAndArgs...),
			dir:  dir,
			quit: syscall.SIGTERM,
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "meta.properties")); err != nil {
		// A cluster's identity is 22 characters of base64, of which those of base32
		// are some.
		id := rand.Text()[:22]
		if err := finish(ctx, kafka("kafka.tools.StorageTool", "format", "-t", id, "-c", conf)); err != nil {
			return nil, err
		}
	}
	server, err := start(ctx, kafka("kafka.Kafka", conf))
	if err != nil {
		return nil, err
	}
	return []*process{server}, nil
}

// kafkaConf writes the server's configuration below dir and returns its path.
func kafkaConf(ctx context.Context, dir string, port int, advertised string) (path string, err error) {
	// The broker and its controller speak to themselves at ports that nobody
	// remembers: with voters that are set, only their numbers are stored.
	internal := port
	for internal == port || internal+1 == port {
		if internal, err = freePorts(ctx, 2); err != nil {
			return "", err
		}
	}
	// After a crash the controller waits for the session of the broker that died
	// before it takes the new one: three seconds of it, not nine.
	const server = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s,INTERNAL://%[3]s
advertised.listeners=PLAINTEXT://%[4]s,INTERNAL://%[3]s
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT
log.dirs=%[5]s
auto.create.topics.enable=false
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
`
	const log = `status=error
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %c %m%n
rootLogger.level=warn
rootLogger.appenderRef.c.ref=C
`
	for name, text := range map[string]string{
		"server.properties": fmt.Sprintf(server, loopback(port), loopback(internal), loopback(internal+1), advertised, filepath.Join(dir, "data")),
		"log4j2.properties": log,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "server.properties"), nil
}
