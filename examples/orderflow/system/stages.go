package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// graceFor bounds how long each stage may take to finish what is in progress:
// longer than any request may take.
const graceFor = 12 * time.Second

// A part is something that runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
}

// runStages starts the parts stage by stage, and calls started. When ctx ends, or
// a part does, it ends the stages in the opposite order, each when the one after
// has come to rest: what feeds stops before what is fed. It returns the first
// error.
func runStages(ctx context.Context, stages [][]part, started func()) error {
	ended := make(chan error, 1) // the first part to end, if none was told to
	var first error
	var stops []func()
	for _, stage := range stages {
		// Work in progress outlives ctx until its own stage ends.
		stageCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		results := make(chan error, len(stage))
		for _, p := range stage {
			go func() {
				err := p.run(stageCtx)
				if err == nil && stageCtx.Err() == nil {
					err = errors.New("ended by itself")
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", p.name, err)
				}
				results <- err
				if stageCtx.Err() == nil {
					select {
					case ended <- err:
					default:
					}
				}
			}()
		}
		stops = append(stops, func() {
			cancel()
			for range stage {
				if err := <-results; err != nil && first == nil {
					first = err
				}
			}
		})
	}
	started()
	select {
	case <-ctx.Done():
	case first = <-ended:
	}
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
	return first
}

// serve returns a part that serves h on l, with the limits that a handler cannot
// set, and lets requests in progress finish.
func serve(name string, l net.Listener, srv *http.Server) part {
	return part{name: name, run: func(ctx context.Context) error {
		stopped := make(chan error, 1)
		go func() {
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceFor)
			defer cancel()
			err := srv.Shutdown(grace)
			if err != nil { // handlers that still run are cut off
				err = errors.Join(err, srv.Close())
			}
			stopped <- err
		}()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return <-stopped
	}}
}

func server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}
}
