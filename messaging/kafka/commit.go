package kafka

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// commitEvery is how long what is settled may stay uncommitted: so much comes
	// again after a crash.
	commitEvery = 100 * time.Millisecond
	// commitTimeout bounds a commit, which the next one repeats.
	commitTimeout = 10 * time.Second
)

// commits commits what is settled, from time to time, until the member ends.
func (m *member) commits() {
	failures := 0
	for {
		select {
		case <-m.dirty:
		case <-m.ctx.Done():
			return
		}
		wait := commitEvery
		if failures > 0 {
			wait = max(wait, backoff(failures))
		}
		if pause(m.ctx, m.b.closing, wait) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(m.ctx, commitTimeout)
		err := m.commit(ctx, m.all())
		cancel()
		what := "commit " + m.group
		switch failures++; {
		case err == nil:
			failures = 0
			m.b.troubles.well(m.log, what, "kafka: commits succeed again")
		case m.ctx.Err() == nil:
			tell(m.dirty)
			m.b.troubles.met(m.log, what, "kafka: a commit failed, the next one repeats it", slog.Any("err", err))
		}
	}
}

// A mark is what is to be committed of a partition.
type mark struct {
	p    *partition
	at   int64
	meta string
}

func (k mark) text() string { return strconv.FormatInt(k.at, 10) + " " + k.meta }

// commit commits the low-water marks of those of parts where there is something
// new.
func (m *member) commit(ctx context.Context, parts []*partition) error {
	select {
	case <-m.committing:
		defer func() { m.committing <- struct{}{} }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	marks := m.marks(parts)
	if len(marks) == 0 {
		return nil
	}
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for k, mark := range marks {
		if offsets[k.topic] == nil {
			offsets[k.topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[k.topic][k.num] = kgo.EpochOffset{Epoch: -1, Offset: mark.at}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				if mark, ok := marks[partOf{t.Topic, t.Partitions[j].Partition}]; ok {
					t.Partitions[j].Metadata = &mark.meta
				}
			}
		}
		return nil
	})
	var failed error
	m.cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, t := range resp.Topics {
			for _, num := range t.Partitions {
				mark, ok := marks[partOf{t.Topic, num.Partition}]
				if err := kerr.ErrorForCode(num.ErrorCode); err != nil {
					failed = errors.Join(failed, err)
					// The mark matters more than what is done beyond it.
					if ok && errors.Is(err, kerr.OffsetMetadataTooLarge) {
						mark.p.terse = true
					}
				} else if ok {
					mark.p.committed = mark.text()
				}
			}
		}
	})
	return failed
}

// marks returns what is to be committed of parts, where it is new.
func (m *member) marks(parts []*partition) map[partOf]mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	marks := map[partOf]mark{}
	for _, p := range parts {
		at, ok := p.window.mark()
		if !ok || p.ended || !p.begun {
			continue
		}
		clean := p.stopping.Load() && p.open == 0 && !slices.ContainsFunc(p.again, func(n uint64) bool { return p.window.at(n).again })
		k := mark{p: p, at: at}
		if !p.terse {
			k.meta = p.window.metadata(clean)
		}
		if k.text() != p.committed {
			marks[p.partOf] = k
		}
	}
	return marks
}
