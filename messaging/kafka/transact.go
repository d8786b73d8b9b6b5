package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/parley-go/parley/messaging"
)

const (
	defaultBatch       = 500
	maxBatch           = 10_000
	defaultOutput      = 1_000
	maxOutput          = 100_000
	defaultOutputBytes = 4 << 20
	maxOutputBytes     = 256 << 20

	// batchBytes is what the outputs of one transaction may take before no further
	// delivery is begun in it. Those that run then may add theirs.
	batchBytes = 16 << 20
)

// A Transaction says what [Broker.Transact] consumes, and within which bounds.
// Topic and Group are required.
type Transaction struct {
	// Topic is what is published to, and Group who shares the work, as in
	// [messaging.Subscription].
	Topic, Group string
	// ID tells this call of Transact from the others of the group, in this and in
	// other processes: 1 to 128 letters, digits, '-', '_' and '.'. With the same ID
	// after a crash, what the crash left open is aborted as soon as the process is
	// back, and not only after CommitTimeout. No two calls that run at one time may
	// have the same: the later fences the earlier. Kafka knows it as the
	// transactional ID <topic>.<group>.<ID>, with the names of the group and the ID
	// as in the names of topics; where Kafka has access lists, the user needs the permission Write
	// on it, or on that prefix. Default: random.
	ID string
	// MaxAttempts is how many times a message may fail before it is dead-lettered.
	// At least 1, which means no retry. Default 5.
	MaxAttempts int
	// Backoff returns the least delay before the attempt that follows the given
	// one, counted from 1. It is called by several goroutines at once. Default that
	// of [messaging.ConsumerConfig].
	Backoff func(attempt int) time.Duration
	// Timeout is how long the handler may take for one attempt before its context
	// ends with cause [messaging.ErrTimeout]. Default 0, which means no limit.
	Timeout time.Duration
	// DrainTimeout is how long handlers may go on after ctx has ended before their
	// contexts end too, with cause [messaging.ErrDrain]. Default 30s.
	DrainTimeout time.Duration
	// BatchSize is how many records one transaction takes in at most, 1 to 10,000.
	// A transaction takes what is there; it does not wait until it is full. More of
	// them make it cheaper for each, and leave more to do again after an abort.
	// Default 500.
	BatchSize int
	// MaxOutput is how many messages one attempt may publish, 1 to 100,000.
	// Default 1,000.
	MaxOutput int
	// MaxOutputBytes is how many bytes they may take together, with 1 KiB added for
	// each, up to 256 MiB. One transaction may hold 16 MiB and that for each
	// partition in memory. Default 4 MiB.
	MaxOutputBytes int
	// CommitTimeout is how long the commit of a transaction may take, 1s to 15m,
	// and no longer than the brokers' transaction.max.timeout.ms. When a process dies
	// in the middle of a commit, its partitions, and those who read the output
	// topics read_committed, wait for so long. Default 30s.
	CommitTimeout time.Duration
	// OnReady, if set, is called each time the group has been joined (again). It
	// must be quick, and neither block nor panic.
	OnReady func()
}

// withDefaults returns t with its defaults, or all its faults on one line.
func (t Transaction) withDefaults() (Transaction, error) {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if t.ID != "" && (len(t.ID) > 128 || !isName(t.ID)) {
		fault("ID %q must be 1 to 128 letters, digits, '-', '_' or '.', beginning with a letter or digit", t.ID)
	}
	for _, n := range [...]struct {
		name              string
		at                *int
		most, whenNothing int
	}{
		{"MaxAttempts", &t.MaxAttempts, maxAttempt, 5},
		{"BatchSize", &t.BatchSize, maxBatch, defaultBatch},
		{"MaxOutput", &t.MaxOutput, maxOutput, defaultOutput},
		{"MaxOutputBytes", &t.MaxOutputBytes, maxOutputBytes, defaultOutputBytes},
	} {
		if *n.at < 0 || *n.at > n.most {
			fault("%s %d is outside 1..%d", n.name, *n.at, n.most)
		}
		if *n.at == 0 {
			*n.at = n.whenNothing
		}
	}
	if t.Timeout < 0 {
		fault("Timeout %v is negative", t.Timeout)
	}
	if t.DrainTimeout < 0 {
		fault("DrainTimeout %v is negative", t.DrainTimeout)
	}
	if t.CommitTimeout != 0 && (t.CommitTimeout < time.Second || t.CommitTimeout > 15*time.Minute) {
		fault("CommitTimeout %v is outside 1s..15m", t.CommitTimeout)
	}
	if faults != nil {
		return t, fmt.Errorf("%w: transaction: %s", messaging.ErrInvalid, strings.Join(faults, "; "))
	}
	if t.DrainTimeout == 0 {
		t.DrainTimeout = 30 * time.Second
	}
	if t.CommitTimeout == 0 {
		t.CommitTimeout = 30 * time.Second
	}
	return t, nil
}

// Transact consumes t.Topic as a member of t.Group and calls handle for each
// message, in Kafka transactions, until ctx ends. What handle publishes through out
// becomes visible to consumers that read read_committed, as Subscribe does, exactly
// once for each message consumed, whatever crashes, rebalances or retries: outputs,
// dead letters and the places of the group commit together or not at all.
//
// # The guarantee and its limits
//
//   - A transaction takes in a batch of records. Records of different partitions are
//     handled at the same time, those of one partition in order. It ends when all of
//     them are handled: until then a slow handler keeps the outputs of the others
//     back, and what would be in the next. Set t.Timeout.
//   - What handle publishes is kept in memory, within t.MaxOutput and
//     t.MaxOutputBytes, and counts only when handle has returned nil. Nothing is
//     sent to Kafka before the whole batch is handled, so a slow handler holds no
//     transaction open.
//   - A message that fails keeps nothing from its neighbours. It is tried again in
//     this process, after t.Backoff and by the rules of [messaging.ConsumerConfig],
//     while the records before it and those of other partitions are committed; its
//     own partition waits, which keeps the order. After t.MaxAttempts it goes to the
//     dead letters of the group, in a transaction too. Attempts are forgotten with
//     the process or the partition. A record of another program that is too large
//     for the dead letters stays where it is, and holds up its partition alone.
//   - A panic of handle, or runtime.Goexit, is a failed attempt, whose stack is
//     logged.
//   - When the group is rebalanced, what is in hand is given up: the contexts of
//     handlers end with cause [messaging.ErrLost], and the batch is handled again by
//     whoever has its partitions then. A process that was taken for dead cannot
//     commit what another has taken over.
//
// Only what is in Kafka is exactly once. handle itself may run more often than once
// for a message, as on any broker: mail that it sends, rows that it writes and
// messages that it publishes past out are not in the transaction. Those who consume
// read_uncommitted, the default of most Kafka clients, see what was aborted too.
// Output topics must exist, on the same cluster. Those whose max.message.bytes is
// less than Config.MaxPayload and 64 KiB are sent their messages one by one, once
// Kafka has refused a batch of them.
//
// # Beside Subscribe
//
// Transact is a member of the same consumer group as [Broker.Subscribe] for that
// topic and group, and makes the same topics. A service can move from one to the
// other, and back, also process by process: nothing is lost, and what was settled
// is not handled again. It takes over what waits in the group's retry topics, each
// message when it is due with the attempts that it has, but sends none there. A
// process of Subscribe that crashes repeats what it had not committed, as always;
// the outputs of Transact have no part in that.
//
// A process that is gone without a word is noticed after one and a half
// Config.RebalanceTimeout, which is at least 6s and at most 45s here.
//
// # How it ends
//
// When ctx ends, Transact begins no further message, waits for those that run, for
// up to t.DrainTimeout, commits what is handled, and returns nil. It returns at
// once an error that is [messaging.ErrInvalid], [messaging.ErrDenied],
// [messaging.ErrTopology], [messaging.ErrNotFound] (see Subscribe for these),
// [messaging.ErrClosed] when the Broker is closed, and [messaging.ErrLost] when t.ID
// is set and another process has taken it, which looks the same as a commit that
// took longer than t.CommitTimeout. Everything else is trouble that it
// outlives: it logs it and goes on.
//
// Several calls of Transact for one group are several members. handle is called
// from several goroutines at once; out is safe for concurrent use, and refuses what
// comes after handle has returned.
func (b *Broker) Transact(ctx context.Context, t Transaction, handle func(ctx context.Context, out messaging.Publisher, d *messaging.Delivery) error) error {
	_, err := messaging.CheckSubscription(messaging.Subscription{Topic: t.Topic, Group: t.Group})
	if err == nil {
		err = checkTopic(t.Topic)
	}
	if err == nil {
		t, err = t.withDefaults()
	}
	if err == nil && handle == nil {
		err = fmt.Errorf("%w: handle is nil", messaging.ErrInvalid)
	}
	var n names
	if err == nil {
		n, err = namesOf(t.Topic, t.Group)
	}
	if err != nil {
		return err
	}
	if !b.enter() {
		return messaging.ErrClosed
	}
	defer b.calls.Done()

	// Intake ends with the Broker too.
	intake, end := context.WithCancelCause(ctx)
	defer end(nil)
	b.workers.Go(func() {
		select {
		case <-b.closing:
			end(messaging.ErrClosed)
		case <-intake.Done():
		}
	})
	id := t.ID
	if id == "" {
		id = rand.Text()
	}
	x := &transactor{
		b: b, t: t, n: n, handle: handle, id: n.group + "." + escape(id), tight: map[string]bool{},
		log: b.cfg.Logger.With(slog.String("topic", t.Topic), slog.String("group", t.Group)),
	}
	return x.run(intake)
}

// run serves until intake ends or it is pointless to go on. Whatever a session
// could not get over, the next one begins without it.
func (x *transactor) run(intake context.Context) error {
	for failures := 1; ; failures++ {
		began := time.Now()
		err := x.serve(intake)
		switch {
		case x.b.isClosing():
			return messaging.ErrClosed
		case intake.Err() != nil:
			return nil
		case permanent(err), errors.Is(err, messaging.ErrLost):
			return fmt.Errorf("kafka: transact %s of %s: %w", x.t.Group, x.t.Topic, err)
		}
		if time.Since(began) > time.Minute {
			failures = 1
		}
		x.log.Warn("kafka: transactions interrupted, they begin anew", slog.Any("err", err))
		_ = pause(intake, x.b.closing, backoff(failures))
	}
}

// fenced returns err, as what it means that Kafka takes nothing more from this
// producer.
func (x *transactor) fenced(err error) error {
	taken := errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch)
	if x.t.ID == "" || !taken { // nobody else has a random ID: the commit took longer than CommitTimeout
		return err
	}
	return fmt.Errorf("%w: another process has taken Transaction.ID %q, give each its own; or this one stood still for CommitTimeout in the middle of a commit: %w",
		messaging.ErrLost, x.t.ID, err)
}
