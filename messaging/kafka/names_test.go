package kafka

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging"
)

func TestNoTwoGroupsShareATopicOrAGroup(t *testing.T) {
	// All short names of the characters that could be confused.
	names := []string{}
	var grow func(prefix string)
	grow = func(prefix string) {
		if prefix != "" {
			names = append(names, prefix)
		}
		if len(prefix) == 5 {
			return
		}
		for _, c := range "a-." {
			if prefix != "" || c == 'a' {
				grow(prefix + string(c))
			}
		}
	}
	grow("")
	names = append(names, "dlq", "a.dlq", "retry", "a.retry", "a.retry.5", "5", "a--d", "a--h", "a--da", "a--ha", "readers", "a.dlq.readers", "dlq.readers")
	owner := map[string]string{}
	claim := func(name, who string) {
		if other, ok := owner[name]; ok && other != who {
			t.Fatalf("%s and %s share the name %s", who, other, name)
		}
		owner[name] = who
	}
	for _, topic := range names {
		if checkTopic(topic) != nil {
			continue
		}
		claim("topic "+topic, "topic "+topic)
		for _, group := range names {
			n, err := namesOf(topic, group)
			if err != nil {
				t.Fatalf("namesOf(%s, %s) = %v, want nil", topic, group, err)
			}
			who := fmt.Sprintf("group %s of %s", group, topic)
			claim("topic "+n.dead, who)
			claim("topic "+n.rung(0), who)
			claim("topic "+n.rung(5*time.Millisecond), who)
			claim("group "+n.group, who)
			claim("group "+n.read, who)
			if !n.isRung(n.rung(time.Minute)) || n.isRung(n.dead) || n.isRung(n.group+".retry.x") {
				t.Fatalf("isRung does not tell the rungs of %s", who)
			}
		}
	}
}

func TestNamesThatOperatorsKnowStayReadable(t *testing.T) {
	for group, want := range map[string]string{
		"billing": "orders.billing", "bill_ing-2": "orders.bill_ing-2", "a.b": "orders.a--db", "a--b": "orders.a--h-b", "a-.b": "orders.a--h--db",
	} {
		if n, err := namesOf("orders", group); err != nil || n.group != want {
			t.Errorf("namesOf(orders, %s) = %s, %v, want %s", group, n.group, err, want)
		}
	}
	n, _ := namesOf("orders", "billing")
	if got, want := n.rung(90*time.Second), "orders.billing.retry.90000"; got != want {
		t.Errorf("rung(90s) = %s, want %s", got, want)
	}
}

func TestNamesTooLongForKafkaAreRefused(t *testing.T) {
	long := strings.Repeat("x", 128)
	if _, err := namesOf(long, long); !errors.Is(err, messaging.ErrInvalid) || !strings.Contains(err.Error(), "249") {
		t.Errorf("namesOf() = %v, want ErrInvalid that tells the limit", err)
	}
	n, err := namesOf(long, strings.Repeat("x", 100))
	if err != nil || len(n.rung(maxDelay)) > maxTopic {
		t.Errorf("namesOf() = %d characters, %v, want at most %d, nil", len(n.rung(maxDelay)), err, maxTopic)
	}
}

func TestTopicsOfGroupsAreNoneToPublishTo(t *testing.T) {
	for topic, ok := range map[string]bool{
		"orders": true, "orders.dlq": false, "orders.billing.retry.1000": false, "orders.retry.": true, "retry.5": true, "a.retry.5x": true, "dlq": true,
	} {
		if err := checkTopic(topic); (err == nil) != ok || err != nil && !errors.Is(err, messaging.ErrInvalid) {
			t.Errorf("checkTopic(%s) = %v, want it taken: %t", topic, err, ok)
		}
	}
}
