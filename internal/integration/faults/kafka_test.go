package faults

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/internal/netfault"
	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// onKafka is the Kafka of a flow.
type onKafka struct{}

func (onKafka) open(f *flow, name string) messaging.Broker {
	f.t.Helper()
	b, err := kafka.New(kafka.Config{
		Seeds: []string{f.cfg.via}, Source: f.topic + "/" + name, ReplicationFactor: 1, Logger: logged(f.t),
		RetryDelays: []time.Duration{soon, f.cfg.late, f.cfg.later},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return closed(f.t, b)
}

func (onKafka) dead(g *group, more func(id string) bool) { letters(g, more) }

// empty waits until the group has committed all that is in its topic and in those of
// its retries.
func (onKafka) empty(g *group) {
	g.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.cfg.via))
	if err != nil {
		g.t.Fatal(err)
	}
	defer cl.Close()
	admin, ctx := kadm.NewClient(cl), within(g.t, patience)
	name := g.topic + "." + g.name
	var left kadm.GroupLag
	eventually(g.t, patience, name+" has committed all", func() bool {
		lags, err := admin.Lag(ctx, name)
		lag := lags[name]
		if err != nil || lag.Error() != nil {
			return false
		}
		left = lag.Lag
		return len(left) > 0 && left.Total() == 0
	})
	if left.Total() > 0 {
		g.t.Errorf("the group has not committed %d messages", left.Total())
	}
}

// A third of the load is confirmed when the broker goes, with retries and dead
// letters on their way.
func TestNothingIsLostThoughKafkaGoesAway(t *testing.T) {
	t.Parallel()
	node := need.Node(t, services.Kafka())
	for _, o := range []struct {
		name     string
		down, up func() error
	}{
		{"when it is killed and started again", node.Kill, func() error { return node.Start(t.Context()) }},
		{"when it is stopped and started again", func() error { return node.Stop(within(t, patience)) }, func() error { return node.Start(t.Context()) }},
		{"when its process hangs for a while", node.Pause, node.Resume},
	} {
		t.Run(o.name, func(t *testing.T) {
			f := newFlow(t, flowConfig{server: onKafka{}, url: node.URL()})
			g := f.group("g")
			stop := g.start(groupConfig{})
			n, gone := size(5_000, 50_000), make(chan struct{})
			wait := f.publish(load{n: n, publishers: 32, pace: 20 * time.Millisecond, until: gone})
			f.reach(n / 3)
			f.amid(inFlight)
			began := time.Now()
			must(t, o.down())
			close(gone)
			pause(t.Context(), size(2*time.Second, time.Minute))
			must(t, o.up())
			t.Logf("the outage took %.1f s", time.Since(began).Seconds())
			wait()
			g.verify()
			must(t, stop())
		})
	}
}

// Clients go where Kafka sends them, so all of them share the proxy of a node, and
// the faults come one after the other.
func TestNothingIsLostThoughTheNetworkToKafkaIsInTrouble(t *testing.T) {
	t.Parallel()
	var p *netfault.Proxy
	node := need.Node(t, services.KafkaBehind(func(hostport string) (string, error) {
		var err error
		if p, err = netfault.Listen(hostport); err != nil {
			return "", err
		}
		t.Cleanup(func() { _ = p.Close() })
		return p.Addr(), nil
	}))
	for name, fault := range map[string]func(*flow, *netfault.Proxy){
		"while it is cut every 2s":            cuts,
		"while it is a black hole":            holds(both),
		"while nothing gets to the broker":    holds(up),
		"while nothing comes from the broker": holds(down),
	} {
		t.Run(name, func(t *testing.T) {
			broken(t, p, fault, size(1000, 10_000), flowConfig{server: onKafka{}, url: node.URL(), via: p.Addr()})
		})
	}
}

func TestAConsumerOfKafkaStopsInOrder(t *testing.T) {
	t.Parallel()
	at := flowConfig{server: onKafka{}, url: need.Address(t, services.Kafka())}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { t.Run("with 50 running handlers", func(t *testing.T) { shutdown(t, at) }) })
	running.Go(func() { t.Run("when handlers outlast the drain timeout", func(t *testing.T) { drainTimeout(t, at) }) })
	running.Go(func() {
		t.Run("and no goroutine is left over many cycles", func(t *testing.T) {
			goroutines(t, unique("cycles"), size(4, 20), func() (messaging.Broker, error) {
				return kafka.New(kafka.Config{Seeds: []string{at.url}, ReplicationFactor: 1, Logger: slog.New(slog.DiscardHandler)})
			})
		})
	})
}
