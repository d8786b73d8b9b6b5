// Package user is the User service: it knows who the customers are.
package user

import (
	"fmt"
	"net/http"

	"github.com/parley-go/parley/examples/orderflow/httpjson"
)

// A User is a customer.
type User struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// Service answers for a fixed set of users. It is safe for concurrent use.
type Service struct {
	users map[int64]User
}

// New returns a service that knows n users, numbered from 123.
func New(n int) *Service {
	s := &Service{users: make(map[int64]User, n)}
	for i := range int64(n) {
		id := 123 + i
		s.users[id] = User{ID: id, Name: fmt.Sprintf("Customer %d", id), Email: fmt.Sprintf("customer%d@example.com", id)}
	}
	return s
}

// Handler serves GET /users/{userId}.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{userId}", func(w http.ResponseWriter, r *http.Request) {
		id, valid := httpjson.ID(r.PathValue("userId"))
		if u, ok := s.users[id]; ok && valid {
			httpjson.Write(w, http.StatusOK, u)
			return
		}
		httpjson.Fail(w, httpjson.Errorf(http.StatusNotFound, "there is no such user"))
	})
	return mux
}
