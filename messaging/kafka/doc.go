// Package kafka is a [messaging.Broker] on Apache Kafka. It prevents the ways in
// which messages get lost, doubled or stuck between a program and a cluster that
// are both correct: offsets committed past a record that failed, failures that
// come again only after a restart, a poisonous record that holds up its partition
// for ever, and rebalances in the middle of the work.
//
//	b, err := kafka.New(kafka.Config{Seeds: []string{"kafka-1:9092", "kafka-2:9092"}})
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
// It runs on franz-go. One client publishes, idempotently and with acks=all, so
// that what it sends again after a lost connection is stored once and in order. A
// message's Key is the record's key, and chooses the partition as Java clients do
// (murmur2). Publish waits for Kafka's answer; what many goroutines publish at one
// time goes out together.
//
// What Subscribe makes for topic T and group G, with names of which no two groups
// share one:
//
//	T                  the topic, of Config.Partitions
//	T.G.dlq            the group's dead letters: one partition, kept for ever
//	T.G.retry.<ms>     one topic for each retry delay; 0 is for what comes back at once
//
// The consumer group, by which tools find lag and offsets, is T.G; those who look at
// dead letters are T.G.dlq.readers. A '.' in G is written "--d", and a '-' before
// another '-' or a '.' is "--h". With [Config].Passive it makes nothing, and says
// what is missing and how to make it.
//
// The first Subscribe of a group commits the ends of all partitions before it is
// ready, so that the group receives what is published from then on. Partitions that
// are added to T later are read from their beginning.
//
// A process is one member of the group, however many of its subscribers share it,
// and partitions move between members cooperatively: those that stay go on
// meanwhile. Each partition has a goroutine that delivers in order. One whose
// subscriber does not take more is paused after 250ms, for which the others may wait
// with it once, until it has caught up; one in a retry topic whose first record is not
// due is paused at once. Nothing sleeps, and nothing else waits.
//
// What is committed of a partition is the low-water mark: the offset of the first
// record that is not settled. What is settled above it stands, as runs of offsets,
// in the metadata of the commit, and does not come again after a restart either.
// That is also how one dead letter is deleted and its neighbours are left.
//
// A message to be retried is published to the topic of its delay; only when Kafka
// has it, the original is done with. So are dead letters moved, and moved back.
//
// ID, Type, Source, Subject, Time and Key are headers of the CloudEvents binding for
// Kafka in binary mode (ce_id and so on), ContentType is content-type, and Headers
// are headers of their names. A message with ID, Type and Source is a CloudEvent
// 1.0, and says so in ce_specversion. This package's own headers are msg-attempt,
// msg-due and msg-wait. They count only in the topics of the group; whoever
// publishes to T cannot set them.
//
// Records of other programs are read with what they have: without ce_id, the ID is
// made of topic, partition and offset, and Time is the record's timestamp; the
// record's key is the Key; what is not text becomes text; headers whose names no
// [messaging.Message] can have are left out. Their retries and dead letters keep
// key, value and headers byte for byte, save headers whose names begin with msg-.
//
// # Guarantees
//
//   - Publish returns nil only for what all in-sync replicas have stored.
//   - A lost leader neither reorders nor doubles; a lost connection is no error while
//     the context lasts, and stores nothing twice.
//   - A broker that is down for longer than the client keeps a record, or refuses to be
//     dialled, is no error either: only a broker's own answer refuses a message for
//     good.
//   - An outage is two lines in the log, one when it begins and one when it ends,
//     however long it is.
//   - One caller who leaves takes nobody else's message along.
//   - Publish to a missing topic fails soon and for good; wrong credentials and
//     missing permissions are told at once.
//   - A key goes to the partition that Java clients choose.
//   - Nothing is committed past a record that fails. The commit advances only once
//     the prefix is done.
//   - What is released comes again in the same process, without a restart.
//   - Rebalances under load keep order by key and lose nothing; what was settled by
//     then does not come again.
//   - A handler that outlives a rebalance is cancelled, with cause
//     [messaging.ErrLost], and the group recovers.
//   - A stuck partition holds up no other. The members of a group share the work
//     evenly.
//   - A backlog is received without a pause for each fetch.
//   - A retry waits without holding up anything, and comes back no earlier than
//     asked, by the clocks of those who fail it and who receive it, for up to a year.
//   - A delivery is done with only after its retry or its dead letter is stored.
//   - A topic that is made anew is consumed from its beginning, and what is published
//     to it reaches it.
//   - A group that is moved by hand receives all from there, whatever metadata the
//     tool keeps.
//   - A group that Kafka has forgotten begins with the oldest that is there, rather
//     than miss what is new to it, unless Config.Passive is set.
//   - Passwords appear in no error and no log.
//
// Not guaranteed:
//
//   - That a message arrives once. After a crash what was settled in the last 100ms
//     comes again, and what was in hand. A crash between the two steps of a retry
//     makes two of it, with the same ID; an inbox such as idempotency.Inbox makes
//     that one effect.
//   - Order by Key for messages that are retried, released or redelivered, or while
//     partitions are added to the topic.
//   - That Redelivered tells all: of what a member that crashed had, Kafka knows only
//     that it was not committed, so all that was there by then is marked.
//   - That members share messages evenly where all have one Key, or that a message
//     without one goes to the freest process: within a group, Kafka deals in
//     partitions.
//   - That messages outlive the topic's retention, or a retry that of its own topic.
//   - That a topic that is deleted while it is subscribed is made again: the next
//     Subscribe does that, and those that are running go over to it. What is
//     published to it in the first moments may be passed over, by a commit of what
//     was settled in the one before.
//   - That a foreign record larger than Config.MaxPayload and 64 KiB can be moved:
//     it stays where it is, and is delivered again.
//   - That more than 4 KiB of metadata remembers what was settled out of order: some
//     thousand gaps. What does not fit comes again after a restart, and so does all
//     of it where offset.metadata.max.bytes is less.
//
// # Exactly once
//
// [Broker.Transact] consumes, processes and publishes in Kafka transactions:
// outputs, dead letters and the places of the group commit together or not at all,
// so that a read_committed reader sees the outputs of each message exactly once,
// through crashes, rebalances and restarts of brokers. Only what is in Kafka is
// exactly once; the handler itself may run again. It is a member of the same group
// as Subscribe, takes over its retry topics, and a service can move between the two
// without losing anything.
//
// # Defaults
//
// Six partitions let six processes share a group's work, and cost a broker little.
// The number of replicas is left to the cluster. Delays of 1s, 5s, 30s, 2m and 10m
// span a restart of what a handler depends on in few topics. 960 KiB of payload fit
// in Kafka's own limit of 1 MiB with all that a message may have beside it. A
// rebalance waits 15s for handlers: RebalanceTimeout is 30s. A member that dies
// without a word is missed after 45s, which is Kafka's own default. At most 64 MiB
// wait for the answer to a Publish, 1 MiB of records in each partition for a
// subscriber, beside what one fetch from each broker of the cluster has brought: 16 MiB,
// 4 MiB of a partition, as they are stored, and more only for one batch that is larger by
// itself. Texts and payloads of up to 1 KiB of records that follow each other lie in
// pieces of 3 KiB, which who keeps a part of one keeps whole: clone what is to stay. A
// partition stops 10,000 records past one that is not settled.
// What is settled is committed after 100ms.
//
// # Composition
//
// [messaging.Consumer] decides on attempts, backoff and dead letters; this package
// carries that out. Wrap Publish in a breaker or a retry policy only with care: it
// already waits for the cluster within its context.
//
// # Errors
//
// All are of package messaging: see [Broker.Publish], [Broker.Subscribe] and
// [Broker.Transact]. The text names Kafka's own reason. Settle returns
// [messaging.ErrLost] for a delivery whose partition is another member's by now.
//
// # Concurrency
//
// A Broker is safe for concurrent use. It owns its goroutines until Close. Subscribe
// calls OnReady and OnLost from the goroutine that called it, and deliver from one
// goroutine for each partition; when deliver ends such a goroutine by
// runtime.Goexit, what the subscriber has in hand comes again, and Subscribe returns
// an error. A settler may be used from any goroutine, and waits for the network only
// to store a retry or a dead letter.
package kafka
