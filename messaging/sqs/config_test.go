package sqs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/messaging/sqs"
)

func TestNewReportsEveryFaultOnOneLine(t *testing.T) {
	t.Parallel()
	_, err := sqs.New(sqs.Config{Prefix: "under_score", Visibility: 1500 * time.Millisecond, Wait: -time.Second, MessageLimit: 1})
	if err == nil {
		t.Fatal("New() = nil, want an error")
	}
	for _, want := range []string{"sqs: config: ", "Client is nil", `Prefix "under_score"`, "Visibility 1.5s", "Wait -1s", "MessageLimit 1 "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New() = %v, which does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("New() = %q, want one line", err)
	}
}

// The SDK says so with the first request only, as it tells of a lost connection.
func TestAClientWithoutARegionIsToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := sqs.New(sqs.Config{Client: awssqs.NewFromConfig(aws.Config{}), Topics: sns.NewFromConfig(aws.Config{})})
	if got := fmt.Sprint(err); !strings.Contains(got, "Client has no region") || !strings.Contains(got, "Topics has no region") {
		t.Errorf("New() = %v, want the clients that have no region", err)
	}
}

func TestMessagesThatSNSCarriesAreLimitedToItsSize(t *testing.T) {
	t.Parallel()
	cfg := settings("http://127.0.0.1:1")
	if _, err := sqs.New(sqs.Config{Client: unreachable(), Topics: topicsOf(cfg), MessageLimit: 1 << 20}); err == nil {
		t.Error("New() with Topics and a MessageLimit of 1 MiB = nil, want an error")
	}
	b, err := sqs.New(sqs.Config{Client: unreachable(), MessageLimit: 1 << 20})
	if err != nil {
		t.Fatalf("New() with a MessageLimit of 1 MiB = %v, want nil", err)
	}
	if got := b.Promises().MaxPayload; got < 700<<10 || got > 1<<20 {
		t.Errorf("MaxPayload = %d, want what 1 MiB has room for in base64", got)
	}
}
