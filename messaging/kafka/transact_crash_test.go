//go:build unix

package kafka_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// workerVariable makes the test's program one process of a mill: it has the JSON of
// a workerConfig.
const workerVariable = "PARLEY_TEST_KAFKA_WORKER"

type workerConfig struct {
	Seeds         []string
	Out           string
	Topic, ID     string
	BatchSize     int
	CommitTimeout time.Duration
	Slow          time.Duration // what the handler takes
}

func TestMain(m *testing.M) {
	if config := os.Getenv(workerVariable); config != "" {
		os.Exit(work(config))
	}
	os.Exit(m.Run())
}

// work is the worker. It says when it is ready, and then each payload that it has in
// hand, and ends by SIGTERM or with its input.
func work(config string) int {
	var c workerConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the test, whatever becomes of that
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	b, err := kafka.New(brokerConfig(c.Seeds))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	err = b.Transact(ctx, kafka.Transaction{
		Topic: c.Topic, Group: "mill", ID: c.ID, BatchSize: c.BatchSize, CommitTimeout: c.CommitTimeout,
		OnReady: func() { fmt.Println("ready") },
	}, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		fmt.Println("handling", string(d.Payload))
		if c.Slow > 0 {
			time.Sleep(c.Slow)
		}
		msg := messaging.NewMessage("copy", d.Payload)
		msg.Key = d.Key
		return out.Publish(ctx, c.Out, msg)
	})
	if err == nil {
		err = b.Close(context.Background())
	}
	if err != nil {
		fmt.Println("ended", err)
		return 1
	}
	return 0
}

// A worker is a process of a mill.
type worker struct {
	cmd   *exec.Cmd
	lines chan string
	gone  chan struct{}
}

func (m *mill) worker(c workerConfig) *worker {
	m.t.Helper()
	c.Seeds, c.Topic, c.Out = m.seeds, m.in, m.out
	config, err := json.Marshal(c)
	if err != nil {
		m.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	w := &worker{cmd: exec.CommandContext(context.WithoutCancel(m.t.Context()), self), lines: make(chan string, 100_000), gone: make(chan struct{})}
	w.cmd.Env = append(os.Environ(), workerVariable+"="+string(config))
	w.cmd.Stderr = os.Stderr
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		defer close(w.gone)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.lines <- lines.Text()
		}
		close(w.lines)
		_ = w.cmd.Wait()
	}()
	m.t.Cleanup(func() {
		_ = stdin.Close()
		w.signal(syscall.SIGCONT)
		w.signal(syscall.SIGKILL)
		<-w.gone
	})
	return w
}

func (w *worker) signal(s os.Signal) { _ = w.cmd.Process.Signal(s) }

// await returns once the worker has said n lines that begin so.
func (w *worker) await(t testing.TB, prefix string, n int) {
	t.Helper()
	deadline := time.After(txPatience)
	for n > 0 {
		select {
		case line, ok := <-w.lines:
			if !ok {
				t.Fatalf("the worker ended before it said %q", prefix)
			}
			if strings.HasPrefix(line, "ended") {
				t.Fatal("the worker " + line)
			}
			if strings.HasPrefix(line, prefix) {
				n--
			}
		case <-deadline:
			t.Fatalf("the worker does not say %q", prefix)
		}
	}
}

func (w *worker) kill(t testing.TB) {
	t.Helper()
	w.signal(syscall.SIGKILL)
	<-w.gone
}

func TestEachMessageHasItsOutputExactlyOnceThoughProcessesAreKilled(t *testing.T) {
	t.Parallel()
	for name, ids := range map[string][]string{"with an ID of its own": {"one", "two"}, "with a random ID": {"", ""}} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			m := newMill(t, server(t), 4)
			const chunk, kills = 300, 6
			config := func(i int) workerConfig {
				return workerConfig{ID: ids[i], BatchSize: 40, CommitTimeout: 2 * time.Second, Slow: time.Millisecond}
			}
			workers := []*worker{m.worker(config(0)), m.worker(config(1))}
			workers[0].await(t, "ready", 1)
			workers[1].await(t, "ready", 1)
			for round := range kills {
				m.feed(round*chunk, (round+1)*chunk, 16)
				i := awaitEither(t, workers, 1+random.IntN(chunk-50))
				workers[i].kill(t)
				workers[i] = m.worker(config(i))
				workers[i].await(t, "ready", 1)
			}
			const n = (kills + 1) * chunk
			m.feed(kills*chunk, n, 16)
			m.read(m.out, n)
			m.exactly(m.out, n)
		})
	}
}

// awaitEither returns which of two workers said the last of n lines.
func awaitEither(t testing.TB, workers []*worker, n int) (which int) {
	t.Helper()
	deadline := time.After(txPatience)
	for range n {
		ok := true
		select {
		case _, ok = <-workers[0].lines:
			which = 0
		case _, ok = <-workers[1].lines:
			which = 1
		case <-deadline:
			t.Fatal("the workers have nothing to say")
		}
		if !ok {
			t.Fatal("a worker ended by itself")
		}
	}
	return which
}

func TestAProcessThatStoodStillUntilOthersTookOverCommitsNothing(t *testing.T) {
	t.Parallel()
	m := newMill(t, server(t), 2)
	config := workerConfig{BatchSize: 500, CommitTimeout: 2 * time.Second, Slow: 20 * time.Millisecond}
	zombie := m.worker(config)
	zombie.await(t, "ready", 1)
	m.feed(0, 200, 8) // all of it one batch or two
	zombie.await(t, "handling", 30)
	zombie.signal(syscall.SIGSTOP)

	config.Slow = 0
	heir := m.worker(config)
	heir.await(t, "ready", 1)
	m.read(m.out, 200) // takes until the zombie's session is over
	zombie.signal(syscall.SIGCONT)
	zombie.await(t, "ready", 1) // it has noticed, and joined again
	m.feed(200, 300, 8)
	m.read(m.out, 300)
	m.exactly(m.out, 300)
}

func TestAProcessWithTheSameIDFencesTheOneBefore(t *testing.T) {
	t.Parallel()
	m := newMill(t, server(t), 2)
	m.tx.ID = "pod-1"
	ended := make(chan error, 1)
	gate, inHand := make(chan struct{}), make(chan struct{}, 100)
	ready := make(chan struct{}, 10)
	tx := m.tx
	tx.OnReady = func() { ready <- struct{}{} }
	first := txBroker(t, m.seeds)
	go func() {
		ended <- first.Transact(t.Context(), tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			select {
			case inHand <- struct{}{}:
			default:
			}
			<-gate
			return m.copyOut(ctx, out, d)
		})
	}()
	<-ready
	m.feed(0, 20, 4)
	<-inHand
	stop := m.start(txBroker(t, m.seeds), m.tx, m.copyOut)
	close(gate)
	m.feed(20, 100, 4)
	select {
	case err := <-ended:
		if !isLost(err) || !strings.Contains(err.Error(), `Transaction.ID "pod-1"`) {
			t.Errorf("Transact() = %v, want ErrLost that names the ID", err)
		}
	case <-time.After(txPatience):
		t.Error("the fenced Transact does not end")
	}
	m.read(m.out, 100)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 100)
}
