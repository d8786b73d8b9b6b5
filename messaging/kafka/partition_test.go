package kafka

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
	"weak"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-go/parley/messaging"
)

// A desk is one partition of a member that has no Kafka, and what was handed out.
type desk struct {
	t *testing.T
	m *member
	p *partition

	mu  sync.Mutex
	got []string // IDs in order
}

// newDesk returns a desk to which n records of one key have come. The caller seats
// somebody, and begins.
func newDesk(t *testing.T, n int) *desk {
	t.Helper()
	b, err := New(Config{Seeds: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	names, err := namesOf("t", "g")
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, m: b.newMember(target{"t", "g", false}, names)}
	d.p = newPartition(d.m, "t", 0)
	d.m.parts[d.p.partOf] = d.p
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: "t", Key: []byte("k"), Offset: int64(i), Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte(strconv.Itoa(i))}}}
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.p.fill(kgo.FetchPartition{Records: records})
	return d
}

// seat seats a receiver of at most prefetch at one time. Receive is called for what
// is noted already.
func (d *desk) seat(prefetch int, receive func(*messaging.Delivery, messaging.Settler) error) *seat {
	return d.seatWithin(d.t.Context(), prefetch, receive)
}

// seatWithin is seat for as long as ctx.
func (d *desk) seatWithin(ctx context.Context, prefetch int, receive func(*messaging.Delivery, messaging.Settler) error) *seat {
	s := &seat{m: d.m, ctx: ctx, sub: messaging.Subscription{Prefetch: prefetch}, changed: make(chan struct{}, 1), failed: make(chan struct{}), open: true}
	s.deliver = func(_ context.Context, m *messaging.Delivery, h messaging.Settler) error {
		d.mu.Lock()
		d.got = append(d.got, m.ID)
		d.mu.Unlock()
		return receive(m, h)
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.m.seats = append(d.m.seats, s)
	d.m.fed()
	return s
}

// begin hands out until the test ends.
func (d *desk) begin() {
	d.m.b.workers.Go(d.p.work)
	synctest.Wait()
}

// end ends the partition, and waits for its goroutine.
func (d *desk) end() {
	d.m.mu.Lock()
	ends := d.p.lose()
	d.m.mu.Unlock()
	for _, end := range ends {
		end(messaging.ErrLost)
	}
	tell(d.p.wake)
	if err := d.m.b.Close(d.t.Context()); err != nil {
		d.t.Errorf("Close() = %v, want nil", err)
	}
}

func (d *desk) want(what string, ids ...string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.got, ids) {
		d.t.Errorf("%s: handed out %v, want %v", what, d.got, ids)
	}
}

func ack(_ *messaging.Delivery, h messaging.Settler) error {
	return h.Settle(context.Background(), messaging.Verdict{Kind: messaging.Ack})
}

var errFull = errors.New("no room")

// Several records are taken at once; those behind a refused one must not pass it.
func TestWhatIsRefusedComesAgainBeforeWhatWasTakenWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		refusals := 2
		d.seat(64, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "1" && refusals > 0 {
				refusals--
				return errFull
			}
			return ack(m, h)
		})
		d.begin()
		d.want("before the pause is over", "0", "1")
		time.Sleep(3 * refusalPause)
		synctest.Wait()
		d.want("after it", "0", "1", "1", "1", "2", "3", "4")
		if at, _ := d.p.window.mark(); at != 5 || d.p.open != 0 {
			t.Errorf("the mark is %d with %d in hand, want 5 and none", at, d.p.open)
		}
		d.end()
	})
}

func TestWhatWasTakenComesToAnotherWhenDeliverEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		first := d.seat(64, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "2" {
				runtime.Goexit()
			}
			return ack(m, h)
		})
		d.begin()
		<-first.failed
		d.want("to the one that fails", "0", "1", "2")
		d.seat(10, ack)
		tell(d.p.wake)
		synctest.Wait()
		d.want("to both", "0", "1", "2", "2", "3", "4")
		if at, _ := d.p.window.mark(); at != 5 || d.p.open != 0 || first.held != 0 {
			t.Errorf("the mark is %d with %d in hand, %d with the first, want 5 and none", at, d.p.open, first.held)
		}
		d.end()
	})
}

func TestAPartitionThatGoesHandsOutNothingOfWhatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		d.seat(64, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "1" {
				d.p.stopping.Store(true) // as a rebalance does
			}
			return ack(m, h)
		})
		d.begin()
		d.want("until it goes", "0", "1")
		if at, _ := d.p.window.mark(); at != 2 || d.p.open != 0 {
			t.Errorf("the mark is %d with %d in hand, want 2 and none, so that nobody waits for them", at, d.p.open)
		}
		d.end()
	})
}

func TestWhatWasTakenAndNobodyHadDoesNotComeAsRedelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		redelivered := map[string]bool{}
		refusals := 1
		d.seat(64, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "1" && refusals > 0 {
				refusals--
				return errFull
			}
			redelivered[m.ID] = m.Redelivered
			if m.ID == "3" {
				d.p.stopping.Store(true) // as a rebalance does
			}
			return ack(m, h)
		})
		d.begin()
		time.Sleep(3 * refusalPause)
		synctest.Wait()
		if want := map[string]bool{"0": false, "1": true, "2": false, "3": false}; !maps.Equal(redelivered, want) {
			t.Errorf("what came as redelivered is %v, want only the one that deliver had: %v", redelivered, want)
		}
		if mark := d.m.marks([]*partition{d.p})[d.p.partOf]; mark.at != 4 || !strings.HasPrefix(mark.meta, metaClean) {
			t.Errorf("the commit is of %d with %q, want 4, and that nothing beyond it was in hand", mark.at, mark.meta)
		}
		d.end()
	})
}

func TestNothingIsHandedOutOnceTheSubscriptionHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		ctx, cancel := context.WithCancel(t.Context())
		s := d.seatWithin(ctx, 64, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "1" {
				cancel()
			}
			return ack(m, h)
		})
		d.begin()
		d.want("until it ends", "0", "1")
		if s.held != 0 {
			t.Errorf("%d are in hand, want none, for which Subscribe would wait", s.held)
		}
		d.end()
	})
}

// The places in which a Subscription's deliveries wait are those of all partitions.
func TestAPartitionWhoseDeliverBlocksLeavesRoomForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 100)
		other := newPartition(d.m, "t", 1)
		d.m.parts[other.partOf] = other
		d.m.mu.Lock()
		other.fill(kgo.FetchPartition{Records: []*kgo.Record{{Topic: "t", Partition: 1, Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte("other")}}}}})
		d.m.mu.Unlock()
		free := make(chan struct{})
		d.seat(maxTaken, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "0" {
				<-free
			}
			return ack(m, h)
		})
		d.begin()
		d.m.b.workers.Go(other.work)
		synctest.Wait()
		d.want("while one blocks", "0", "other")
		close(free)
		d.m.end([]*partition{other})
		d.end()
	})
}

func TestASubscriberThatEndsDoesNotWaitForTheDeliverOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		for _, rec := range d.p.queue {
			rec.Key = nil // for whoever has room
		}
		free := make(chan struct{})
		d.seat(64, func(m *messaging.Delivery, h messaging.Settler) error {
			<-free
			return ack(m, h)
		})
		second := d.seat(64, ack)
		d.begin()
		d.want("while the first blocks", "0")
		if second.held != 0 {
			t.Errorf("the second has %d in hand that it was not given, want none, for which its Subscribe would wait", second.held)
		}
		close(free)
		d.end()
	})
}

func TestAPartitionThatIsLostWhileItIsHandedOutLeavesNothingInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 5)
		var kept messaging.Settler
		s := d.seat(64, func(m *messaging.Delivery, h messaging.Settler) error {
			if m.ID == "0" {
				kept = h
				return nil
			}
			d.m.end([]*partition{d.p})
			return ack(m, h)
		})
		d.begin()
		d.want("until it is lost", "0", "1")
		if err := ack(nil, kept); !errors.Is(err, messaging.ErrLost) {
			t.Errorf("Settle() = %v of what is lost, want ErrLost", err)
		}
		if d.p.open != 0 || s.held != 0 {
			t.Errorf("%d of the partition and %d of the subscriber are in hand, want none", d.p.open, s.held)
		}
		d.end()
	})
}

func TestNoMoreIsTakenThanThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 40)
		var kept []messaging.Settler
		d.seat(3, func(_ *messaging.Delivery, h messaging.Settler) error {
			kept = append(kept, h)
			return nil
		})
		d.begin()
		d.want("while all is in hand", "0", "1", "2")
		for n := range 40 {
			if err := ack(nil, kept[n]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if want := min(n+4, 40); len(kept) != want {
				t.Fatalf("after %d are settled, %d were handed out, want %d", n+1, len(kept), want)
			}
		}
		d.end()
	})
}

func TestADeliveryThatIsKeptKeepsNothingThatWasFetchedWithIt(t *testing.T) {
	var kept *messaging.Delivery
	var fetched weak.Pointer[kgo.Record]
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 1)
		fetched = weak.Make(d.p.queue[0])
		d.seat(1, func(m *messaging.Delivery, h messaging.Settler) error {
			kept = m
			return ack(m, h)
		})
		d.begin()
		for range 10 {
			runtime.GC()
		}
		if fetched.Value() != nil {
			t.Error("the record is still there, want it gone once its delivery is settled")
		}
		d.end()
	})
	if kept.ID != "0" {
		t.Errorf("the delivery is %+v, want it whole", kept)
	}
}

// A partition may have nothing more to hand out for days.
func TestNothingKeepsWhatIsDoneWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 2*maxTaken)
		var given []weak.Pointer[messaging.Delivery]
		d.seat(100, func(m *messaging.Delivery, h messaging.Settler) error {
			given = append(given, weak.Make(m))
			return ack(m, h)
		})
		d.begin()
		for range 10 {
			runtime.GC()
		}
		for n, m := range given {
			if m.Value() != nil {
				t.Errorf("delivery %d is still there, want it gone once it is settled and its receiver has let go of it", n)
			}
		}
		d.end()
	})
}

func TestWhatWasTakenInVainIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, maxTaken)
		var fetched []weak.Pointer[kgo.Record]
		for _, rec := range d.p.queue {
			fetched = append(fetched, weak.Make(rec))
		}
		ctx, cancel := context.WithCancel(t.Context())
		d.seatWithin(ctx, 100, func(*messaging.Delivery, messaging.Settler) error {
			cancel()
			return errFull
		})
		d.begin()
		d.want("in vain", "0")
		d.seat(1, ack) // which gets them one by one
		synctest.Wait()
		for range 10 {
			runtime.GC()
		}
		for n, rec := range fetched {
			if rec.Value() != nil {
				t.Errorf("record %d is still there, want it gone once its delivery is settled", n)
			}
		}
		d.end()
	})
}

// All that is in hand is in memory, and the next larger piece that the runtime has is of
// 256 bytes.
func TestADeliveryTakesNoMoreThanOnePieceOf240Bytes(t *testing.T) {
	if got := unsafe.Sizeof(handout{}); got > 240 {
		t.Errorf("a delivery takes %d bytes, want 240 at most", got)
	}
}

// A partition may stay for as long as the process.
func TestAReceiverThatHasGoneIsNotKeptAndTheNextHasALeaseOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 3)
		gone := func() weak.Pointer[seat] {
			s := d.seat(1, func(m *messaging.Delivery, h messaging.Settler) error {
				if m.ID == "1" {
					runtime.Goexit()
				}
				return ack(m, h)
			})
			d.begin()
			<-s.failed
			d.m.mu.Lock()
			defer d.m.mu.Unlock()
			d.m.seats = nil // as stand does
			return weak.Make(s)
		}()
		synctest.Wait()
		for range 10 {
			runtime.GC()
		}
		if gone.Value() != nil {
			t.Error("the receiver is still there, want it gone once it has given up its seat")
		}
		next := d.seat(1, ack)
		tell(d.p.wake)
		synctest.Wait()
		d.want("to both", "0", "1", "1", "2")
		d.m.mu.Lock()
		l := d.p.leaseOf(next)
		d.m.mu.Unlock()
		if l.seat != next || l.ctx.Err() != nil || len(d.p.leases) != 1 {
			t.Errorf("the next receiver has the lease of %p, which ended with %v, among %d; want its own alone", l.seat, l.ctx.Err(), len(d.p.leases))
		}
		d.end()
	})
}
