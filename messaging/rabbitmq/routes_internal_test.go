package rabbitmq

import (
	"strconv"
	"testing"
)

func TestRoutesAreBoundedAndForgetWhatLeadsNowhere(t *testing.T) {
	var rs routes
	c := &batch{to: target{place: place{exchange: "orders"}}, patient: true}
	it := &item{key: "Placed"}
	if rs.interrupted(c, it) || c.astray {
		t.Error("a route that has led nowhere yet is taken for interrupted")
	}
	rs.learn(c, it)
	if !rs.interrupted(c, it) || !c.astray {
		t.Error("a route that has led to a queue is not taken for interrupted")
	}
	if rs.interrupted(c, &item{key: "Paid"}) {
		t.Error("a route with another key is taken for interrupted")
	}
	c.patient = false
	if rs.interrupted(c, it) {
		t.Error("a message waits on though the patience is over")
	}
	c.patient = true
	if rs.interrupted(c, it) {
		t.Error("the next message waits for a route that has led nowhere for too long")
	}

	for i := range 2*maxRoutes + 1 {
		rs.learn(c, &item{key: strconv.Itoa(i)})
	}
	if n := len(rs.known); n == 0 || n > maxRoutes {
		t.Errorf("%d routes are known, want 1 to %d", n, maxRoutes)
	}
	before := len(rs.known)
	rs.learn(&batch{to: target{place: place{queue: "orders.g.dlq"}}}, it)
	if len(rs.known) != before {
		t.Error("a queue is learnt as a route: it is declared where it is missing")
	}
}
