// Package sqs is a [messaging.Broker] on Amazon SQS, and on SNS where one topic has
// many groups. It prevents the ways in which messages get lost, or come twice for no
// reason, between a program and a service that are both correct: entries of a batch
// that failed inside an answer of 200, messages that become visible again while they
// wait for a handler, receives that burn the attempts of healthy messages, a retry
// that lets a FIFO group overtake itself, and subscriptions that end in silence.
//
//	cfg, err := config.LoadDefaultConfig(ctx) // of aws-sdk-go-v2
//	…
//	b, err := sqs.New(sqs.Config{Client: awssqs.NewFromConfig(cfg), Topics: sns.NewFromConfig(cfg)})
//	if err != nil {
//		return err
//	}
//	defer b.Close(ctx)
//	c, err := messaging.NewConsumer(b, messaging.ConsumerConfig{})
//	if err != nil {
//		return err
//	}
//	c.Handle(messaging.Subscription{Topic: "orders", Group: "billing"}, charge)
//	err = c.Run(ctx)
//
// # How it works
//
// Each group has a queue of its own, and one for its dead letters. For topic T and
// group G it makes, with names of which no two groups share one:
//
//	T_to_G        the group's queue; after 1,000 receives SQS itself sets a message aside
//	T_to_G_dlq    its dead letters
//	T             the topic of SNS, where [Config].Topics is set
//
// In names, '_' is written "__" and '.' "_p"; a part too long for the 80 characters of
// SQS is cut, and ends in "_h" and a hash. FIFO queues and topics end in ".fifo". Queues
// keep messages for 14 days.
//
// With Topics, Publish sends to SNS, which copies to the queues of all groups;
// subscriptions are made with raw delivery, and those that others have made without it
// are read alike. Without Topics, Publish sends to each group's queue itself. It finds
// them by ListQueues, and asks again every 5 seconds, before it uses what it knows; a
// group that is new waits for longer than that before it is ready, so that no publisher
// misses it.
//
// Calls that come at one time share requests: a call that is alone goes out at once,
// and what comes while requests are under way gathers for the next, ten entries at
// most. That goes for sends, deletes and changes of visibility. SQS answers 200 though
// entries have failed; each gets its own outcome.
//
// A delivery is kept from others by its visibility, which the Consumer extends while it
// has the message, and the Broker while the message waits to be handed out. By the
// clock of this process its lease ends a little before the visibility does. Retry and
// Release change the visibility, in whole seconds, rounded up. SQS allows 12 hours
// from the receive; a longer Retry is sent again with the time it is due at, and put off
// by whoever receives it before. Delivery.Attempt is SQS's count of receives, less
// those of this process that were not handed out. A dead letter is sent to the dead
// letters with the reasons, and only then deleted.
//
// On FIFO queues the Key is the MessageGroupId, the ID where there is no Key; Source and
// ID together, as InboxID of [messaging.Delivery] has them, are the
// MessageDeduplicationId. What is not printable ASCII of up to 128 characters stands
// there as a hash. Of each Key one message at a time is handed out. When it comes again,
// those behind it are given back, so that it comes first.
//
// The body of a message is its payload, where SQS can carry it: text of the characters
// of XML 1.0. Else the attribute msg-encoding says base64, or empty. The attributes
// are those of the CloudEvent, in binary mode, with the names that the binding for Kafka
// has, for there is none for SQS: ce_specversion, ce_id, ce_source, ce_type, ce_subject,
// ce_time, ce_partitionkey and content-type, of those that are set. SQS takes ten
// attributes, so all headers stand in one, msg-headers, as a JSON object of strings, and
// in it what an attribute cannot carry.
//
// Messages of other programs are read with what they have: attributes of type String and
// Number become headers, those of type Binary are left out, and are kept in dead
// letters. A message without ce_id has the ID that SQS gave it, or SNS. A body that is a
// notification of SNS, without attributes beside it, is unwrapped. Nobody can tell it
// from one that only looks like that, so who chooses the whole body of such a message
// chooses its ID and its headers too, but neither its attempts nor when it is due.
//
// # Guarantees
//
//   - Publish returns nil only for what SQS, or SNS, has stored for all groups that have
//     subscribed. A batch reports exactly the messages that failed.
//   - A message over the limit fails before the network. Attributes count.
//   - Throttling, errors of the service and lost answers are ridden out while the context
//     lasts; wrong credentials are told at once, and repeat nothing secret.
//   - A handler that takes longer than the visibility is invoked once, and so are
//     prefetched messages that wait longer than that.
//   - Stopping gives unstarted messages back at once, and returns after the deletes were
//     answered.
//   - A retry comes back no earlier than asked, for up to 13 days. On FIFO queues a
//     retry is cut to the 12 hours that SQS can wait.
//   - A failed head blocks its own FIFO group only, and what is released keeps its order.
//   - A delivery is deleted only after its dead letter is stored. A dead letter is the
//     message byte for byte.
//   - OnLost is called each time receiving is interrupted. What was accepted stays
//     accepted. A deleted queue is made again.
//   - With Config.Passive nothing is made, and all that is missing is named in one error
//     that says how to make it.
//
// Not guaranteed:
//
//   - That a message arrives once. SQS delivers at least once; what is sent again after
//     a lost answer, or moved when a process ends between the two steps, comes twice with
//     the same ID. FIFO queues drop repeats within 5 minutes. An inbox such as
//     idempotency.Inbox makes it one effect.
//   - That a message which is published again on purpose, with the same Source and ID,
//     is stored by a FIFO queue within those 5 minutes, though Publish returns nil. Move
//     dead letters back with [messaging.Redrive], which is not affected.
//   - Any order of standard queues, which Promises says. Dead letters of them are read
//     oldest first among those at hand, up to 100.
//   - Order after a message of a FIFO group was dead-lettered: the others pass it.
//   - That a publisher whose FIFO message is [messaging.ErrRefused] keeps its order by
//     publishing it again.
//   - That Publish reaches all groups or none. When it fails, some may have the message.
//   - That a message survives 14 days in a queue, or more than 1,000 receives outside the
//     dead letters.
//   - That attempts are those of handlers alone: what another process received and gave
//     back without beginning counts here, and so does an answer that was lost.
//
// # Defaults
//
// A Visibility of 30s, which is SQS's own, is how long the messages of a killed process
// stay away; extending costs a request for ten messages every 10s. A Wait of 5s costs
// some 17,000 requests a day for an idle subscription, and lets it end within that time:
// a request that is given up would have SQS hand out messages to nobody. The
// MessageLimit of 256 KiB is what SNS, old queues and emulators take. The SDK's own
// repeats stay as the user's client has them; beyond them, requests are made again after
// 100ms, doubled up to 5s, a random part of it each time.
//
// # Permissions
//
// Of SQS: to publish without Topics, ListQueues, which is granted for all queues or none,
// and SendMessage; to subscribe, GetQueueUrl, GetQueueAttributes, ReceiveMessage,
// DeleteMessage, ChangeMessageVisibility, SendMessage on the dead letters, and on the
// queue for retries of more than 12 hours, ListQueues without Topics, and unless
// Config.Passive is set CreateQueue; to read dead letters and move them back,
// GetQueueUrl, ReceiveMessage, DeleteMessage, ChangeMessageVisibility, and SendMessage on
// both queues. Of SNS: to publish, ListTopics, by which alone a topic is found, and
// Publish; to subscribe, CreateTopic and Subscribe, and SetQueueAttributes of SQS, by
// which the queue admits the topic, or with Config.Passive ListTopics alone. A queue that
// has a policy keeps it.
//
// # Composition
//
// [messaging.Consumer] decides on attempts, backoff and dead letters; this package
// carries that out. Raise its Concurrency where handlers are quick: each waits for the
// answer to its delete, and deletes share requests. Wrap Publish in a retry policy only
// with care: it already tries again within its context.
//
// # Errors
//
// All are of package messaging: see [Broker.Publish] and [Broker.Subscribe]. The text
// has the code of the service and what it says, save for answers about credentials and
// signatures, which may repeat what was signed. Settle returns [messaging.ErrLost] for
// a delivery whose visibility has ended, by this process's clock or by SQS's word.
//
// # Concurrency
//
// A Broker is safe for concurrent use. It owns its goroutines until Close. Subscribe
// calls deliver, OnReady and OnLost from the goroutine that called it, one after the
// other. A settler may be used from any goroutine, and returns when SQS has answered.
package sqs
