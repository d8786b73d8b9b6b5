//go:build unix

package idempotency

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-go/parley/idempotency"
	"github.com/parley-go/parley/idempotency/redisstore"
	"github.com/parley-go/parley/idempotency/sqlstore"
)

// serviceVariable holds the serviceConfig with which the test binary is a service
// instead of a test: one of several processes that share their records, and that
// tests kill.
const serviceVariable = "PARLEY_IDEMPOTENCY_SERVICE"

func TestMain(m *testing.M) {
	config := os.Getenv(serviceVariable)
	if config == "" {
		os.Exit(m.Run())
	}
	if err := serve(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// mode is how effect and record are tied together.
type mode string

const (
	leaseRedis mode = "lease, Redis"      // Guard alone, records in Redis
	leaseSQL   mode = "lease, PostgreSQL" // Guard alone, records beside the effects
	completeTx mode = "CompleteTx"
	inTx       mode = "InTx"
)

type serviceConfig struct {
	Mode          mode
	Postgres      string // with the orders, and the records but for leaseRedis
	Table, Orders string
	Redis, Prefix string
	Lease         time.Duration
	StoreTimeout  time.Duration
}

// service is the order service: POST /orders inserts a row and answers with its key. A request may
// carry a fault for one of three points: before the effect, after it and before
// it is recorded or committed, and once it is recorded or committed.
type service struct {
	config serviceConfig
	db     *sql.DB
	sql    *sqlstore.Store
}

const (
	before   = "before"
	after    = "after"
	recorded = "recorded"
)

func serve(config string) error {
	s := new(service)
	if err := json.Unmarshal([]byte(config), &s.config); err != nil {
		return err
	}
	handler, err := s.handler()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() { // the test holds the other end for as long as it wants the service
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	server := http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	return server.Serve(listener)
}

func (s *service) handler() (http.Handler, error) {
	var err error
	if s.db, err = sql.Open("pgx", s.config.Postgres); err != nil {
		return nil, err
	}
	s.db.SetMaxOpenConns(8)
	s.db.SetMaxIdleConns(8)
	if s.sql, err = sqlstore.New(s.db, sqlstore.Config{Dialect: sqlstore.PostgreSQL, Table: s.config.Table}); err != nil {
		return nil, err
	}
	var store idempotency.Store = s.sql
	if s.config.Mode == leaseRedis {
		client := redis.NewClient(&redis.Options{Addr: s.config.Redis, ContextTimeoutEnabled: true})
		if store, err = redisstore.New(client, redisstore.Config{Prefix: s.config.Prefix}); err != nil {
			return nil, err
		}
	}
	guard, err := idempotency.New(faulty{store}, idempotency.Config{Lease: s.config.Lease, StoreTimeout: s.config.StoreTimeout})
	if err != nil {
		return nil, err
	}
	once, err := guard.Middleware(idempotency.HTTP{GlobalScope: true})
	if err != nil {
		return nil, err
	}
	var h http.Handler
	switch s.config.Mode {
	case completeTx:
		h = once(http.HandlerFunc(s.completeTx))
	case inTx:
		h = http.HandlerFunc(s.inTx)
	default:
		h = once(http.HandlerFunc(s.apart))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), faultKey{}, r.Header.Get("X-Fault"))))
	}), nil
}

// apart has the effect and leaves the record to the middleware.
func (s *service) apart(w http.ResponseWriter, r *http.Request) {
	ctx, key := r.Context(), r.Header.Get("Idempotency-Key")
	err := s.effect(ctx, s.db, key)
	s.answer(w, key, err)
}

func (s *service) completeTx(w http.ResponseWriter, r *http.Request) {
	ctx, key := r.Context(), r.Header.Get("Idempotency-Key")
	err := func() error {
		if err := fault(ctx, before); err != nil {
			return err
		}
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if err := s.insert(ctx, tx, key); err != nil {
			return err
		}
		if err := fault(context.WithValue(ctx, txKey{}, tx), after); err != nil {
			return err
		}
		if err := s.sql.CompleteTx(ctx, tx, idempotency.HTTPResult(http.StatusCreated, nil, []byte(key))); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		return fault(ctx, recorded)
	}()
	s.answer(w, key, err)
}

func (s *service) inTx(w http.ResponseWriter, r *http.Request) {
	ctx, key := r.Context(), r.Header.Get("Idempotency-Key")
	v, replayed, err := sqlstore.InTx(ctx, s.sql, idempotency.Key{Scope: "orders", ID: key}, func(ctx context.Context, tx *sql.Tx) (string, error) {
		return key, s.effect(context.WithValue(ctx, txKey{}, tx), tx, key)
	})
	if err == nil && !replayed {
		err = fault(ctx, recorded)
	}
	if replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	s.answer(w, v, err)
}

// effect inserts the row, with the faults before and after it.
func (s *service) effect(ctx context.Context, q querier, key string) error {
	if err := fault(ctx, before); err != nil {
		return err
	}
	if err := s.insert(ctx, q, key); err != nil {
		return err
	}
	return fault(ctx, after)
}

type querier interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

func (s *service) insert(ctx context.Context, q querier, key string) error {
	_, err := q.ExecContext(ctx, "INSERT INTO "+s.config.Orders+" VALUES ($1)", key)
	return err
}

func (s *service) answer(w http.ResponseWriter, key string, err error) {
	rejected, ok := errors.AsType[*idempotency.RejectedError](err)
	switch {
	case ok && rejected.Reason == idempotency.ErrBusy:
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, key)
	}
}

// faulty is a Store with a fault once the work is recorded.
type faulty struct{ idempotency.Store }

func (f faulty) Complete(ctx context.Context, id idempotency.ID, token int64, r idempotency.Result, ttl time.Duration) error {
	err := f.Store.Complete(ctx, id, token, r, ttl)
	return errors.Join(err, fault(ctx, recorded))
}

type (
	faultKey struct{}
	txKey    struct{}
)

// fault does what the request of ctx asks for at this point.
func fault(ctx context.Context, point string) error {
	wanted, _ := ctx.Value(faultKey{}).(string)
	at, action, _ := strings.Cut(wanted, "=")
	if at != point {
		return nil
	}
	kind, argument, _ := strings.Cut(action, "@")
	switch kind {
	// A signal reaches the threads of a process one by one. This one must not go
	// on until the signal has.
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {}
	case "stop":
		resumed := make(chan os.Signal, 1)
		signal.Notify(resumed, syscall.SIGCONT)
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
		<-resumed
		return nil
	case "panic":
		panic(http.ErrAbortHandler)
	case "terminate": // the database ends the connection of the transaction
		if tx, ok := ctx.Value(txKey{}).(*sql.Tx); ok {
			_, _ = tx.ExecContext(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
		}
		return nil
	case "take": // so long, so that a kill meets more work that is half done
		d, err := time.ParseDuration(argument)
		pause(ctx, d)
		return err
	case "wait": // for the test, wherever the request's own client may be
		req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, argument, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	return fmt.Errorf("the fault %q is not known", wanted)
}
