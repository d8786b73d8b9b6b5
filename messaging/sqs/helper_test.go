package sqs_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/parley-go/parley/internal/services"
	"github.com/parley-go/parley/internal/services/need"
	"github.com/parley-go/parley/messaging/sqs"
	"github.com/parley-go/parley/messaging/sqs/internal/sqsfake"
)

const patience = 30 * time.Second

// serverURL returns the address of the SQS to test against.
func serverURL(t testing.TB) string {
	t.Helper()
	return need.Address(t, services.SQS())
}

// bothURL returns the address of a server that is SQS and SNS.
func bothURL(t testing.TB) string {
	t.Helper()
	url := os.Getenv("PARLEY_SNS_URL")
	if url == "" {
		t.Skip("PARLEY_SNS_URL is not set: there is no SNS to test against but the one of this package's tests")
	}
	return url
}

// settings returns what a client needs for the server at url.
func settings(url string) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(url),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
		}),
	}
}

func topics(url string) *sns.Client { return sns.NewFromConfig(settings(url)) }

func client(url string) *awssqs.Client { return awssqs.NewFromConfig(settings(url)) }

// over returns what a client needs for a fake server.
func over(t testing.TB, s *sqsfake.Server) aws.Config {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	cfg := settings(server.URL)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	cfg.HTTPClient = &http.Client{Transport: transport}
	return cfg
}

// fakeConfig returns a Config for a fake server.
func fakeConfig(t testing.TB, s *sqsfake.Server) sqs.Config {
	t.Helper()
	return sqs.Config{Client: awssqs.NewFromConfig(over(t, s))}
}

// newBroker returns a Broker that is closed when the test ends, on a server whose
// groups are found at once.
func newBroker(t testing.TB, c sqs.Config) *sqs.Broker {
	t.Helper()
	if c.Client == nil {
		c.Client = client(serverURL(t))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Wait == 0 {
		c.Wait = time.Second
	}
	b, err := sqs.New(c)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	sqs.SetFreshly(b, 100*time.Millisecond, time.Second)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	return b
}
