package sqs

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/parley-go/parley/internal/uuid"
)

// maxPollers bounds the requests for messages of one subscription that are under way.
// One is always; the others come while messages do.
const maxPollers = 8

// deadWindow is how many dead letters are fetched to find the oldest, since standard
// queues only tend to give them in order, and FIFO queues only those of one group. Few
// enough to leave some for other readers.
const deadWindow = 100

// poll receives until stop. A poller that is not the first ends when messages do.
func (in *intake) poll(first bool) {
	defer in.polls.Done()
	defer func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.pollers--
	}()
	ok := true
	for failures := 0; ; {
		n := in.reserve(first)
		if n == 0 {
			return
		}
		wait := in.broker.set.Wait
		if !first {
			wait = 0
		}
		got, err := in.receive(n, wait)
		if err == nil && in.sub.DeadLetters && len(got) > 0 {
			got = in.sortOut(got)
		}
		switch {
		case err != nil && (!first || isClosed(in.stop)):
			return // the first one will tell
		case err != nil:
			ok = false
			failures++
			in.tell(event{err: err})
			in.rest(backoff(failures))
		case !ok || len(got) > 0:
			ok, failures = true, 0
			in.tell(event{messages: got})
		}
		if !first && len(got) < n {
			return
		}
		if len(got) == maxEntries {
			in.help()
		}
	}
}

// rest waits for d, or until stop.
func (in *intake) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-in.stop:
	}
}

// help begins another poller, if there are messages and room for it.
func (in *intake) help() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pollers >= maxPollers || in.room == 0 || in.sub.DeadLetters || isClosed(in.stop) {
		return
	}
	in.pollers++
	in.polls.Add(1)
	in.broker.workers.Go(func() { in.poll(false) })
}

// reserve takes room for one request, waiting for some if wait is set. It returns 0
// when there is none, or nothing more is to be received.
func (in *intake) reserve(wait bool) int {
	for !isClosed(in.stop) {
		in.mu.Lock()
		n := min(in.room, maxEntries)
		if in.sub.DeadLetters && wait && (in.room < deadWindow || in.accepted >= in.sub.Prefetch) {
			n = 0 // the next window begins when the last one is handed out
		}
		in.room -= n
		in.mu.Unlock()
		if n > 0 || !wait {
			return n
		}
		select {
		case <-in.freed:
		case <-in.stop:
		}
	}
	return 0
}

// free gives room back.
func (in *intake) free(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.room += n
	if n > 0 {
		nudge(in.freed)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// receive asks for up to n messages, for which there is room.
func (in *intake) receive(n int, wait time.Duration) ([]*settler, error) {
	b := in.broker
	ctx, cancel := context.WithTimeoutCause(b.base, wait+answerTimeout, errSilent)
	defer cancel()
	req := &awssqs.ReceiveMessageInput{
		QueueUrl: aws.String(in.queue), MaxNumberOfMessages: int32(n), //nolint:gosec // at most 10
		WaitTimeSeconds: int32(wait / time.Second), VisibilityTimeout: int32(b.set.Visibility / time.Second), //nolint:gosec // at most 12 h
		MessageAttributeNames:       []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
	}
	if b.set.FIFO {
		// So that a repeat of the request, by the SDK, gets what the first one got.
		req.ReceiveRequestAttemptId = aws.String(uuid.V7())
	}
	began := time.Now()
	out, err := b.set.Client.ReceiveMessage(ctx, req)
	if err != nil {
		in.free(n)
		return nil, err
	}
	now, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !ok {
		now = time.Now()
	}
	got := make([]*settler, 0, len(out.Messages))
	var early []*settler
	in.mu.Lock()
	for i := range out.Messages {
		d := newReceived(&out.Messages[i])
		d.at = began
		s := newSettler(in, d)
		in.open[s] = struct{}{}
		if d.rest(now) > 0 && !in.sub.DeadLetters {
			early = append(early, s)
		} else {
			got = append(got, s)
		}
	}
	in.mu.Unlock()
	in.free(n - len(out.Messages))
	if early != nil {
		ctx, cancel := context.WithTimeout(b.base, releaseTimeout)
		defer cancel()
		in.putOff(ctx, early, now)
	}
	if !b.set.FIFO { // which has an order of its own
		bySent(got)
	}
	return got, nil
}

func bySent(all []*settler) {
	slices.SortStableFunc(all, func(a, b *settler) int { return a.d.sent.Compare(b.d.sent) })
}

// sortOut fetches what else there are of dead letters, as many as there is room for,
// and puts the oldest first.
func (in *intake) sortOut(got []*settler) []*settler {
	for {
		n := in.reserve(false)
		if n == 0 {
			break
		}
		more, err := in.receive(n, 0)     // readers hold a pause for the end
		if err != nil || len(more) == 0 { // an error comes again with the next request
			break
		}
		got = append(got, more...)
	}
	bySent(got)
	return got
}

// tell passes e on to run. What nobody takes is given back.
func (in *intake) tell(e event) {
	select {
	case in.events <- e:
	case <-in.gone:
		in.giveBack(e.messages)
	}
}
