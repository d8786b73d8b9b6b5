package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Target is one instance of a service, as a [Resolver] names it.
type Target struct {
	// URL is absolute, http or https, without query.
	URL string

	// Weight is the target's share of the requests, from 1 to 100. Default 1.
	Weight int
}

// Resolver finds out what the targets of an upstream are at present. [DNS] is
// one; [ResolverFunc] makes one of a function.
type Resolver interface {
	// Resolve returns all targets, in any order; those after the first 1000 are
	// left out. An error, an empty answer, and one with a faulty target leave the
	// targets as they are, and it is called again after a second, then two, then
	// four, up to Refresh. It is called by one goroutine for each upstream,
	// returns when ctx ends, which is after 10 seconds at the latest, and does not
	// keep or change what it has returned.
	Resolve(ctx context.Context) ([]Target, error)
}

// ResolverFunc is a function as a [Resolver].
type ResolverFunc func(ctx context.Context) ([]Target, error)

// Resolve implements [Resolver].
func (f ResolverFunc) Resolve(ctx context.Context) ([]Target, error) { return f(ctx) }

// DNS resolves a name to targets: to its addresses, or to the services that its
// SRV records name. An https upstream that is resolved to addresses needs the
// name in Upstream.Host, for its certificates.
type DNS struct {
	// Name is what to look up: a host, or with SRV the whole name of the records,
	// such as _http._tcp.orders.internal. Required.
	Name string

	// SRV looks up SRV records (RFC 2782) for host, port and weight. Only those of
	// the lowest priority are taken. Default: A and AAAA records.
	SRV bool

	// Port is the port of all addresses, from 1 to 65535. Required, except with
	// SRV, where it is a fault.
	Port int

	// Scheme is http or https. Default http. Others are a fault.
	Scheme string

	// Path is put before the path of each request. Default: nothing is.
	Path string

	// Resolver does the look-ups. Default [net.DefaultResolver].
	Resolver *net.Resolver
}

func (d *DNS) faults() (faults []string) {
	if d == nil {
		return []string{"Resolver is nil"}
	}
	if d.Name == "" {
		faults = append(faults, "Resolver: Name is empty")
	}
	switch {
	case d.SRV && d.Port != 0:
		faults = append(faults, "Resolver: SRV and Port contradict each other")
	case !d.SRV && (d.Port < 1 || d.Port > maxPort):
		faults = append(faults, fmt.Sprintf("Resolver: Port %d is outside of 1 to %d", d.Port, maxPort))
	}
	if _, err := parseTarget(d.target("name", 1, 1).URL); err != nil {
		faults = append(faults, fmt.Sprintf("Resolver: of Scheme %q and Path %q no target can be made: %v", d.Scheme, d.Path, err))
	}
	return faults
}

// Resolve implements [Resolver].
func (d DNS) Resolve(ctx context.Context) ([]Target, error) {
	r := d.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	if d.SRV {
		return d.services(ctx, r)
	}
	addrs, err := r.LookupNetIP(ctx, "ip", d.Name)
	if err != nil {
		return nil, err
	}
	targets := make([]Target, 0, len(addrs))
	for _, a := range addrs {
		targets = append(targets, d.target(a.Unmap().String(), d.Port, 1))
	}
	return targets, nil
}

func (d DNS) services(ctx context.Context, r *net.Resolver) ([]Target, error) {
	_, records, err := r.LookupSRV(ctx, "", "", d.Name)
	if err != nil {
		return nil, err
	}
	var most uint16
	records = slices.DeleteFunc(records, func(s *net.SRV) bool { // sorted by priority
		return s.Priority != records[0].Priority || s.Target == "."
	})
	for _, s := range records {
		most = max(most, s.Weight)
	}
	targets := make([]Target, 0, len(records))
	for _, s := range records {
		weight := int(s.Weight)
		if most > maxTargetWeight { // to ours, of the same proportions
			weight = weight * maxTargetWeight / int(most)
		}
		targets = append(targets, d.target(strings.TrimSuffix(s.Target, "."), int(s.Port), max(1, weight)))
	}
	return targets, nil
}

func (d DNS) target(host string, port, weight int) Target {
	u := url.URL{Scheme: d.Scheme, Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: d.Path}
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	return Target{URL: u.String(), Weight: weight}
}

const resolveTimeout = 10 * time.Second

// run does what Gateway.Run does for one pool, until ctx ends. Checks under way may
// last as long as all of Run: see attend.
func (p *pool) run(ctx, whole context.Context) {
	defer p.tidy() // of what the last checks have left
	var all sync.WaitGroup
	defer all.Wait()
	if p.Resolver != nil {
		all.Go(func() { p.resolve(ctx) })
	}
	if p.Health == nil {
		return
	}
	ends := make(map[*Instance]context.CancelFunc)
	defer func() {
		for _, end := range ends {
			end()
		}
	}()
	for {
		set := *p.set.Load()
		for _, i := range set {
			if ends[i] == nil {
				own, end := context.WithCancel(ctx)
				ends[i] = end
				all.Go(func() { p.attend(own, whole, i) })
			}
		}
		for i, end := range ends {
			if !slices.Contains(set, i) {
				end()
				delete(ends, i)
			}
		}
		select {
		case <-p.regroup:
		case <-ctx.Done():
			return
		}
	}
}

// resolve asks the Resolver until ctx ends.
func (p *pool) resolve(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := time.Second
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := p.safely("Resolver or Picker", func() error {
			within, cancel := context.WithTimeout(ctx, resolveTimeout)
			defer cancel()
			targets, err := p.Resolver.Resolve(within)
			if err != nil {
				return err
			}
			return p.regroupTo(targets)
		})
		switch {
		case err == nil:
			again = time.Second
			timer.Reset(jittered(p.Refresh))
		case ctx.Err() != nil:
			return
		default:
			p.logger.Error("gateway: targets could not be resolved; the last ones stay", slog.String("upstream", p.Name), slog.String("err", printable(err.Error(), maxLogText)))
			again = min(again, p.Refresh)
			timer.Reset(jittered(again))
			again *= 2
		}
	}
}

// regroupTo replaces the set of targets. Instances that stay keep what is known
// about them.
func (p *pool) regroupTo(targets []Target) error {
	if len(targets) == 0 {
		return errors.New("gateway: the Resolver named no target")
	}
	if len(targets) > maxTargets {
		p.logger.Warn("gateway: the Resolver named more targets than are used", slog.String("upstream", p.Name), slog.Int("targets", len(targets)), slog.Int("used", maxTargets))
		targets = targets[:maxTargets]
	}
	old := make(map[string]*Instance)
	for _, i := range *p.set.Load() {
		old[i.name] = i
	}
	set := make([]*Instance, 0, len(targets))
	seen := make(map[string]bool)
	for n, t := range targets {
		i, err := p.instance(t)
		switch {
		case err != nil:
			return fmt.Errorf("gateway: the Resolver named a faulty target: element %d: %w", n, err)
		case seen[i.name]:
			continue
		}
		seen[i.name] = true
		if was := old[i.name]; was != nil {
			was.weight.Store(i.weight.Load())
			i = was
		} else if len(old) > 0 { // with the first answer all are new alike
			i.rewarm(p.now())
		}
		set = append(set, i)
	}
	// In one order whatever the answer's is, so that nothing changes by that.
	slices.SortFunc(set, func(a, b *Instance) int { return strings.Compare(a.name, b.name) })
	p.set.Store(&set)
	p.changed()
	select {
	case p.regroup <- struct{}{}:
	default:
	}
	return nil
}

// safely calls what is the user's, or may lead there, on a goroutine of Run: a
// panic is a failure, and must not end the program.
func (p *pool) safely(what string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("gateway: %s panicked: %v", what, v)
			p.logger.Error("gateway: panic", slog.String("upstream", p.Name), slog.String("in", what), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		}
	}()
	return f()
}
