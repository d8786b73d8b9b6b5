package messaging_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/parley-go/parley/messaging"
)

// A Broker checks all messages of a call before it touches the network, and
// publishes those whose entry is nil.
func ExampleCheck() {
	const limit = 16 // the broker's Promises().MaxPayload
	small, large := messaging.NewMessage("Small", []byte("{}")), messaging.NewMessage("Large", make([]byte, 17))
	err := messaging.Check("orders", limit, []messaging.Message{small, large})
	if batch, ok := errors.AsType[*messaging.BatchError](err); ok {
		for i, err := range batch.Errs {
			fmt.Println(i, err)
		}
	}
	// Output:
	// 0 <nil>
	// 1 messaging: message too large: the payload has 17 bytes, the limit is 16
}

// A Broker's Subscribe begins with it.
func ExampleCheckSubscription() {
	s, err := messaging.CheckSubscription(messaging.Subscription{Topic: "orders", Group: "mail"})
	fmt.Println(s.Prefetch, err)
	_, err = messaging.CheckSubscription(messaging.Subscription{Topic: "orders", Group: "mail", Prefetch: -1})
	fmt.Println(err)
	// Output:
	// 64 <nil>
	// messaging: invalid: subscription: Prefetch -1 is outside 0..65535
}

// A Broker stores these beside the headers of the message that it sets aside.
func ExampleDeadHeaders() {
	d := &messaging.Delivery{Topic: "orders", Group: "mail", Attempt: 5}
	v := messaging.Verdict{Kind: messaging.DeadLetter, Reason: messaging.ReasonExhausted, Err: errors.New("no such address")}
	headers := messaging.DeadHeaders(d, v, time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fmt.Printf("%s: %s\n", name, headers[name])
	}
	// Output:
	// msg-dlq-attempts: 5
	// msg-dlq-error: no such address
	// msg-dlq-group: mail
	// msg-dlq-reason: exhausted
	// msg-dlq-time: 2026-02-03T04:05:06Z
	// msg-dlq-topic: orders
}

// Two services that number their events are told apart.
func ExampleDelivery_InboxID() {
	for _, source := range []string{"/orders", "/invoices"} {
		d := &messaging.Delivery{Message: messaging.Message{ID: "456", Source: source}}
		fmt.Println(d.InboxID())
	}
	// Output:
	// 7:/orders:456
	// 9:/invoices:456
}
