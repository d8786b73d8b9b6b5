package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/parley-go/parley/internal/services"
)

const (
	// turns is how often each proxy comes; the median of the ratios counts. They are
	// many and short, since the machine is slower for a second now and then.
	turns = 61
	// requests is how many each of them then forwards.
	requests = 2_000
)

// gatewayRows compare what a request costs the process of a proxy between clients
// and a service. The bars are those against a ReverseProxy that writes no log and may
// wait for ever, and against Caddy without its log; and, with the same numbers, those
// of like beside like: against who writes a line of log too and, as ReverseProxy, has a
// server and a transport that bound their waits. nginx and HAProxy write no log. What
// has no bar shows what a request with a body costs, and what the gateway would cost
// over net/http's connections alone. handlerRows need no processes.
func gatewayRows() ([]row, func()) {
	if !wanted("gateway/") {
		return nil, func() {}
	}
	f := newField()
	rows := []row{
		{name: "gateway/forward_everything_on", peer: "reverseproxy_bare", most: 1.10},
		{name: "gateway/forward_everything_on", peer: "caddy", most: .65},
		{name: "gateway/forward_everything_on", peer: "reverseproxy_log", most: 1.10},
		{name: "gateway/forward_everything_on", peer: "caddy_log", most: .65},
		{name: "gateway/forward_everything_on", peer: "nginx"},
		{name: "gateway/forward_everything_on", peer: "haproxy"},
		{name: "gateway/forward_everything_on", peer: "gateway_net_http"},
		{name: "gateway/forward_upload", peer: "reverseproxy_upload"},
		{name: "gateway/forward_no_log", peer: "reverseproxy"},
		{name: "gateway/forward_no_log", peer: "reverseproxy_bare"},
		{name: "gateway/forward_no_log", peer: "caddy"},
		{name: "gateway/forward_plain", peer: "reverseproxy"},
	}
	process := map[string]string{
		"gateway/forward_everything_on": "gateway", "gateway/forward_upload": "gateway_upload",
		"gateway/forward_no_log": "gateway_no_log", "gateway/forward_plain": "gateway_plain",
	}
	for i := range rows {
		ours := process[rows[i].name]
		rows[i].own = func(w io.Writer, r row) bool { return f.show(w, r, ours) }
	}
	return rows, f.end
}

// A field is the proxies that stand side by side before one backend.
type field struct {
	sides []side
	cost  map[string][]float64 // by the name of a side: nanoseconds of processor time a request, one for each turn
	ends  []func()
}

// A side is a proxy and what it is asked.
type side struct {
	name    string
	node    *services.Node
	request string
}

// newField starts the backend and every proxy that can be had.
func newField() *field {
	f := &field{cost: map[string][]float64{}}
	ctx := context.Background()
	self := must(os.Executable())
	dir := must(os.MkdirTemp("", "parley-bench-"))
	f.ends = append(f.ends, func() { _ = os.RemoveAll(dir) })
	start := func(s services.Service) (*services.Node, error) {
		if err := s.Install(ctx, func(line string) { fmt.Fprintln(os.Stderr, line) }); err != nil {
			return nil, err
		}
		home := filepath.Join(dir, s.Name)
		check(os.Mkdir(home, 0o755))
		n, err := s.Start(ctx, home)
		if err == nil {
			f.ends = append(f.ends, func() { _ = n.Kill() })
		}
		return n, err
	}
	own := func(role, backend string) services.Service {
		return services.Program(role, self, "serve", role, backend)
	}
	backend := must(start(own("backend", ""))).URL()
	for _, s := range []services.Service{
		own("gateway", backend), own("reverseproxy_log", backend), services.CaddyLogging(backend), services.Nginx(backend), services.HAProxy(backend),
		own("gateway_no_log", backend), own("reverseproxy", backend), services.Caddy(backend), own("reverseproxy_bare", backend),
		own("gateway_plain", backend), own("gateway_net_http", backend),
	} {
		n, err := start(s)
		if err != nil {
			fmt.Printf("gateway/: nothing to compare with %s: %v\n", s.Name, err)
			continue
		}
		f.sides = append(f.sides, side{s.Name, n, ask})
		switch s.Name {
		case "gateway":
			f.sides = append(f.sides, side{"gateway_upload", n, upload})
		case "reverseproxy_bare":
			f.sides = append(f.sides, side{"reverseproxy_upload", n, upload})
		}
	}
	return f
}

// end stops what was started, the backend last.
func (f *field) end() {
	for _, end := range slices.Backward(f.ends) {
		end()
	}
}

// measure has all proxies forward in turn, each time beginning with another one.
func (f *field) measure() {
	for _, s := range f.sides {
		check(load(s.node.URL(), s.request, requests)) // warm up
	}
	for turn := range turns {
		for i := range f.sides {
			s := f.sides[(turn+i)%len(f.sides)]
			before := must(s.node.CPU())
			check(load(s.node.URL(), s.request, requests))
			f.cost[s.name] = append(f.cost[s.name], float64(must(s.node.CPU())-before)/requests)
		}
	}
}

// show prints the row of ours and its peer, and reports whether it is ok.
func (f *field) show(w io.Writer, r row, ours string) bool {
	if len(f.cost) == 0 {
		f.measure()
	}
	our, their := f.cost[ours], f.cost[r.peer]
	if their == nil {
		return true // the reason stands above
	}
	ratios := make([]float64, len(our))
	for i := range our {
		ratios[i] = our[i] / their[i]
	}
	verdict, target := "ok", "-"
	if r.most > 0 {
		target = fmt.Sprintf("%.2f", r.most)
		if median(ratios) > r.most {
			verdict = "MISS"
		}
	}
	fmt.Fprintf(w, "%-34s %8.0fns  %s=%.0fns  ratio %.3f (%.3f to %.3f)  target %s  %s\n", r.name, median(our), r.peer, median(their),
		median(ratios), slices.Min(ratios), slices.Max(ratios), target, verdict)
	return verdict == "ok"
}
