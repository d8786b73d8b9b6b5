//go:build unix

package idempotency

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
)

// patience ends what hangs. It asserts nothing about speed.
const patience = time.Minute

// fleet is two processes of the service, and a database for their effects.
type fleet struct {
	*shop
	config    serviceConfig
	processes [2]*process
}

// newFleet starts both processes. What config leaves open is that of the servers
// that are handed over.
func newFleet(t testing.TB, config serviceConfig) *fleet {
	t.Helper()
	config.Postgres = cmp.Or(config.Postgres, need.Address(t, services.Postgres()))
	config.Redis = cmp.Or(config.Redis, need.Address(t, services.Redis()))
	config.Lease = cmp.Or(config.Lease, 2*time.Second)
	f := &fleet{shop: newShop(t, newPostgres(t, config.Postgres)), config: config}
	f.config.Table, f.config.Orders = f.shop.config.Table, f.orders
	f.config.Prefix = f.config.Table + ":"
	for i := range f.processes {
		f.processes[i] = f.start(t)
	}
	return f
}

// process is one of the service's. It may be started again, which makes it another.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
	gone  chan struct{}
}

func (f *fleet) start(t testing.TB) *process {
	t.Helper()
	config, err := json.Marshal(f.config)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), self), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), serviceVariable+"="+string(config))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		_ = p.cmd.Wait() // after what was to be read
		close(p.gone)
	}()
	t.Cleanup(p.kill)
	if err != nil {
		t.Fatalf("a service did not start: %v", err)
	}
	p.url = "http://" + strings.TrimSpace(line) + "/orders"
	return p
}

// kill ends the process as a crash would, and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// answer is what a request came to.
type answer struct {
	status     int
	body       string
	replayed   bool
	retryAfter string
	err        error // of a connection that broke
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %q, replayed %t", a.status, a.body, a.replayed)
}

// done reports whether the answer is that of an order that was placed.
func (a answer) done(key string) bool { return a.status == http.StatusCreated && a.body == key }

// client opens a connection for each request: one that was kept could break before
// the request is read, and http.Transport would send it again by itself.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// send sends the request of key to a process, once.
func (p *process) send(ctx context.Context, key, fault string) (a answer) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader("{}"))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Idempotency-Key", key)
	if fault != "" {
		req.Header.Set("X-Fault", fault)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{
		status: resp.StatusCode, body: string(body), err: err,
		replayed: resp.Header.Get("Idempotency-Replayed") == "true", retryAfter: resp.Header.Get("Retry-After"),
	}
}

// settle repeats the request of key until it is answered, as a client does, and
// returns the answer and how often the key was busy.
func (p *process) settle(t testing.TB, key string) (a answer, busy int) {
	t.Helper()
	eventually(t, "an answer for "+key, func() bool {
		switch a = p.send(t.Context(), key, ""); a.status {
		case http.StatusConflict:
			if a.retryAfter == "" {
				t.Errorf("409 without Retry-After: %v", a)
			}
			busy++
		case http.StatusServiceUnavailable:
		default:
			return a.err == nil
		}
		return false
	})
	return a, busy
}

// gate holds a handler in a service until the test opens it.
type gate struct {
	server  *httptest.Server
	arrived chan struct{}
	opened  chan struct{}
	once    sync.Once
}

func newGate(t testing.TB) *gate {
	t.Helper()
	g := &gate{arrived: make(chan struct{}, 100), opened: make(chan struct{})}
	g.server = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		g.arrived <- struct{}{}
		<-g.opened
	}))
	t.Cleanup(func() {
		g.open()
		g.server.Close()
	})
	return g
}

// at returns the fault that waits for the gate at a point.
func (g *gate) at(point string) string { return point + "=wait@" + g.server.URL }

// await returns when a handler is at the gate, and ends the test where the request
// is answered before that.
func (g *gate) await(t *testing.T, answers <-chan answer) {
	t.Helper()
	select {
	case <-g.arrived:
	case a := <-answers:
		t.Fatalf("the answer before the fault = %v", a)
	}
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// modes runs a test in each of the modes, with a fleet of its own and in parallel.
func modes(t *testing.T, config serviceConfig, test func(t *testing.T, f *fleet), list ...mode) {
	if len(list) == 0 {
		list = []mode{leaseRedis, leaseSQL, completeTx, inTx}
	}
	for _, m := range list {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			own := config
			own.Mode = m
			test(t, newFleet(t, own))
		})
	}
}

// transactional reports whether effect and record happen both or not at all.
func (f *fleet) transactional() bool { return f.config.Mode == completeTx || f.config.Mode == inTx }
