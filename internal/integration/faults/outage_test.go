package faults

import (
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// A third of the load is confirmed, and a thousand messages wait in retry delays,
// when the broker goes. Half of them are due while it is away, so that they come
// back in a broker that is starting, or are on their way back when it goes.
func TestNothingIsLostThoughTheBrokerGoesAway(t *testing.T) {
	t.Parallel()
	kill := func(t *testing.T, n *services.Node) { must(t, n.Kill()) }
	stop := func(t *testing.T, n *services.Node) { must(t, n.Stop(within(t, patience))) }
	start := func(t *testing.T, n *services.Node) { must(t, n.Start(t.Context())) }
	stopApp := func(t *testing.T, n *services.Node) { control(t, n, "stop_app") }
	startApp := func(t *testing.T, n *services.Node) { control(t, n, "start_app") }
	var running sync.WaitGroup
	defer running.Wait()
	for name, outages := range map[string][]outage{
		"as in a crash": {
			{"when it is killed and started again", false, kill, start},
			{"when it is killed while delayed messages come back", true, kill, start},
		},
		"by order": {
			{"when its application is stopped and started", false, stopApp, startApp},
			{"when it is stopped and started again", false, stop, start},
		},
	} {
		running.Go(func() {
			t.Run(name, func(t *testing.T) { // on a node each
				node := need.Node(t, services.RabbitMQ())
				t.Logf("RabbitMQ %s", node.Version())
				for _, o := range outages {
					t.Run(o.name, func(t *testing.T) { o.run(t, node) })
				}
			})
		})
	}
}

type outage struct {
	name      string
	returning bool // the broker goes when delayed messages come back
	down, up  func(*testing.T, *services.Node)
}

func (o outage) run(t *testing.T, node *services.Node) {
	n, gone := size(5_000, 50_000), make(chan struct{})
	g, stop, due := parked(t, node, n/3)
	work, flying := load{n: n - n/3, publishers: 32, until: gone}, 150
	if o.returning { // which is some seconds away
		work.pace, flying = 200*time.Millisecond, 10
	}
	wait := g.publish(work)
	if o.returning {
		eventually(t, patience, "the first delayed messages come back", func() bool {
			soonest, _ := g.delayed()
			return soonest < half
		})
	}
	g.amid(flying)
	_, delayed := g.delayed()
	began := time.Now()
	o.down(t, node)
	close(gone)
	pause(t.Context(), time.Until(due))
	o.up(t, node)
	t.Logf("the outage took %.1f s, %d of %d messages waited in a retry delay when it began", time.Since(began).Seconds(), delayed, 2*half)
	wait()
	g.verify()
	must(t, stop())
}

// half of a thousand messages wait for each of two delays.
const half = 500

// parked returns a group that has received n messages, and a thousand more that
// now wait in its retry delays; the first half is due at the time due.
func parked(t *testing.T, node *services.Node, n int) (g *group, stop func() error, due time.Time) {
	t.Helper()
	for delay := size(6*time.Second, 30*time.Second); delay < patience; delay *= 2 {
		g = newFlow(t, flowConfig{url: node.URL(), late: delay, later: 2 * delay}).group("g")
		stop = g.start(groupConfig{})
		pause(t.Context(), age)
		g.publish(load{n: n})()
		g.catchUp()
		began := time.Now()
		g.publish(load{n: 2 * half, typ: func(i int) string {
			if i%2 == 0 {
				return late
			}
			return later
		}})()
		for time.Since(began) < delay {
			if _, all := g.delayed(); all == 2*half {
				return g, stop, time.Now().Add(delay)
			}
		}
		// The machine is so slow that the first are due when the last are not yet
		// there: once more, with longer delays.
		must(t, stop())
	}
	t.Fatal("messages do not come to wait together in their retry delays")
	return nil, nil, due
}

// delayed returns how many messages wait in the retry delays of the group: in the
// shorter one, and in both.
func (g *group) delayed() (soonest, all int) {
	g.t.Helper()
	soonest = g.admin().count(g.rung(g.cfg.late))
	return soonest, soonest + g.admin().count(g.rung(g.cfg.later))
}

// age is how old queues are before a broker is killed: RabbitMQ 3.10 was seen to
// forget quorum queues in the second after they were made.
const age = 2 * time.Second
