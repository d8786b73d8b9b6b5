// Package sqsfake serves as much of the protocols of SQS and SNS as the tests of
// package sqs use, with faults that no real server makes on demand. Its time is that of
// package time, so it runs in a testing/synctest bubble.
package sqsfake

import (
	"crypto/md5" //nolint:gosec // the protocol's own
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Server is SQS and SNS of one account. Its zero value is ready for use.
type Server struct {
	mu      sync.Mutex
	fault   func(op string, before int) *Fault // guarded by mu
	queues  map[string]*queue                  // guarded by mu
	topics  map[string]*topic                  // guarded by mu
	count   map[string]int                     // guarded by mu
	log     []Request                          // guarded by mu
	changed chan struct{}                      // guarded by mu; closed at each change
	ids     int                                // guarded by mu
}

// A Request is one that was made.
type Request struct {
	Op      string
	Entries int
	At      time.Time
}

// A Fault is what is to go wrong with a request.
type Fault struct {
	// Status, Code and Text are the answer in place of carrying it out.
	Status     int
	Code, Text string
	// Lose carries the request out and cuts the connection in place of an answer.
	Lose bool
	// Fail names entries of a batch, by their position, that fail with a code. One
	// that begins with "Sender" is the sender's fault.
	Fail map[int]string
}

// Break has f asked about each request from now on, by its operation and how many of
// that have come since. Nil lets it pass.
func (s *Server) Break(f func(op string, before int) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.count = f, nil
}

// Requests returns how many requests of an operation were made, since Break if that
// was called.
func (s *Server) Requests(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[op]
}

// Log returns all requests that were made.
func (s *Server) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Len returns how many messages a queue holds, or -1 when it does not exist.
func (s *Server) Len(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[name]
	if q == nil {
		return -1
	}
	return len(q.messages)
}

// Names returns the names of all queues, sorted.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.queues {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// An apiError is an answer that refuses a request.
type apiError struct {
	status     int
	code, text string
}

func refuse(code, format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if target, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS."); ok {
		var in map[string]any
		// All of it, since an answer that comes before the end breaks the client's pipe.
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		entries, _ := in["Entries"].([]any)
		f := s.enter(target, len(entries))
		out, refusal := s.answer(f, func() (any, *apiError) { return s.queueOp(r, target, in, f) })
		reply(w, f, out, refusal)
		return
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	op := r.Form.Get("Action")
	f := s.enter(op, len(members(r.Form, "PublishBatchRequestEntries.member")))
	out, refusal := s.answer(f, func() (any, *apiError) { return s.topicOp(op, r.Form, f) })
	replyXML(w, f, op, out, refusal)
}

// enter counts a request, and returns what is to go wrong with it.
func (s *Server) enter(op string, entries int) *Fault {
	s.mu.Lock()
	if s.queues == nil {
		s.queues, s.topics, s.changed = map[string]*queue{}, map[string]*topic{}, make(chan struct{})
	}
	if s.count == nil {
		s.count = map[string]int{}
	}
	before := s.count[op]
	s.count[op]++
	s.log = append(s.log, Request{op, entries, time.Now()})
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(op, before)
}

func (s *Server) answer(f *Fault, do func() (any, *apiError)) (any, *apiError) {
	if f != nil && f.Status != 0 {
		return nil, &apiError{f.Status, f.Code, f.Text}
	}
	return do()
}

func reply(w http.ResponseWriter, f *Fault, out any, refusal *apiError) {
	if f != nil && f.Lose {
		panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's own way to cut a connection
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	if refusal != nil {
		w.Header().Set("X-Amzn-Query-Error", refusal.code+";Sender")
		w.WriteHeader(refusal.status)
		out = map[string]string{"__type": "com.amazonaws.sqs#" + refusal.code, "message": refusal.text}
	}
	if out == nil {
		out = struct{}{}
	}
	_ = json.NewEncoder(w).Encode(out)
}

// change tells all who wait. s.mu is held.
func (s *Server) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) nextID() string {
	s.ids++
	return fmt.Sprintf("00000000-0000-0000-0000-%012d", s.ids)
}

func sum(text string) string {
	h := md5.Sum([]byte(text)) //nolint:gosec // the protocol's own
	return hex.EncodeToString(h[:])
}

func text(in map[string]any, name string) string {
	v, _ := in[name].(string)
	return v
}

func number(in map[string]any, name string, otherwise int) int {
	if v, ok := in[name].(float64); ok {
		return int(v)
	}
	return otherwise
}

// queueOp carries out an operation of SQS.
func (s *Server) queueOp(r *http.Request, op string, in map[string]any, f *Fault) (any, *apiError) {
	if op == "ReceiveMessage" {
		return s.receive(r, in)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case "CreateQueue":
		return s.create(r.Host, text(in, "QueueName"), in)
	case "ListQueues":
		var urls []string
		for name := range s.queues {
			if strings.HasPrefix(name, text(in, "QueueNamePrefix")) {
				urls = append(urls, urlOf(r.Host, name))
			}
		}
		slices.Sort(urls)
		from, _ := strconv.Atoi(text(in, "NextToken"))
		to := min(from+number(in, "MaxResults", 1000), len(urls))
		out := map[string]any{"QueueUrls": urls[from:to]}
		if to < len(urls) {
			out["NextToken"] = strconv.Itoa(to)
		}
		return out, nil
	case "GetQueueUrl":
		if s.queues[text(in, "QueueName")] != nil {
			return map[string]string{"QueueUrl": urlOf(r.Host, text(in, "QueueName"))}, nil
		}
		return nil, refuse("QueueDoesNotExist", "The specified queue does not exist.")
	}
	url := text(in, "QueueUrl")
	name := url[strings.LastIndexByte(url, '/')+1:]
	q := s.queues[name]
	if q == nil {
		return nil, refuse("QueueDoesNotExist", "The specified queue does not exist.")
	}
	switch op {
	case "GetQueueAttributes":
		return map[string]any{"Attributes": q.attributes}, nil
	case "SetQueueAttributes":
		for name, v := range in["Attributes"].(map[string]any) {
			q.attributes[name], _ = v.(string)
		}
		return nil, nil
	case "DeleteQueue":
		delete(s.queues, name)
		s.change()
		return nil, nil
	}
	return s.batch(q, op, in, f)
}

func urlOf(host, name string) string { return "http://" + host + "/000000000000/" + name }

func (s *Server) create(host, name string, in map[string]any) (any, *apiError) {
	if len(name) > 80 || strings.ContainsFunc(strings.TrimSuffix(name, ".fifo"), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) {
		return nil, refuse("InvalidParameterValue", "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	given, _ := in["Attributes"].(map[string]any)
	if q := s.queues[name]; q != nil {
		for n, v := range given {
			if q.attributes[n] != v {
				return nil, refuse("QueueAlreadyExists", "A queue already exists with the same name and a different value for attribute %s", n)
			}
		}
		return map[string]string{"QueueUrl": urlOf(host, name)}, nil
	}
	q := &queue{fifo: strings.HasSuffix(name, ".fifo"), attributes: map[string]string{
		"QueueArn": "arn:aws:sqs:us-east-1:000000000000:" + name, "CreatedTimestamp": strconv.FormatInt(time.Now().Unix(), 10),
		"MaximumMessageSize": "262144",
	}}
	for n, v := range given {
		q.attributes[n], _ = v.(string)
	}
	s.queues[name] = q
	return map[string]string{"QueueUrl": urlOf(host, name)}, nil
}

// batch carries out what has entries.
func (s *Server) batch(q *queue, op string, in map[string]any, f *Fault) (any, *apiError) {
	do := map[string]func(map[string]any) (map[string]any, *apiError){
		"SendMessage": q.send(s), "DeleteMessage": q.delete, "ChangeMessageVisibility": q.stay,
		"SendMessageBatch": q.send(s), "DeleteMessageBatch": q.delete, "ChangeMessageVisibilityBatch": q.stay,
	}[op]
	if do == nil {
		return nil, refuse("InvalidAction", "%s is not known", op)
	}
	defer s.change()
	if !strings.HasSuffix(op, "Batch") {
		return do(in)
	}
	entries, _ := in["Entries"].([]any)
	if len(entries) == 0 || len(entries) > 10 {
		return nil, refuse("TooManyEntriesInBatchRequest", "%d entries", len(entries))
	}
	if limit, _ := strconv.Atoi(q.attributes["MaximumMessageSize"]); op == "SendMessageBatch" && sizeOf(entries) > limit {
		return nil, refuse("BatchRequestTooLong", "Batch requests cannot be longer than %d bytes", limit)
	}
	done, failed := []any{}, []any{}
	for i, e := range entries {
		entry, _ := e.(map[string]any)
		id := text(entry, "Id")
		if f != nil && f.Fail[i] != "" {
			failed = append(failed, map[string]any{"Id": id, "Code": f.Fail[i], "Message": "by request", "SenderFault": strings.HasPrefix(f.Fail[i], "Sender")})
			continue
		}
		out, refusal := do(entry)
		if refusal != nil {
			failed = append(failed, map[string]any{"Id": id, "Code": refusal.code, "Message": refusal.text, "SenderFault": true})
			continue
		}
		out["Id"] = id
		done = append(done, out)
	}
	return map[string]any{"Successful": done, "Failed": failed}, nil
}
