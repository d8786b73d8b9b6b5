// Package notification is the Notification service: it tells users by e-mail
// what became of their orders.
package notification

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/parley-go/parley/examples/orderflow/event"
	"github.com/parley-go/parley/examples/orderflow/httpjson"
	"github.com/parley-go/parley/examples/orderflow/user"
	"github.com/parley-go/parley/messaging"
)

// Config is what the service needs to be given.
type Config struct {
	// Users is the base URL of the User service, and UserClient speaks to it.
	Users      string
	UserClient *http.Client
	Mail       *Mailer
	Logger     *slog.Logger
}

// Service is the Notification service. It is safe for concurrent use.
type Service struct {
	cfg  Config
	sent atomic.Int64
}

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// Handle sends one e-mail for each placed order. It sends another when it is
// called again, so an inbox stands before it.
func (s *Service) Handle(ctx context.Context, e event.Order, d *messaging.Delivery) error {
	if e.EventType != event.Placed {
		return nil
	}
	var u user.User
	if err := httpjson.Call(ctx, s.cfg.UserClient, http.MethodGet, fmt.Sprintf("%s/users/%d", s.cfg.Users, e.UserID), nil, &u); err != nil {
		if p, ok := errors.AsType[*httpjson.Problem](err); ok && p.Status == http.StatusNotFound {
			return messaging.Permanent(err)
		}
		return err
	}
	err := s.cfg.Mail.Send(ctx, Mail{
		ID:      d.ID,
		To:      u.Email,
		Name:    u.Name,
		Subject: fmt.Sprintf("Your order %d", e.OrderID),
		Body:    fmt.Sprintf("Dear %s,\n\nwe have your order %d: %s.\n", u.Name, e.OrderID, strings.Join(e.Items, ", ")),
	})
	if err != nil {
		return err
	}
	s.sent.Add(1)
	s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "user notified", slog.Int64("order_id", e.OrderID))
	return nil
}

// Sent returns the number of e-mails that a mail server has accepted.
func (s *Service) Sent() int { return int(s.sent.Load()) }
