"""A client of Kafka in Python, for the tests.

client.py ADDRESS consume TOPIC COUNT    prints COUNT records of TOPIC, one JSON object a line
client.py ADDRESS produce TOPIC          publishes such objects from its input, prints the partition of each

Values, and those of headers, are base64 in JSON.
"""

import base64
import json
import sys

from kafka import KafkaConsumer, KafkaProducer, TopicPartition


def text(data):
    return None if data is None else base64.b64encode(data).decode()


def data(text):
    return None if text is None else base64.b64decode(text)


def consume(address, topic, count):
    # No group: it reads beside the groups of parley, from the beginning.
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False)
    partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    for record in consumer:
        print(json.dumps({
            "partition": record.partition,
            "key": text(record.key),
            "value": text(record.value),
            "headers": [[name, text(value)] for name, value in record.headers],
        }))
        count -= 1
        if count == 0:
            break
    consumer.close(autocommit=False)


def produce(address, topic):
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    sent = []
    for line in sys.stdin:
        record = json.loads(line)
        sent.append(producer.send(
            topic,
            key=data(record["key"]),
            value=data(record["value"]),
            headers=[(name, data(value)) for name, value in record["headers"]],
        ))
    producer.flush()
    for future in sent:
        print(future.get(timeout=30).partition)
    producer.close()


address, verb, topic = sys.argv[1:4]
if verb == "consume":
    consume(address, topic, int(sys.argv[4]))
else:
    produce(address, topic)
