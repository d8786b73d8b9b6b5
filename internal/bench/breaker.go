package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/cep21/circuit/v4"
	cephystrix "github.com/cep21/circuit/v4/closers/hystrix"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"

	"github.com/parley-go/parley/breaker"
)

var errDown = errors.New("down")

// breakerRows holds the bars of the design and shows the rest. The bars are
// those against the fastest windowed peers; the floor row says what no breaker
// with a time window can do without. Where two threads count into one window at
// a time, both pay for the cache line that they share, whoever counts: the bar
// there is not to be slower.
func breakerRows() []row {
	ctx := context.Background()
	ok := func(context.Context) error { return nil }
	nothing := func() (struct{}, error) { return struct{}{}, nil }

	window := must(breaker.New(breaker.Config{}))
	do := func(b *breaker.Breaker) loop {
		return func(n int) {
			for range n {
				_ = b.Do(ctx, ok)
			}
		}
	}
	allow := func(n int) {
		for range n {
			if p, err := window.Allow(); err == nil {
				p.Done(breaker.Success)
			}
		}
	}
	consecutive := must(breaker.New(breaker.Config{Consecutive: 5}))
	open := must(breaker.New(breaker.Config{OpenFor: time.Hour}))
	open.ForceOpen()

	execute := func(b *gobreaker.CircuitBreaker[struct{}]) loop {
		return func(n int) {
			for range n {
				_, _ = b.Execute(nothing)
			}
		}
	}
	gobreakerRolling := gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second})
	gobreakerConsecutive := gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{})
	gobreakerOpen := gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{Timeout: time.Hour})
	for range 10 {
		_, _ = gobreakerOpen.Execute(func() (struct{}, error) { return struct{}{}, errDown })
	}

	newFailsafe := func() circuitbreaker.CircuitBreaker[any] {
		return circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(.5, 20, 10*time.Second).WithDelay(time.Hour).Build()
	}
	failsafeClosed, failsafeOpened := newFailsafe(), newFailsafe()
	failsafeOpened.Open()
	failsafeAlone := func(n int) {
		for range n {
			if failsafeClosed.TryAcquirePermit() {
				failsafeClosed.RecordSuccess()
			}
		}
	}
	failsafeRun := func(b circuitbreaker.CircuitBreaker[any]) loop {
		executor := failsafe.With[any](b)
		return func(n int) {
			for range n {
				_ = executor.Run(func() error { return nil })
			}
		}
	}

	newCircuit := func(name string, open bool) *circuit.Circuit {
		factory := cephystrix.Factory{}
		manager := circuit.Manager{DefaultCircuitProperties: []circuit.CommandPropertiesConstructor{factory.Configure}}
		return must(manager.CreateCircuit(name, circuit.Config{
			General:   circuit.GeneralConfig{ForceOpen: open},
			Execution: circuit.ExecutionConfig{Timeout: -1, MaxConcurrentRequests: -1},
		}))
	}
	cepRun := func(c *circuit.Circuit) loop {
		return func(n int) {
			for range n {
				_ = c.Run(ctx, ok)
			}
		}
	}
	cepClosed, cepOpen := newCircuit("closed", false), newCircuit("open", true)

	hystrix.ConfigureCommand("closed", hystrix.CommandConfig{MaxConcurrentRequests: 1000})
	hystrixRun := func(n int) {
		for range n {
			_ = hystrix.DoC(ctx, "closed", ok, nil)
		}
	}

	base, counter := time.Now(), atomic.Int64{}
	floor := func(n int) { // what a call in a time window cannot do without
		for range n {
			counter.Add(int64(time.Since(base)) & 1)
			_ = ok(ctx)
		}
	}

	const reported = -1
	return []row{
		{name: "breaker/allow_done_window", ours: allow, peer: "failsafe_standalone", them: failsafeAlone, most: .5},
		{name: "breaker/do_window", ours: do(window), peer: "gobreaker_rolling", them: execute(gobreakerRolling), most: .4},
		{name: "breaker/do_window", ours: do(window), peer: "floor_clock_add_call", them: floor},
		{name: "breaker/do_window", ours: do(window), peer: "failsafe_run", them: failsafeRun(failsafeClosed)},
		{name: "breaker/do_window", ours: do(window), peer: "cep21", them: cepRun(cepClosed)},
		{name: "breaker/do_window", ours: do(window), peer: "hystrix", them: hystrixRun, allocs: reported},
		{name: "breaker/do_consecutive", ours: do(consecutive), peer: "gobreaker", them: execute(gobreakerConsecutive), most: .1},
		{name: "breaker/reject", ours: do(open), peer: "gobreaker", them: execute(gobreakerOpen), most: .55},
		{name: "breaker/reject", ours: do(open), peer: "failsafe_run", them: failsafeRun(failsafeOpened)},
		{name: "breaker/reject", ours: do(open), peer: "cep21", them: cepRun(cepOpen)},
		{name: "breaker/do_window_parallel", ours: do(window), peer: "gobreaker_rolling", them: execute(gobreakerRolling), most: 1, procs: 2},
		{name: "breaker/do_consecutive_parallel", ours: do(consecutive), peer: "gobreaker", them: execute(gobreakerConsecutive), most: .1, procs: 2},
		{name: "breaker/reject_parallel", ours: do(open), peer: "gobreaker", them: execute(gobreakerOpen), most: .55, procs: 2},
	}
}
