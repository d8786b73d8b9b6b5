package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
)

// assigned takes partitions on. The client calls it when the group has been joined
// too, with none. Their fetching begins when it has returned.
func (m *member) assigned(_ context.Context, _ *kgo.Client, of map[string][]int32) {
	<-m.began
	m.poll.hold()
	defer m.poll.release()
	var added []*partition
	m.mu.Lock()
	for topic, nums := range of {
		for _, num := range nums {
			p := newPartition(m, topic, num)
			m.parts[partOf{topic, num}] = p
			added = append(added, p)
		}
	}
	joined := !m.up
	m.up = true
	m.tellSeats()
	m.mu.Unlock()
	if joined {
		m.log.Info("kafka: joined the group", slog.Int("partitions", len(added)))
	}
	for _, p := range added {
		m.b.workers.Go(p.work)
	}
}

// placed begins the windows of new partitions where the group's commits say.
func (m *member) placed(_ context.Context, cl *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, num := range t.Partitions {
				p := m.parts[partOf{t.Topic, num.Partition}]
				if p == nil || num.ErrorCode != 0 || p.begun {
					continue
				}
				meta := ""
				if num.Metadata != nil {
					meta = *num.Metadata
				}
				_, left := m.left[p.partOf]
				p.unsure = !p.window.open(num.Offset, meta) || left
			}
		}
	}
	return nil
}

// revoked gives partitions up: it hands out no more of them, waits for what is in
// hand, commits, and ends the leases of what is still in hand then. The group goes
// on without them when it returns. The partitions that stay go on meanwhile.
func (m *member) revoked(_ context.Context, _ *kgo.Client, of map[string][]int32) {
	parts := m.some(of)
	if len(parts) == 0 {
		return
	}
	m.mu.Lock()
	for _, p := range parts {
		p.stopping.Store(true)
	}
	m.mu.Unlock()
	grace := time.NewTimer(m.b.cfg.RebalanceTimeout / 2)
	defer grace.Stop()
	for m.busy(parts) {
		m.mu.Lock()
		idle := m.idle
		m.mu.Unlock()
		if !m.busy(parts) {
			break
		}
		select {
		case <-idle:
			continue
		case <-grace.C:
		case <-m.ctx.Done():
		case <-m.b.closing:
		}
		break
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(closeTimeout, m.b.cfg.RebalanceTimeout/4))
	defer cancel()
	if err := m.commit(ctx, parts); err != nil {
		m.log.Warn("kafka: a commit failed before a rebalance: messages come again that were handled", slog.Any("err", err))
	}
	m.end(parts)
}

// busy reports whether something of parts is in hand.
func (m *member) busy(parts []*partition) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts {
		if p.open > 0 && !p.ended {
			return true
		}
	}
	return false
}

// lost notes that the member has fallen out of the group: its partitions may be
// with others already.
func (m *member) lost(_ context.Context, _ *kgo.Client, of map[string][]int32) {
	m.end(m.some(of))
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up {
		return
	}
	m.up, m.why = false, fmt.Errorf("kafka: subscription of %s to %s interrupted: the group went on without this member", m.t.group, m.t.topic)
	m.losses++
	for _, s := range m.seats {
		s.open = false
	}
	m.tellSeats()
}

// end ends partitions: whatever of them is in hand or queued is lost here.
func (m *member) end(parts []*partition) {
	if len(parts) == 0 {
		return
	}
	m.poll.hold()
	defer m.poll.release()
	var cancels []context.CancelCauseFunc
	m.mu.Lock()
	for _, p := range parts {
		cancels = append(cancels, p.lose()...)
		if m.parts[p.partOf] == p {
			delete(m.parts, p.partOf)
		}
	}
	m.fed()
	m.rest()
	m.mu.Unlock()
	for _, cancel := range cancels {
		cancel(messaging.ErrLost)
	}
	for _, p := range parts {
		p.balance()
		tell(p.wake)
	}
}
