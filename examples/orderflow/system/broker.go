package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging"
	"github.com/parley-go/parley/messaging/kafka"
	"github.com/parley-go/parley/messaging/memory"
	"github.com/parley-go/parley/messaging/rabbitmq"
	"github.com/parley-go/parley/messaging/sqs"
)

// Brokers says what Config.Broker may be.
const Brokers = "memory, amqp://USER:SECRET@HOST:PORT/ or amqps://… of a RabbitMQ, kafka://HOST:PORT of a Kafka (commas between several), or " +
	"sqs://HOST:PORT of what speaks SQS over plain HTTP on loopback, such as ElasticMQ (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION if they are set)"

// openBroker returns the broker that cfg names. Its errors repeat no secret.
func openBroker(cfg Config) (messaging.Broker, error) {
	scheme, at, _ := strings.Cut(cfg.Broker, ":")
	at = strings.TrimSuffix(strings.TrimPrefix(at, "//"), "/")
	switch scheme {
	case "memory":
		return memory.New(memory.Config{})
	case "amqp", "amqps":
		return rabbitmq.New(rabbitmq.Config{URL: cfg.Broker, Logger: cfg.Logger})
	case "kafka":
		return kafka.New(kafka.Config{Seeds: strings.Split(at, ","), Logger: cfg.Logger})
	case "sqs":
		client, err := sqsAt(at)
		if err != nil {
			return nil, err
		}
		// What is idle when the flow stops holds it up for no longer than Wait.
		return sqs.New(sqs.Config{Client: client, Wait: time.Second, Logger: cfg.Logger})
	}
	return nil, errors.New("unknown broker: want " + Brokers)
}

// sqsAt returns a client of what speaks SQS over plain HTTP at hostport. That has to
// be on loopback, since whoever sees the requests could read the messages; a service
// that uses Amazon's makes its client with the SDK's own config package.
func sqsAt(hostport string) (*awssqs.Client, error) {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("sqs://%s is not on loopback: want sqs://127.0.0.1:PORT, where ElasticMQ or the like listens", hostport)
	}
	return awssqs.New(awssqs.Options{
		BaseEndpoint: aws.String("http://" + hostport),
		Region:       cmp.Or(os.Getenv("AWS_REGION"), "us-east-1"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{
				// On loopback anything will do, but something must be there to sign with.
				AccessKeyID:     cmp.Or(os.Getenv("AWS_ACCESS_KEY_ID"), "none"),
				SecretAccessKey: cmp.Or(os.Getenv("AWS_SECRET_ACCESS_KEY"), "none"),
				SessionToken:    os.Getenv("AWS_SESSION_TOKEN"),
			}, nil
		}),
	}), nil
}
