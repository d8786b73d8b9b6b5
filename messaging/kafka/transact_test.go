package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// txPatience ends what hangs. It asserts handleNothing about speed.
const txPatience = time.Minute

// onBoth runs test on a fake and on Kafka.
func onBoth(t *testing.T, test func(t *testing.T, seeds []string)) {
	t.Helper()
	t.Run("on a fake", func(t *testing.T) { test(t, fake(t).ListenAddrs()) })
	t.Run("on Kafka", func(t *testing.T) { test(t, server(t)) })
}

// A mill is a group of a topic that publishes to another topic, both of the test's
// own.
type mill struct {
	t       testing.TB
	seeds   []string
	b       *kafka.Broker
	in, out string
	tx      kafka.Transaction
}

func newMill(t testing.TB, seeds []string, partitions int32) *mill {
	t.Helper()
	id := strings.TrimPrefix(messaging.NewMessage("", nil).ID, "0")
	m := &mill{t: t, seeds: seeds, in: "in-" + id, out: "out-" + id, b: txBroker(t, seeds)}
	m.tx = kafka.Transaction{
		Topic: m.in, Group: "mill", CommitTimeout: 10 * time.Second,
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	}
	adm := kadm.NewClient(m.client())
	made, err := adm.CreateTopics(t.Context(), partitions, 1, nil, m.in, m.out)
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), txPatience)
		defer cancel()
		topics, err := adm.ListTopics(ctx)
		if err != nil {
			return // the server was the test's, and is gone
		}
		for name := range topics {
			if strings.HasPrefix(name, m.in) || name == m.out {
				_, _ = adm.DeleteTopic(ctx, name)
			}
		}
	})
	return m
}

func txBroker(t testing.TB, seeds []string) *kafka.Broker {
	t.Helper()
	b, err := kafka.New(brokerConfig(seeds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	return b
}

func brokerConfig(seeds []string) kafka.Config {
	return kafka.Config{
		Seeds: seeds, Partitions: 1, RebalanceTimeout: 2 * time.Second, Logger: testLog(),
		RetryDelays: []time.Duration{100 * time.Millisecond, 300 * time.Millisecond},
	}
}

// testLog is where the logs of the brokers go.
func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (m *mill) client(opts ...kgo.Opt) *kgo.Client {
	m.t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(m.seeds...))...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(cl.Close)
	return cl
}

type process = func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error

// start runs Transact until stop is called, which returns its error. It returns
// once the group is joined.
func (m *mill) start(b *kafka.Broker, tx kafka.Transaction, h process) (stop func() error) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	tx.OnReady = func() { once.Do(func() { close(ready) }) }
	go func() { ended <- b.Transact(ctx, tx, h) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(txPatience):
			return errors.New("Transact does not end")
		}
	})
	m.t.Cleanup(func() { _ = stop() })
	select {
	case <-ready:
	case err := <-ended:
		m.t.Fatalf("Transact() = %v before it was ready", err)
	case <-time.After(txPatience):
		m.t.Fatal("the group is not joined")
	}
	return stop
}

// feed publishes messages with the payloads from to to-1, the key being the number
// modulo keys.
func (m *mill) feed(from, to, keys int) {
	m.t.Helper()
	var msgs []messaging.Message
	for i := from; i < to; i++ {
		msg := messaging.NewMessage("number", fmt.Append(nil, i))
		msg.Key = fmt.Sprint(i % keys)
		msgs = append(msgs, msg)
	}
	if err := m.b.Publish(m.t.Context(), m.in, msgs...); err != nil {
		m.t.Fatal(err)
	}
}

// copyOut publishes what d has, for the reader of the test.
func (m *mill) copyOut(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
	msg := messaging.NewMessage("copy", d.Payload)
	msg.Key = d.Key
	return out.Publish(ctx, m.out, msg)
}

// read returns the first n records of a topic that were committed, and whatever
// more comes with them.
func (m *mill) read(topic string, n int) []*kgo.Record {
	m.t.Helper()
	cl := m.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(m.t.Context(), txPatience)
	defer cancel()
	var recs []*kgo.Record
	for len(recs) < n && ctx.Err() == nil {
		recs = append(recs, cl.PollFetches(ctx).Records()...)
	}
	if len(recs) < n {
		m.t.Fatalf("%s has %d committed records, want %d", topic, len(recs), n)
	}
	return recs
}

// exactly checks that a topic has each of the numbers from 0 to n-1 once, and
// handleNothing else, in the order of publishing for each key.
func (m *mill) exactly(topic string, n int) {
	m.t.Helper()
	// A last one, behind all that may be there too often.
	end := m.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	meta, err := kadm.NewClient(end).ListTopics(m.t.Context(), topic)
	if err != nil {
		m.t.Fatal(err)
	}
	parts := len(meta[topic].Partitions)
	for i := range parts {
		if err := end.ProduceSync(m.t.Context(), &kgo.Record{Topic: topic, Partition: int32(i), Value: []byte("end")}).FirstErr(); err != nil {
			m.t.Fatal(err)
		}
	}
	counts, last, ends, total := map[string]int{}, map[string]int{}, 0, 0
	cl := m.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(m.t.Context(), txPatience)
	defer cancel()
	for ends < parts && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if string(r.Value) == "end" {
				ends++
				return
			}
			total++
			counts[string(r.Value)]++
			var at int
			if _, err := fmt.Sscan(string(r.Value), &at); err != nil {
				m.t.Errorf("%s has a record %q", topic, r.Value)
			}
			if was, ok := last[string(r.Key)]; ok && at <= was {
				m.t.Errorf("%s has %d after %d, of key %s", topic, at, was, r.Key)
			}
			last[string(r.Key)] = at
		})
	}
	if ends < parts {
		m.t.Fatalf("read %d of %d partitions to their end", ends, parts)
	}
	if total != n || len(counts) != n {
		twice := 0
		for _, c := range counts {
			if c > 1 {
				twice++
			}
		}
		m.t.Errorf("%s has %d records of %d numbers, %d of them more than once; want %d, each once", topic, total, len(counts), twice, n)
	}
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func TestTransactCommitsOutputsAndPlacesTogetherInOrderOfEachKey(t *testing.T) {
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 3)
		stop := m.start(m.b, m.tx, m.copyOut)
		m.feed(0, 1000, 7)
		m.read(m.out, 1000)
		if err := stop(); err != nil {
			t.Errorf("Transact() = %v after its ctx ended, want nil", err)
		}
		m.feed(1000, 1100, 7)
		// Another one begins where this one has committed.
		stop = m.start(txBroker(t, seeds), m.tx, m.copyOut)
		m.read(m.out, 1100)
		if err := stop(); err != nil {
			t.Error(err)
		}
		m.exactly(m.out, 1100)
	})
}

func TestAFailingMessageLandsOnceInTheDeadLettersAndItsNeighboursCommit(t *testing.T) {
	onBoth(t, func(t *testing.T, seeds []string) {
		m := newMill(t, seeds, 2)
		m.tx.MaxAttempts = 3
		var attempts []int
		var mu sync.Mutex
		stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
			if err := m.copyOut(ctx, out, d); err != nil { // dropped, where the handler fails after it
				return err
			}
			if string(d.Payload) == "20" {
				mu.Lock()
				attempts = append(attempts, d.Attempt)
				mu.Unlock()
				return errors.New("not this one")
			}
			return nil
		})
		m.feed(0, 20, 4)
		m.feed(20, 21, 1)
		m.feed(21, 40, 4)
		m.read(m.out, 39)
		dead := m.read(m.in+".mill.dlq", 1)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if len(dead) != 1 || string(dead[0].Value) != "20" {
			t.Fatalf("%d dead letters, the first %q; want the failed one", len(dead), dead[0].Value)
		}
		for name, want := range map[string]string{
			messaging.HeaderDeadReason: messaging.ReasonExhausted, messaging.HeaderDeadAttempts: "3",
			messaging.HeaderDeadTopic: m.in, messaging.HeaderDeadGroup: "mill", messaging.HeaderDeadError: "not this one",
		} {
			if got := header(dead[0], name); got != want {
				t.Errorf("header %s = %q, want %q", name, got, want)
			}
		}
		for _, r := range m.read(m.out, 39) {
			if string(r.Value) == "20" {
				t.Error("what a failed attempt had published was committed")
			}
		}
		if fmt.Sprint(attempts) != "[1 2 3]" {
			t.Errorf("attempts %v, want 1, 2, 3", attempts)
		}
	})
}

func TestAMessageThatWaitsForItsRetryKeepsNothingFromOtherPartitions(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 4)
	gate := make(chan struct{})
	m.tx.Backoff = func(int) time.Duration {
		select {
		case <-gate:
			return 0
		default:
			return 300 * time.Millisecond
		}
	}
	m.tx.MaxAttempts = 1000
	first := true
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		if d.Key == "3" && !isOver(gate) {
			if !first && string(d.Payload) != "3" {
				t.Errorf("message %s of key 3 was handled while the one before it waits", d.Payload)
			}
			first = false
			return errors.New("later")
		}
		return m.copyOut(ctx, out, d)
	})
	m.feed(0, 40, 5)
	// Those whose partition is another, whatever the hash makes of the keys.
	m.read(m.out, 1)
	close(gate)
	m.read(m.out, 40)
	if err := stop(); err != nil {
		t.Error(err)
	}
	m.exactly(m.out, 40)
}

func isOver(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestPanicsAndGoexitOfHandlersAreFailedAttemptsWithTheirStack(t *testing.T) {
	for name, end := range map[string]func(){
		"panic": func() { panic("oops") }, "panic with an error": func() { panic(errors.New("oops")) }, "runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMill(t, fake(t).ListenAddrs(), 1)
			log := &lines{}
			cfg := brokerConfig(m.seeds)
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			b, err := kafka.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer shut(t, b)
			stop := m.start(b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
				if string(d.Payload) == "3" && d.Attempt == 1 {
					_ = m.copyOut(ctx, out, d)
					end()
				}
				return m.copyOut(ctx, out, d)
			})
			m.feed(0, 10, 1)
			m.read(m.out, 10)
			if err := stop(); err != nil {
				t.Error(err)
			}
			m.exactly(m.out, 10)
			if text := log.String(); strings.HasPrefix(name, "panic") && (!strings.Contains(text, "oops") || !strings.Contains(text, "transact_test.go")) {
				t.Errorf("the log has no stack of the panic: %s", text)
			}
		})
	}
}

// lines is a log to read.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestWhatAHandlerPublishesIsBoundedByNumberAndBytes(t *testing.T) {
	m := newMill(t, fake(t).ListenAddrs(), 1)
	m.tx.MaxOutput, m.tx.MaxOutputBytes, m.tx.MaxAttempts = 3, 20_000, 1
	var late messaging.Publisher
	results := make(chan error, 4)
	stop := m.start(m.b, m.tx, func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error {
		late = out
		switch string(d.Payload) {
		case "0":
			results <- out.Publish(ctx, m.out, messaging.NewMessage("", []byte("0")), messaging.NewMessage("", nil), messaging.NewMessage("", nil), messaging.NewMessage("", nil))
		case "1":
			results <- out.Publish(ctx, m.out, messaging.NewMessage("", []byte("1")), messaging.NewMessage("", make([]byte, 19_500)))
		case "2":
			results <- out.Publish(ctx, "nobody-made-this", messaging.NewMessage("", nil))
			results <- out.Publish(ctx, m.out, messaging.Message{})
		}
		return errors.New("too much")
	})
	m.feed(0, 3, 1)
	m.read(m.in+".mill.dlq", 3)
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []struct {
		err  error
		text string
		n    int // which of the call
	}{
		{messaging.ErrTooLarge, "3 messages already, which is Transaction.MaxOutput", 3},
		{messaging.ErrTooLarge, "Transaction.MaxOutputBytes is 20000", 1},
		{messaging.ErrUnroutable, "nobody-made-this", 0},
		{messaging.ErrInvalid, "no ID", 0},
	} {
		batch, ok := errors.AsType[*messaging.BatchError](<-results)
		if !ok || !errors.Is(batch.Errs[want.n], want.err) || !strings.Contains(batch.Error(), want.text) {
			t.Errorf("Publish() = %v, want %v with %q for message %d", batch, want.err, want.text, want.n)
			continue
		}
		for i, err := range batch.Errs {
			if i != want.n && err != nil {
				t.Errorf("message %d was refused too: %v", i, err)
			}
		}
	}
	if err := late.Publish(t.Context(), m.out, messaging.NewMessage("", nil)); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "has returned") {
		t.Errorf("Publish() = %v after the handler has returned, want ErrInvalid", err)
	}
	if err := late.Publish(t.Context(), m.out); err != nil {
		t.Errorf("Publish() of handleNothing = %v, want nil", err)
	}
}
