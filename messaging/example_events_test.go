package messaging_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/memory"
)

// A codec makes messages as well as reading them.
func ExampleEncode() {
	m, err := messaging.Encode(messaging.JSON{}, "OrderPlaced", placed{OrderID: 456})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s %s %s\n", m.Type, m.ContentType, m.Payload)
	// Output: OrderPlaced application/json {"orderId":456}
}

// reserved is what a generated type of protobuf looks like to the codec below.
type reserved struct{ Stock int64 }

func (r *reserved) Marshal() ([]byte, error) {
	return binary.AppendUvarint([]byte{1 << 3}, uint64(r.Stock)), nil
}

func (r *reserved) Unmarshal(data []byte) error {
	if len(data) == 0 || data[0] != 1<<3 {
		return errors.New("field 1 is missing")
	}
	v, _ := binary.Uvarint(data[1:])
	r.Stock = int64(v)
	return nil
}

// protobuf is the whole codec. With google.golang.org/protobuf, take a
// proto.Message in place of the interfaces, and call proto.Marshal and
// proto.Unmarshal.
type protobuf struct{}

func (protobuf) Encode(m *messaging.Message, v any) (err error) {
	p, ok := v.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return errors.New("not a type of protobuf")
	}
	m.ContentType = "application/protobuf"
	m.Payload, err = p.Marshal()
	return err
}

func (protobuf) Decode(m *messaging.Message, v any) error {
	p, ok := v.(interface{ Unmarshal(data []byte) error })
	if !ok {
		return errors.New("not a type of protobuf")
	}
	return p.Unmarshal(m.Payload)
}

func ExampleCodec() {
	m, err := messaging.Encode(protobuf{}, "StockReserved", &reserved{Stock: 300})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s %x\n", m.ContentType, m.Payload)
	h := messaging.Typed(protobuf{}, func(_ context.Context, r *reserved, _ *messaging.Delivery) error {
		fmt.Println("reserved", r.Stock)
		return nil
	})
	if err := h(context.Background(), &messaging.Delivery{Message: m}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// application/protobuf 08ac02
	// reserved 300
}

// One handler serves every type of a topic, and old versions of them.
func ExampleEvents() {
	type v1 struct {
		Order int `json:"order"`
	}
	h, err := messaging.Events(messaging.EventsConfig{Unknown: messaging.Skip},
		messaging.On("OrderPlaced.v2", func(_ context.Context, e placed, d *messaging.Delivery) error {
			fmt.Println("order", e.OrderID, "came as", d.Type)
			return nil
		}),
		messaging.Upcast("OrderPlaced", "OrderPlaced.v2", func(old v1) (placed, error) {
			return placed{OrderID: old.Order}, nil
		}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range []messaging.Message{
		messaging.NewMessage("OrderPlaced.v2", []byte(`{"orderId":456}`)),
		messaging.NewMessage("OrderPlaced", []byte(`{"order":455}`)),
		messaging.NewMessage("OrderViewed", nil),
	} {
		fmt.Println(h(context.Background(), &messaging.Delivery{Message: m}))
	}
	// Output:
	// order 456 came as OrderPlaced.v2
	// <nil>
	// order 455 came as OrderPlaced
	// <nil>
	// <nil>
}

// A handler gets the same event, whichever mode it came in.
func ExampleCloudEvents() {
	h := messaging.CloudEvents(messaging.Typed(messaging.JSON{}, func(_ context.Context, o placed, d *messaging.Delivery) error {
		fmt.Println(d.Type, "from", d.Source, "with order", o.OrderID)
		return nil
	}))
	m := messaging.NewMessage("", []byte(`{
		"specversion": "1.0", "id": "A234-1234", "source": "/orders", "type": "OrderPlaced",
		"datacontenttype": "application/json", "data": {"orderId": 456}
	}`))
	m.ContentType = messaging.CloudEventsJSON
	fmt.Println(h(context.Background(), &messaging.Delivery{Message: m}))
	// Output:
	// OrderPlaced from /orders with order 456
	// <nil>
}

// Events cross HTTP in structured mode.
func ExampleMarshalCloudEvent() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			var m messaging.Message
			m, err = messaging.UnmarshalCloudEvent(body)
			fmt.Println(m.Type, m.Key, string(m.Payload))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	defer srv.Close()
	m := messaging.Message{ID: "A234-1234", Source: "/orders", Type: "OrderPlaced", Key: "customer 7", ContentType: "application/json", Payload: []byte(`{"orderId":456}`)}
	body, err := messaging.MarshalCloudEvent(m)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(body))
	resp, err := http.Post(srv.URL, messaging.CloudEventsJSON, strings.NewReader(string(body)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// {"specversion":"1.0","id":"A234-1234","source":"/orders","type":"OrderPlaced","partitionkey":"customer 7","datacontenttype":"application/json","data":{"orderId":456}}
	// OrderPlaced customer 7 {"orderId":456}
	// 200 OK
}

// What is wrong with an event is said in full.
func ExampleUnmarshalCloudEvent() {
	_, err := messaging.UnmarshalCloudEvent([]byte(`{"specversion":"1.0","type":"OrderPlaced"}`))
	fmt.Println(err)
	// Output: messaging: invalid: CloudEvent: it lacks the required id and source
}

// A message in structured mode carries all of itself in its payload.
func ExampleStructured() {
	m := messaging.Message{ID: "1", Source: "/orders", Type: "OrderPlaced", ContentType: "text/plain", Payload: []byte("order 456"), Headers: map[string]string{"X-Tenant": "7"}}
	m, err := messaging.Structured(m)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.ContentType, m.Headers)
	fmt.Println(string(m.Payload))
	// Output:
	// application/cloudevents+json map[X-Tenant:7]
	// {"specversion":"1.0","id":"1","source":"/orders","type":"OrderPlaced","datacontenttype":"text/plain","data":"order 456"}
}

// An adapter carries attributes behind the prefix of its binding.
func ExampleMessage_Attributes() {
	m := messaging.Message{ID: "1", Source: "/orders", Type: "OrderPlaced", Key: "customer 7"}
	for name, value := range m.Attributes() {
		fmt.Printf("ce_%s: %s\n", name, value)
	}
	// Output:
	// ce_specversion: 1.0
	// ce_id: 1
	// ce_source: /orders
	// ce_type: OrderPlaced
	// ce_partitionkey: customer 7
}

func ExampleMessage_SetAttribute() {
	var m messaging.Message
	for _, h := range [][2]string{{"ce_specversion", "1.0"}, {"ce_id", "1"}, {"ce_tenant", "7"}} {
		name := strings.TrimPrefix(h[0], "ce_")
		fmt.Println(name, m.SetAttribute(name, h[1]))
	}
	fmt.Println(m.ID)
	// Output:
	// specversion true
	// id true
	// tenant false
	// 1
}

// setAside returns a Broker whose group "mail" has set two orders aside.
func setAside(ctx context.Context) (*memory.Broker, error) {
	broker, err := memory.New(memory.Config{})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	left := 2
	c, err := messaging.NewConsumer(broker, messaging.ConsumerConfig{
		Concurrency: 1, Logger: slog.New(slog.DiscardHandler),
		OnSettle: func(messaging.Settled) {
			if left--; left == 0 {
				stop()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	c.Handle(messaging.Subscription{Topic: "orders", Group: "mail"}, func(context.Context, *messaging.Delivery) error {
		return messaging.Permanent(errors.New("the mail server has no such domain"))
	})
	go func() {
		<-c.Ready()
		_ = broker.Publish(ctx, "orders", messaging.NewMessage("OrderPlaced", []byte("order 456")), messaging.NewMessage("OrderPlaced", []byte("order 457")))
	}()
	return broker, c.Run(ctx)
}

// Dead letters can be looked at, on any broker, and stay where they are.
func ExampleDeadLetters() {
	ctx := context.Background()
	broker, err := setAside(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	dead, err := messaging.DeadLetters(ctx, broker, messaging.Subscription{Topic: "orders", Group: "mail"}, 2)
	for _, m := range dead {
		fmt.Printf("%s: %s\n", m.Payload, m.Headers[messaging.HeaderDeadError])
	}
	fmt.Println(err)
	// Output:
	// order 456: the mail server has no such domain
	// order 457: the mail server has no such domain
	// <nil>
}

// Once the cause is mended, dead letters are tried again.
func ExampleRedrive() {
	ctx := context.Background()
	broker, err := setAside(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	done, err := messaging.Redrive(ctx, broker, messaging.Subscription{Topic: "orders", Group: "mail"}, messaging.RedriveConfig{
		Filter: func(d *messaging.Delivery) bool { return string(d.Payload) == "order 457" },
	})
	fmt.Printf("%d moved, %d kept, complete: %t, error: %v\n", done.Moved, done.Kept, done.Complete, err)
	// Output: 1 moved, 1 kept, complete: true, error: <nil>
}
