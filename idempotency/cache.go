package idempotency

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// CacheConfig bounds a [Cache].
type CacheConfig struct {
	// MaxRecords is how many completed records are held. Default 1,000. Negative
	// is an error.
	MaxRecords int
	// MaxBytes is how many bytes of results are held, all together. Default
	// 16 MiB. Negative is an error.
	MaxBytes int
	// MaxAge is for how long a record is held, and so for how long beyond its TTL
	// it may still be replayed. Default 1 minute. Negative is an error.
	MaxAge time.Duration
}

const (
	defaultCacheRecords = 1000
	defaultCacheBytes   = 16 << 20
	defaultMaxAge       = time.Minute
)

// Cache is a [Store] that answers from memory for records that another Store said
// are completed. It is for a Store beyond a network, where clients repeat one
// request many times: from the second repetition that a process sees, the other
// Store is not asked. It is safe for concurrent use and starts no goroutine.
//
// A completed record does not change while it lives, so the answers are those of
// the other Store, but for one thing: a record whose TTL has passed is replayed
// for up to MaxAge longer. When the Cache is full it forgets what was not used
// for longest.
type Cache struct {
	next   Store
	config CacheConfig
	base   time.Time // times are since base, on the monotonic clock

	mu      sync.Mutex
	records map[ID]*list.Element // guarded by mu, as is all below; of *cached
	recent  list.List            // the last used one first
	bytes   int
}

type cached struct {
	id          ID
	fingerprint [32]byte
	data        []byte
	until       time.Duration
}

// NewCache returns an empty Cache of next, or an error that lists every fault of
// the config.
func NewCache(next Store, config CacheConfig) (*Cache, error) {
	var f faults
	if next == nil {
		f.add("the store is nil")
	}
	if config.MaxRecords < 0 {
		f.add("MaxRecords %d is negative", config.MaxRecords)
	}
	if config.MaxBytes < 0 {
		f.add("MaxBytes %d is negative", config.MaxBytes)
	}
	f.negative("MaxAge", config.MaxAge)
	if err := f.err("cache config"); err != nil {
		return nil, err
	}
	if config.MaxRecords == 0 {
		config.MaxRecords = defaultCacheRecords
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = defaultCacheBytes
	}
	if config.MaxAge == 0 {
		config.MaxAge = defaultMaxAge
	}
	return &Cache{next: next, config: config, base: time.Now(), records: make(map[ID]*list.Element)}, nil
}

// Acquire implements [Store]. It asks the other Store for what is not held.
func (c *Cache) Acquire(ctx context.Context, claim Claim) (Outcome, error) {
	if err := checkStep(ctx, claim.Lease); err != nil {
		return Outcome{}, err
	}
	if err := positive("TTL", claim.TTL); err != nil {
		return Outcome{}, err
	}
	if out, ok := c.held(claim); ok {
		return out, nil
	}
	// The record lived when the answer was made, so its age counts from before.
	asked := time.Since(c.base)
	out, err := c.next.Acquire(ctx, claim)
	if err == nil && out.Status == Completed && !out.Result.NotStored {
		c.hold(claim, out.Result.Data, after(asked, c.config.MaxAge))
	}
	return out, err
}

// Complete implements [Store], by the other one.
func (c *Cache) Complete(ctx context.Context, id ID, token int64, r Result, ttl time.Duration) error {
	return c.next.Complete(ctx, id, token, r, ttl)
}

// Release implements [Store], by the other one.
func (c *Cache) Release(ctx context.Context, id ID, token int64) error {
	return c.next.Release(ctx, id, token)
}

// Extend implements [Store], by the other one.
func (c *Cache) Extend(ctx context.Context, id ID, token int64, lease time.Duration) error {
	return c.next.Extend(ctx, id, token, lease)
}

// Len returns the number of records held, those that are too old included.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.records)
}

func (c *Cache) held(claim Claim) (Outcome, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.records[claim.ID]
	if e == nil {
		return Outcome{}, false
	}
	r := e.Value.(*cached)
	switch {
	case time.Since(c.base) >= r.until:
		c.forget(e)
		return Outcome{}, false
	case r.fingerprint != claim.Fingerprint:
		return Outcome{Status: Mismatch}, true
	}
	c.recent.MoveToFront(e)
	return Outcome{Status: Completed, Result: Result{Data: r.data}}, true
}

func (c *Cache) hold(claim Claim, data []byte, until time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.records[claim.ID]; e != nil {
		c.forget(e) // another call was answered meanwhile
	}
	if len(data) > c.config.MaxBytes {
		return
	}
	for len(c.records) >= c.config.MaxRecords || c.bytes+len(data) > c.config.MaxBytes {
		c.forget(c.recent.Back())
	}
	c.records[claim.ID] = c.recent.PushFront(&cached{claim.ID, claim.Fingerprint, data, until})
	c.bytes += len(data)
}

func (c *Cache) forget(e *list.Element) {
	r := c.recent.Remove(e).(*cached)
	delete(c.records, r.id)
	c.bytes -= len(r.data)
}
