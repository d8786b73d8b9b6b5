package idempotency

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// MemoryConfig bounds a [Memory].
type MemoryConfig struct {
	// MaxRecords is how many records may live at one time: at least the new keys
	// a second times the TTL in seconds. Each takes about 300 bytes beside its
	// result. Default 100,000, which at a TTL of 24 hours suffices for 1.1 new
	// keys a second. Negative is an error.
	MaxRecords int
	// MaxBytes is how many bytes of results are kept, all together. A result
	// that would exceed it is not kept: the record is completed as NotStored.
	// Default 64 MiB. Negative is an error.
	MaxBytes int
}

// Memory is a [Store] in the memory of one process: for a service with a single
// instance, and for tests. Its records end with the process, and other
// processes do not see them. It is safe for concurrent use.
//
// It starts no goroutine. Records that have expired are removed by later calls
// of Acquire, a few at a time. When MaxRecords of them live, Acquire returns
// [ErrFull] for further keys: a Memory never forgets a record that lives.
type Memory struct {
	base   time.Time // times below are since base, on the monotonic clock
	config MemoryConfig

	mu       sync.Mutex
	records  map[ID]*record // guarded by mu, as is all below and in the records
	byExpiry expiries
	bytes    int   // of Data in all records
	token    int64 // the last one handed out
}

type record struct {
	id          ID
	fingerprint [32]byte
	token       int64
	attempt     int
	state       state
	leaseUntil  time.Duration
	expiresAt   time.Duration
	result      Result
	index       int // in byExpiry
}

type state uint8

const (
	inProgress state = iota
	released
	completed
)

const (
	defaultMaxRecords = 100_000
	defaultMaxBytes   = 64 << 20
)

// NewMemory returns an empty Memory, or an error that lists every fault of the
// config.
func NewMemory(config MemoryConfig) (*Memory, error) {
	var f faults
	if config.MaxRecords < 0 {
		f.add("MaxRecords %d is negative", config.MaxRecords)
	}
	if config.MaxBytes < 0 {
		f.add("MaxBytes %d is negative", config.MaxBytes)
	}
	if err := f.err("memory config"); err != nil {
		return nil, err
	}
	if config.MaxRecords == 0 {
		config.MaxRecords = defaultMaxRecords
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = defaultMaxBytes
	}
	now := time.Now()
	// Beginning at the time of day, tokens rise over restarts of the process
	// too, for the sake of systems that remember them.
	return &Memory{base: now, config: config, records: make(map[ID]*record), token: now.UnixMicro()}, nil
}

// Acquire implements [Store].
func (m *Memory) Acquire(ctx context.Context, c Claim) (Outcome, error) {
	if err := checkStep(ctx, c.Lease); err != nil {
		return Outcome{}, err
	}
	if err := positive("TTL", c.TTL); err != nil {
		return Outcome{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.expire(now)
	r := m.live(c.ID, now)
	if r == nil {
		if len(m.records) >= m.config.MaxRecords {
			return Outcome{}, ErrFull
		}
		r = &record{id: c.ID, fingerprint: c.Fingerprint}
		return m.grant(r, c, now, false), nil
	}
	switch {
	case r.fingerprint != c.Fingerprint:
		return Outcome{Status: Mismatch}, nil
	case r.state == completed:
		return Outcome{Status: Completed, Result: r.result}, nil
	case r.state == inProgress && now < r.leaseUntil:
		return Outcome{Status: Busy, LeaseLeft: r.leaseUntil - now}, nil
	}
	return m.grant(r, c, now, r.state == inProgress), nil
}

// Complete implements [Store].
func (m *Memory) Complete(ctx context.Context, id ID, token int64, result Result, ttl time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := positive("TTL", ttl); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	r, err := m.owned(id, token, now)
	switch {
	case err != nil:
		return err
	case r.state == released:
		return ErrFenced
	case r.state == completed && !r.result.NotStored:
		return nil
	}
	if len(result.Data) > m.config.MaxBytes-m.bytes {
		// The effect stays protected; only the answer cannot be given again.
		result = Result{NotStored: true}
	}
	r.state, r.result = completed, result
	m.bytes += len(result.Data)
	m.keep(r, after(now, ttl))
	return nil
}

// Release implements [Store].
func (m *Memory) Release(ctx context.Context, id ID, token int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.owned(id, token, m.now())
	if err != nil {
		return err
	}
	if r.state == completed {
		return ErrFenced
	}
	r.state = released
	return nil
}

// Extend implements [Store].
func (m *Memory) Extend(ctx context.Context, id ID, token int64, lease time.Duration) error {
	if err := checkStep(ctx, lease); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	r, err := m.owned(id, token, now)
	switch {
	case err != nil:
		return err
	case r.state == released:
		return ErrFenced
	case r.state == completed:
		return nil
	}
	r.leaseUntil = after(now, lease)
	m.keep(r, max(r.expiresAt, r.leaseUntil))
	return nil
}

// Len returns the number of records held, those that have expired and were not
// removed yet included.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

func (m *Memory) now() time.Duration { return time.Since(m.base) }

// grant makes the claim's owner that of r, which may be new.
func (m *Memory) grant(r *record, c Claim, now time.Duration, takenOver bool) Outcome {
	m.token++
	r.token = m.token
	r.attempt++
	r.state = inProgress
	r.leaseUntil = after(now, c.Lease)
	expiresAt := after(now, max(c.TTL, c.Lease))
	if r.attempt == 1 {
		r.expiresAt = expiresAt
		m.records[r.id] = r
		heap.Push(&m.byExpiry, r)
	} else {
		m.keep(r, expiresAt)
	}
	return Outcome{Status: Acquired, Token: r.token, Attempt: r.attempt, TakenOver: takenOver}
}

// owned returns the live record whose claim has the token.
func (m *Memory) owned(id ID, token int64, now time.Duration) (*record, error) {
	r := m.live(id, now)
	if r == nil || r.token != token {
		return nil, ErrFenced
	}
	return r, nil
}

// live returns the record that has not expired.
func (m *Memory) live(id ID, now time.Duration) *record {
	r := m.records[id]
	if r != nil && now >= r.expiresAt {
		m.remove(r)
		return nil
	}
	return r
}

// expire removes up to two expired records: more than one call can add, so that
// what has expired goes away under load without a goroutine of its own. A full
// map gets its room from here, too: one removal is all that a new record needs.
func (m *Memory) expire(now time.Duration) {
	for range 2 {
		if len(m.byExpiry) == 0 || now < m.byExpiry[0].expiresAt {
			return
		}
		m.remove(m.byExpiry[0])
	}
}

func (m *Memory) remove(r *record) {
	heap.Remove(&m.byExpiry, r.index)
	delete(m.records, r.id)
	m.bytes -= len(r.result.Data)
}

func (m *Memory) keep(r *record, until time.Duration) {
	r.expiresAt = until
	heap.Fix(&m.byExpiry, r.index)
}

// after adds without overflow, which would make the longest TTL the shortest.
func after(now, d time.Duration) time.Duration {
	return now + min(d, math.MaxInt64-now)
}

// checkStep is what every step with a lease begins with.
func checkStep(ctx context.Context, lease time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return positive("lease", lease)
}

func positive(what string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("idempotency: the %s %v is not positive", what, d)
	}
	return nil
}
