// Package event holds what the services of the order flow tell each other.
package event

// The types of event, which are also the Type of the message.
const (
	// Placed tells that an order stands: its stock is to be taken for good and
	// its user to be told.
	Placed = "OrderPlaced"
	// Refused tells that an order did not come about although its stock may have
	// been reserved: whatever was reserved is to be released.
	Refused = "OrderRefused"
)

// An Order is the payload of both.
type Order struct {
	EventType string   `json:"eventType"`
	OrderID   int64    `json:"orderId"`
	UserID    int64    `json:"userId"`
	Items     []string `json:"items"`
}
