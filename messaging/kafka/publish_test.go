package kafka_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
)

// answer returns the response of one kind to a produce request, with an error for
// each partition.
func answer(req kmsg.Request, code int16) *kmsg.ProduceResponse {
	in := req.(*kmsg.ProduceRequest)
	resp := in.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range in.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// fails has c answer produce requests with code, those that which chooses by their
// number from 1 on.
func fails(c *kfake.Cluster, code int16, which func(n int) bool) {
	n := 0
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if n++; which(n) {
			return answer(req, code), nil, true
		}
		return nil, nil, false
	})
}

// stored returns the payloads of a partition.
func stored(t *testing.T, seeds []string, topic string, n int) []string {
	t.Helper()
	cl := raw(t, seeds, kgo.ConsumeTopics(topic))
	var got []string
	for len(got) < n {
		fetches := cl.PollFetches(within(t, patience))
		if err := fetches.Err(); err != nil {
			t.Fatalf("%d of %d records are stored: %v", len(got), n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	return got
}

// Pitfall 26.
func TestPublishToAMissingTopicFailsSoonAndForGood(t *testing.T) {
	t.Parallel()
	seeds := fake(t).ListenAddrs()
	for name, c := range map[string]struct {
		passive bool
		want    messaging.Reason
	}{
		"where a Subscribe would make it": {false, messaging.ErrUnroutable},
		"where others make topics":        {true, messaging.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, kafka.Config{Seeds: seeds, Passive: c.passive})
			began := time.Now()
			err := b.Publish(within(t, patience), unique("t"), numbered(2)...)
			batch, ok := errors.AsType[*messaging.BatchError](err)
			if !ok || !errors.Is(batch.Errs[0], c.want) || !errors.Is(batch.Errs[1], c.want) {
				t.Errorf("Publish() = %v, want a BatchError with twice %v", err, c.want)
			}
			if took := time.Since(began); took > patience/2 {
				t.Errorf("it took %v, want it to give up by itself", took)
			}
		})
	}
}

// Pitfall 26.
func TestWhatTheTopicDoesNotTakeIsTooLarge(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(1, "t"))
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	large := messaging.NewMessage("T", make([]byte, b.Promises().MaxPayload+1))
	if err := b.Publish(within(t, patience), "t", large); !errors.Is(err, messaging.ErrTooLarge) {
		t.Errorf("Publish() of more than MaxPayload = %v, want ErrTooLarge", err)
	}
	fails(c, kerr.MessageTooLarge.Code, func(int) bool { return true })
	if err := b.Publish(within(t, patience), "t", numbered(1)...); !errors.Is(err, messaging.ErrTooLarge) || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Errorf("Publish() of what the topic refuses = %v, want ErrTooLarge that names the setting", err)
	}
}

// Pitfall 27.
func TestALostLeaderNeitherReordersNorDoubles(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(1, "t"))
	fails(c, kerr.NotLeaderForPartition.Code, func(n int) bool { return n == 3 })
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	var want []string
	for i := range 20 {
		msgs := numbered(50)
		for j := range msgs {
			msgs[j].Key, msgs[j].Payload = "k", []byte(strconv.Itoa(i*50+j))
			want = append(want, strconv.Itoa(i*50+j))
		}
		publish(t, b, "t", msgs...)
	}
	if got := stored(t, c.ListenAddrs(), "t", len(want)); !slices.Equal(got, want) {
		t.Errorf("the topic has %d records, want %d in order without doubles: %.200v", len(got), len(want), got)
	}
}

func TestALostConnectionIsNoErrorAndStoresNothingTwice(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(1, "t"))
	n := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		n++
		return nil, errors.New("cut"), n%4 == 2 // closes the connection without an answer
	})
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 20 {
				if err := b.Publish(within(t, patience), "t", numbered(1)...); err != nil {
					t.Errorf("Publish() = %v, want nil", err)
				}
			}
		})
	}
	running.Wait()
	publish(t, b, "t", numbered(1)...)
	if got := stored(t, c.ListenAddrs(), "t", 161); len(got) != 161 {
		t.Errorf("the topic has %d records, want 161", len(got))
	}
}

func TestPublishEndsWithItsContextThoughNoBrokerAnswers(t *testing.T) {
	t.Parallel()
	cause := errors.New("the caller has left")
	t.Run("nothing was sent", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t, kafka.Config{Seeds: []string{"127.0.0.1:1"}})
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, cause)
		defer cancel()
		err := b.Publish(ctx, "t", numbered(1)...)
		if !errors.Is(err, cause) || errors.Is(err, messaging.ErrNotConfirmed) {
			t.Errorf("Publish() = %v, want the cause of its context and not ErrNotConfirmed", err)
		}
	})
	t.Run("it was on its way", func(t *testing.T) {
		t.Parallel()
		c := fake(t, kfake.SeedTopics(1, "t"))
		b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
		publish(t, b, "t", numbered(1)...)
		asked, let := make(chan struct{}), make(chan struct{})
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			close(asked)
			c.SleepControl(func() { <-let })
			return nil, nil, false
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-asked
			cancel(cause)
		}()
		err := b.Publish(ctx, "t", numbered(1)...)
		if !errors.Is(err, cause) || !errors.Is(err, messaging.ErrNotConfirmed) {
			t.Errorf("Publish() = %v, want ErrNotConfirmed and the cause of its context", err)
		}
		close(let)
		if got := stored(t, c.ListenAddrs(), "t", 2); len(got) != 2 {
			t.Errorf("the topic has %d records, want both: what was not confirmed may have been stored", len(got))
		}
	})
}

func TestOneCallerWhoLeavesTakesNobodyElsesMessageAlong(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(1, "t"))
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	publish(t, b, "t", numbered(1)...)
	let := make(chan struct{})
	var asked atomic.Bool
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		asked.Store(true)
		c.SleepControl(func() { <-let })
		return nil, nil, false
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = b.Publish(ctx, "t", numbered(10)...) })
	eventually(t, "the request", asked.Load)
	for range 10 {
		running.Go(func() {
			if err := b.Publish(within(t, patience), "t", numbered(10)...); err != nil {
				t.Errorf("Publish() = %v, want nil though another caller has left", err)
			}
		})
	}
	cancel()
	close(let)
	running.Wait()
}

func TestWhatABrokerRefusesIsToldForEachMessage(t *testing.T) {
	t.Parallel()
	for code, want := range map[*kerr.Error]messaging.Reason{
		kerr.InvalidRecord:            messaging.ErrRefused,
		kerr.TopicAuthorizationFailed: messaging.ErrDenied,
		kerr.InvalidTopicException:    messaging.ErrInvalid,
	} {
		c := fake(t, kfake.SeedTopics(1, "t"))
		fails(c, code.Code, func(int) bool { return true })
		b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
		err := b.Publish(within(t, patience), "t", append(numbered(2), messaging.Message{})...)
		batch, ok := errors.AsType[*messaging.BatchError](err)
		if !ok || len(batch.Errs) != 3 || !errors.Is(batch.Errs[0], want) || !errors.Is(batch.Errs[1], want) || !errors.Is(batch.Errs[2], messaging.ErrInvalid) {
			t.Errorf("Publish() at %v = %v, want a BatchError with twice %v and ErrInvalid", code, err, want)
		}
	}
}

func TestAKeyGoesToThePartitionThatJavaClientsChoose(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(6, "t"))
	b := newBroker(t, kafka.Config{Seeds: c.ListenAddrs()})
	// What murmur2 of the Java client makes of them, by the tests of that client.
	want := map[string]int32{}
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		m := messaging.NewMessage("T", []byte(key))
		m.Key = key
		publish(t, b, "t", m)
		want[key] = hash & math.MaxInt32 % 6
	}
	cl := raw(t, c.ListenAddrs(), kgo.ConsumeTopics("t"))
	for n := 0; n < len(want); {
		cl.PollFetches(within(t, patience)).EachRecord(func(r *kgo.Record) {
			n++
			if r.Partition != want[string(r.Key)] {
				t.Errorf("key %.20s is in partition %d, want %d", r.Key, r.Partition, want[string(r.Key)])
			}
		})
	}
}
