package faults

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/messaging"
)

// What lies in a queue that is deleted is gone, by the will of whoever deleted
// it. Another group of the topic must not notice, nor the publishers; the group
// itself goes on with what is published after that.
func deletedQueue(t *testing.T, node *services.Node) {
	f := newFlow(t, flowConfig{url: node.URL()})
	bystander, victim := f.group("bystander"), f.group("victim")
	ready := 0
	stopBystander := bystander.start(groupConfig{})
	stopVictim := victim.start(groupConfig{onReady: func() { f.note(func() { ready++ }) }})
	n := size(2000, 20_000)
	wait := f.publish(load{n: n, pace: 5 * time.Millisecond})
	f.reach(n / 3)
	f.admin().must(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(victim.queue(), false, false, false)
		return err
	})
	f.await(5*time.Second, "the group consumes again", func() bool { return ready == 2 })
	wait()
	var before int
	f.note(func() { before = len(f.confirmed) })
	f.publish(load{n: 200})()
	f.await(patience, "the group receives what is published after that", func() bool {
		for before < len(f.confirmed) && victim.received[f.confirmed[before]] > 0 {
			before++
		}
		return before == len(f.confirmed)
	})
	bystander.verify()
	must(t, stopBystander())
	must(t, stopVictim())
}

// With an exchange go its bindings. Publishers wait until the group has bound its
// queue again.
func deletedExchange(t *testing.T, node *services.Node) {
	f := newFlow(t, flowConfig{url: node.URL()})
	g := f.group("g")
	stop := g.start(groupConfig{})
	n := size(2000, 20_000)
	wait := f.publish(load{n: n, pace: 5 * time.Millisecond})
	f.reach(n / 3)
	f.admin().must(func(ch *amqp.Channel) error { return ch.ExchangeDelete(f.topic, false, false) })
	wait()
	g.verify()
	must(t, stop())
}

// The queue is empty when it goes, and publishers are at work again before
// anybody has missed it.
func deletedEmptyQueue(t *testing.T, node *services.Node) {
	f := newFlow(t, flowConfig{url: node.URL()})
	g := f.group("g")
	stop := g.start(groupConfig{})
	for range size(3, 20) {
		f.publish(load{n: 300})()
		g.verify()
		f.admin().must(func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(g.queue(), false, false, false)
			return err
		})
	}
	f.publish(load{n: 300})()
	g.verify()
	must(t, stop())
}

func conflicts(t *testing.T, node *services.Node) {
	for name, declare := range map[string]func(ch *amqp.Channel, topic string) error{
		"a classic queue": func(ch *amqp.Channel, topic string) error {
			_, err := ch.QueueDeclare(topic+".g", true, false, false, false, nil)
			return err
		},
		"a queue for dead letters with other arguments": func(ch *amqp.Channel, topic string) error {
			_, err := ch.QueueDeclare(topic+".g.dlq", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-max-length": 1})
			return err
		},
		"a fanout exchange": func(ch *amqp.Channel, topic string) error {
			return ch.ExchangeDeclare(topic, amqp.ExchangeFanout, true, false, false, false, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlow(t, flowConfig{url: node.URL()})
			f.admin().must(func(ch *amqp.Channel) error { return declare(ch, f.topic) })
			f.group("g").endsWith(messaging.ErrTopology, 5*time.Second)
			if strings.Contains(name, "exchange") {
				if err := f.out.Publish(within(t, 5*time.Second), f.topic, messaging.NewMessage(fine, nil)); !errors.Is(err, messaging.ErrTopology) {
					t.Errorf("Publish() = %v, want ErrTopology", err)
				}
			}
		})
	}
}

func wrongPassword(t *testing.T, node *services.Node) {
	u := parse(t, node.URL())
	u.User = url.UserPassword("guest", "wrong")
	f := newFlow(t, flowConfig{url: node.URL(), via: u.String()})
	f.group("g").endsWith(messaging.ErrDenied, 10*time.Second)
	if err := f.out.Publish(within(t, 10*time.Second), f.topic, messaging.NewMessage(fine, nil)); !errors.Is(err, messaging.ErrDenied) {
		t.Errorf("Publish() = %v, want ErrDenied", err)
	}
}

// endsWith runs a Consumer that must end with want by itself, within bound.
func (g *group) endsWith(want error, bound time.Duration) {
	g.t.Helper()
	began := time.Now()
	r, _ := g.run(groupConfig{})
	if err := r.wait(g.t); !errors.Is(err, want) || time.Since(began) > bound {
		g.t.Errorf("Run() = %v after %v, want %v within %v", err, time.Since(began), want, bound)
	}
}

// A missing permission is permanent, and told at once: publishers and consumers
// may try again when they have it.
func permissions(t *testing.T, node *services.Node) {
	name := unique("limited")
	grant := func(configure, write, read string) {
		control(t, node, "set_permissions", "-p", name, name, configure, write, read)
	}
	control(t, node, "add_vhost", name)
	control(t, node, "add_user", name, "secret")
	grant(".*", ".*", ".*")
	u := parse(t, node.URL())
	u.User, u.Path = url.UserPassword(name, "secret"), "/"+name
	f := newFlow(t, flowConfig{url: u.String()})
	g := f.group("g")

	healed := make(chan struct{})
	r, _ := g.run(groupConfig{})
	r.await(t)
	wait := f.publish(load{n: 500, publishers: 8, pace: 100 * time.Millisecond, until: healed, again: func(err error) bool { return errors.Is(err, messaging.ErrDenied) }})
	f.reach(100)
	for _, revoked := range [][3]string{{"^$", "^$", "^$"}, {".*", "^$", ".*"}} {
		grant(revoked[0], revoked[1], revoked[2])
		// Channels remember what they were allowed.
		control(t, node, "close_all_connections", "--vhost", name, "permissions have changed")
		if err := r.wait(t); !errors.Is(err, messaging.ErrDenied) {
			t.Errorf("Run() with the permissions %q = %v, want ErrDenied", revoked, err)
		}
		var denied, confirmed int
		f.note(func() { denied = f.repeated })
		f.await(patience, "Publish returns ErrDenied", func() bool { return f.repeated > denied })
		f.note(func() { confirmed = len(f.confirmed) })
		grant(".*", ".*", ".*")
		f.await(patience, "Publish succeeds again", func() bool { return len(f.confirmed) > confirmed })
		r, _ = g.run(groupConfig{})
		r.await(t)
	}
	close(healed)
	wait()
	g.verify()
}
