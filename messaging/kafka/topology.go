package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
)

// A kind says what a topic is for.
type kind int

const (
	kindWork kind = iota // what is published to
	kindRung             // where retries wait
	kindDead             // dead letters
)

// partitions returns how many a topic of kind k gets. Dead letters have one, so
// that whoever looks at them sees the oldest first.
func (c *Config) partitions(k kind) int32 {
	if k == kindDead {
		return 1
	}
	return int32(c.Partitions)
}

// settings returns the topic-level configuration of kind k, where the cluster's
// defaults could lose something. Dead letters are kept until someone deletes them.
func (c *Config) settings(k kind) map[string]string {
	set := map[string]string{}
	if c.MaxPayload > defaultMaxPayload {
		set["max.message.bytes"] = strconv.Itoa(c.MaxPayload + headroom)
	}
	if k != kindWork { // whatever the cluster's defaults: compaction would take records without keys, or all but one
		set["cleanup.policy"] = "delete"
	}
	if k == kindDead {
		set["retention.ms"], set["retention.bytes"] = "-1", "-1"
	}
	return set
}

// recipe says how to make a topic.
func (c *Config) recipe(topic string, k kind) string {
	how := []string{fmt.Sprintf("topic %s with %d partition(s)", topic, c.partitions(k))}
	set := c.settings(k)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		how = append(how, name+"="+set[name])
	}
	return strings.Join(how, ", ")
}

// A part is one topic of a group.
type part struct {
	topic string
	kind  kind
}

// partsOf returns the topics that a group needs: the one that it works on first,
// then the rungs, of which the first is for what comes back at once.
func (c *Config) partsOf(n names) []part {
	parts := []part{{n.topic, kindWork}, {n.dead, kindDead}, {n.rung(0), kindRung}}
	for _, d := range c.RetryDelays {
		parts = append(parts, part{n.rung(d), kindRung})
	}
	return parts
}

// ensure makes sure that what a subscription needs exists, and returns the topics
// to consume. When it returns, all that is published to the topic from now on will
// reach the group.
func (b *Broker) ensure(ctx context.Context, cl *kgo.Client, t target, n names) ([]string, error) {
	adm := kadm.NewClient(cl)
	found, err := topics(ctx, cl)
	if err != nil {
		return nil, refused("list topics", err)
	}
	if t.dead {
		if !found[n.dead] {
			return nil, fmt.Errorf("%w: topic %s: a group exists from its first Subscribe without DeadLetters", messaging.ErrNotFound, n.dead)
		}
		return []string{n.dead}, nil
	}
	parts := b.cfg.partsOf(n)
	missing := slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return found[p.topic] })
	if b.cfg.Passive && len(missing) > 0 {
		faults := make([]string, len(missing))
		for i, p := range missing {
			faults[i] = b.cfg.recipe(p.topic, p.kind)
		}
		return nil, fmt.Errorf("%w, and Config.Passive leaves it to others to make it: %s", messaging.ErrNotFound, strings.Join(faults, "; "))
	}
	if !found[n.topic] {
		if err := b.create(ctx, adm, parts[:1]); err != nil {
			return nil, err
		}
		missing = missing[1:]
	}
	// The dead letters are made after the group has its place in the topic. So they
	// tell a group that Kafka has forgotten, after an absence longer than its
	// offsets.retention.minutes, from one that is new.
	if err := b.establish(ctx, adm, n, !b.cfg.Passive && found[n.dead]); err != nil {
		return nil, err
	}
	if err := b.create(ctx, adm, missing); err != nil {
		return nil, err
	}
	if err := b.await(ctx, cl, missing); err != nil {
		return nil, err
	}
	consume := []string{n.topic}
	for _, p := range parts {
		if p.kind == kindRung {
			consume = append(consume, p.topic)
		}
	}
	for topic := range found { // rungs of an earlier configuration may hold messages
		if n.isRung(topic) && !slices.Contains(consume, topic) {
			consume = append(consume, topic)
		}
	}
	return consume, nil
}

// topics returns the names of all topics that the user may see. It asks Kafka: the
// clients' own lists are some moments old.
func topics(ctx context.Context, cl *kgo.Client) (map[string]bool, error) {
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool, len(resp.Topics))
	for _, t := range resp.Topics {
		if t.Topic != nil && !errors.Is(kerr.ErrorForCode(t.ErrorCode), kerr.UnknownTopicOrPartition) { // it may have no leader yet
			found[*t.Topic] = true
		}
	}
	return found, nil
}

// create makes topics, of which another process may have made some meanwhile.
func (b *Broker) create(ctx context.Context, adm *kadm.Client, parts []part) error {
	for _, k := range [...]kind{kindWork, kindRung, kindDead} {
		var topics []string
		for _, p := range parts {
			if p.kind == k {
				topics = append(topics, p.topic)
			}
		}
		if len(topics) == 0 {
			continue
		}
		configs := map[string]*string{}
		for name, value := range b.cfg.settings(k) {
			configs[name] = &value
		}
		made, err := adm.CreateTopics(ctx, b.cfg.partitions(k), int16(b.cfg.ReplicationFactor), configs, topics...)
		if err != nil {
			return refused("create topics", err)
		}
		for _, topic := range made.Sorted() {
			if err := b.uncreated(topic, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// await waits until Kafka shows the topics that it has made: it makes them first
// and tells its brokers then.
func (b *Broker) await(ctx context.Context, cl *kgo.Client, parts []part) error {
	for len(parts) > 0 {
		found, err := topics(ctx, cl)
		if err != nil {
			return refused("list topics", err)
		}
		if parts = slices.DeleteFunc(parts, func(p part) bool { return found[p.topic] }); len(parts) == 0 {
			break
		}
		if err := pause(ctx, b.closing, metadataAge); err != nil {
			return err
		}
	}
	return nil
}

// uncreated returns what it means that a topic was not made, or nil when it is
// there.
func (b *Broker) uncreated(topic kadm.CreateTopicResponse, k kind) error {
	err := topic.Err
	switch {
	case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		return nil
	case errors.Is(err, kerr.InvalidTopicException):
		return fmt.Errorf("%w: Kafka refuses the topic %s: two names that differ only in '.' and '_' cannot be there together: %w: %s",
			messaging.ErrTopology, topic.Topic, err, topic.ErrMessage)
	case errors.Is(err, kerr.InvalidReplicationFactor), errors.Is(err, kerr.InvalidPartitions), errors.Is(err, kerr.PolicyViolation), errors.Is(err, kerr.InvalidConfig):
		return fmt.Errorf("%w: %s: %w: %s", messaging.ErrTopology, b.cfg.recipe(topic.Topic, k), err, topic.ErrMessage)
	}
	return refused("create topic "+topic.Topic, err)
}

// errTaken means that another process has made the group's place meanwhile.
var errTaken = errors.New("the group has members by now")

// establish gives a group that has none its place in the topic: the end, for it
// receives what is published from now on. known says that the group has been
// there before: then it begins with the oldest that Kafka has, for some of it may
// be new to it.
func (b *Broker) establish(ctx context.Context, adm *kadm.Client, n names, known bool) error {
	for failures := 1; ; failures++ {
		placed, err := b.place(ctx, adm, n, known)
		if placed || err != nil && !errors.Is(err, errTaken) {
			return err
		}
		b.cfg.Logger.Warn("kafka: the group has members and no place in the topic yet", slog.String("group", n.group), slog.String("topic", n.topic))
		if err := pause(ctx, b.closing, backoff(failures)); err != nil {
			return err
		}
	}
}

// place is one attempt of establish. It reports false when there was nothing to do
// but to look again.
func (b *Broker) place(ctx context.Context, adm *kadm.Client, n names, known bool) (bool, error) {
	have, err := adm.FetchOffsetsForTopics(ctx, n.group, n.topic)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return false, refused("read the offsets of group "+n.group, err)
	}
	for _, at := range have[n.topic] {
		if at.Err != nil {
			return false, refused("read the offsets of group "+n.group, at.Err)
		}
		if at.At >= 0 {
			// A partition without one was added later, and is new as a whole.
			return true, nil
		}
	}
	if known {
		return true, nil
	}
	ends, err := adm.ListEndOffsets(ctx, n.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return false, refused("find the end of topic "+n.topic, err)
	}
	place := kadm.Offsets{}
	ends.Each(func(at kadm.ListedOffset) {
		place.Add(kadm.Offset{Topic: at.Topic, Partition: at.Partition, At: at.Offset, LeaderEpoch: at.LeaderEpoch, Metadata: metaPrefix(at.Offset, true)})
	})
	committed, err := adm.CommitOffsets(ctx, n.group, place)
	if err == nil {
		err = committed.Error()
	}
	if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration) || errors.Is(err, kerr.RebalanceInProgress) {
		return false, errTaken
	}
	if err != nil {
		return false, refused("set the offsets of group "+n.group, err)
	}
	return true, nil
}

// refused returns what it means that Kafka did not do what was asked for.
func refused(what string, err error) error {
	if d := denied(err); d != nil {
		err = d
	}
	return fmt.Errorf("%s: %w", what, err)
}
