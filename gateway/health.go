package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/parley-go/parley/breaker"
)

// Health asks each target by a GET request whether it is well: the active half of
// health, for which [Gateway.Run] must run. A target counts as well until checks
// have said otherwise. Those that are not get no requests while another one is
// well.
//
// The checks of a target begin at a random moment of the first Interval, none
// before the one before has ended, so that neither many targets nor many gateways
// ask at once.
type Health struct {
	// Path is asked for, below the path of the target. Required; it begins with a
	// slash.
	Path string

	// Status is the status that means health. Default: any from 200 to 299.
	// Outside of 200 to 599 is a fault.
	Status int

	// Interval is how long to wait from one check to the next, give or take a
	// tenth. Default 10 seconds. Negative is a fault.
	Interval time.Duration

	// Timeout bounds each check, until the end of the body, of which 64 KiB are
	// read at most; a longer one fails. Default 2 seconds. Negative is a fault.
	Timeout time.Duration

	// Fall is how many checks in a row must fail for the target to be unhealthy.
	// Default 3. Negative is a fault.
	Fall int

	// Rise is how many checks in a row must pass for it to be healthy again.
	// Default 2. Negative is a fault.
	Rise int
}

const (
	defaultHealthInterval = 10 * time.Second
	defaultHealthTimeout  = 2 * time.Second
	defaultFall           = 3
	defaultRise           = 2
	maxHealthBody         = 64 << 10
)

func (h Health) withDefaults() Health {
	h.Interval = cmp.Or(h.Interval, defaultHealthInterval)
	h.Timeout = cmp.Or(h.Timeout, defaultHealthTimeout)
	h.Fall = cmp.Or(h.Fall, defaultFall)
	h.Rise = cmp.Or(h.Rise, defaultRise)
	return h
}

func (h Health) faults() (faults []string) {
	if u, err := url.Parse(h.Path); err != nil || !strings.HasPrefix(h.Path, "/") || u.Host != "" || u.Fragment != "" {
		faults = append(faults, fmt.Sprintf("Health.Path %q is no path that begins with a slash", h.Path))
	}
	if h.Status != 0 && (h.Status < 200 || h.Status > 599) {
		faults = append(faults, fmt.Sprintf("Health.Status %d is outside of 200 to 599", h.Status))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}} {
		if d.value < 0 {
			faults = append(faults, fmt.Sprintf("Health.%s %v is negative", d.name, d.value))
		}
	}
	if h.Fall < 0 {
		faults = append(faults, fmt.Sprintf("Health.Fall %d is negative", h.Fall))
	}
	if h.Rise < 0 {
		faults = append(faults, fmt.Sprintf("Health.Rise %d is negative", h.Rise))
	}
	return faults
}

// verdict is what the checks of one target have shown so far.
type verdict struct {
	sick  bool
	count int // of checks in a row that speak for the other state
}

// note books a check, and reports whether the target has changed by it.
func (v *verdict) note(passed bool, h *Health) bool {
	if passed != v.sick { // as expected
		v.count = 0
		return false
	}
	v.count++
	if v.sick && v.count < h.Rise || !v.sick && v.count < h.Fall {
		return false
	}
	v.sick, v.count = !v.sick, 0
	return true
}

// attend checks an instance until ctx ends, as at a Reload. A check under way is not
// cancelled by that, since it may take down the connection of a request with it
// (see strayError), but by the end of whole.
func (p *pool) attend(ctx, whole context.Context, i *Instance) {
	h := p.Health
	v := verdict{sick: i.sick.Load()}
	timer := time.NewTimer(rand.N(h.Interval))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := p.safely("health check", func() error { return p.check(whole, i) })
		if ctx.Err() != nil || err != nil && rejected(err) { // nobody was asked
			timer.Reset(jittered(h.Interval))
			continue
		}
		if v.note(err == nil, h) {
			_ = p.safely("Picker", func() error {
				p.sicken(i, v.sick, err)
				return nil
			})
		}
		timer.Reset(jittered(h.Interval))
	}
}

// sicken notes what the checks have found.
func (p *pool) sicken(i *Instance, sick bool, err error) {
	if !sick {
		i.rewarm(p.now())
	}
	i.sick.Store(sick)
	p.changed()
	attrs := []slog.Attr{slog.String("upstream", p.Name), slog.String("target", i.name)}
	if sick {
		p.logger.LogAttrs(context.Background(), slog.LevelWarn, "gateway: target unhealthy", append(attrs, slog.String("err", printable(err.Error(), maxLogText)))...)
		return
	}
	p.logger.LogAttrs(context.Background(), slog.LevelInfo, "gateway: target healthy", attrs...)
}

// check asks once.
func (p *pool) check(ctx context.Context, i *Instance) error {
	ctx, cancel := context.WithTimeout(ctx, p.Health.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.name+p.Health.Path, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "parley-gateway")
	if p.Host != "" {
		req.Host = p.Host
	}
	resp, err := p.wrapped.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxHealthBody+1)); {
	case err != nil:
		return err
	case n > maxHealthBody:
		return errors.New("gateway: the answer to the health check is longer than 64 KiB")
	}
	if s := resp.StatusCode; s != p.Health.Status && (p.Health.Status != 0 || s < 200 || s > 299) {
		return fmt.Errorf("gateway: the health check was answered with status %d", s)
	}
	return nil
}

// rejected reports whether an error says that the target was never asked.
func rejected(err error) bool {
	return breaker.DefaultClassify(context.Background(), err) == breaker.Ignored
}

// jittered differs from d by up to a tenth.
func jittered(d time.Duration) time.Duration {
	if d < 10 {
		return d
	}
	return d - d/10 + rand.N(d/5)
}
