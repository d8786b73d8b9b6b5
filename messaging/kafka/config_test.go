package kafka_test

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parley-go/parley/messaging/kafka"
)

func TestNewReportsAllFaultsOnOneLine(t *testing.T) {
	_, err := kafka.New(kafka.Config{
		Seeds: []string{"nowhere"}, SASL: kafka.SASL{Mechanism: "GSSAPI", User: "me"}, Partitions: -1, ReplicationFactor: 101, MaxPayload: 1 << 30,
		RetryDelays: append(make([]time.Duration, 16), 48*time.Hour), RebalanceTimeout: time.Millisecond,
	})
	for _, want := range []string{
		`Seeds entry "nowhere" is not of the form host:port`, `SASL.Mechanism "GSSAPI" is none of PLAIN`, "SASL needs both a User and a Password",
		"Partitions -1 is outside 1..10000", "ReplicationFactor 101 is outside 1..100", "MaxPayload 1073741824 is outside", "RetryDelays has 17 entries, more than 16",
		"RetryDelays entry 0s is outside 1ms..24h0m0s", "RetryDelays entry 48h0m0s", "RebalanceTimeout 1ms is outside 1s..10m",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New() = %v, want it to say %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("New() = %q, want one line", err)
	}
	if _, err := kafka.New(kafka.Config{}); err == nil || !strings.Contains(err.Error(), "Seeds is empty") {
		t.Errorf("New() of nothing = %v, want it to ask for Seeds", err)
	}
	if _, err := kafka.New(kafka.Config{Seeds: []string{"a:1"}, SASL: kafka.SASL{Mechanism: kafka.Plain}}); err == nil {
		t.Error("New() with a mechanism for nobody = nil, want an error")
	}
}

func TestNewTakesEveryMechanismAndLeavesTheConfigAsItIs(t *testing.T) {
	for _, mechanism := range []string{"", kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512} {
		conf := kafka.Config{Seeds: []string{"127.0.0.1:1"}, TLS: new(tls.Config), SASL: kafka.SASL{Mechanism: mechanism, User: "u", Password: "p"}}
		newBroker(t, conf)
		if conf.TLS.MinVersion != 0 || conf.SASL.Mechanism != mechanism {
			t.Errorf("New() changed its argument to %+v", conf)
		}
	}
}

func TestPasswordsAppearInNoTextOfTheConfig(t *testing.T) {
	conf := kafka.Config{Seeds: []string{"nowhere"}, SASL: kafka.SASL{User: "me", Password: "secret"}}
	_, err := kafka.New(conf)
	for _, text := range []string{fmt.Sprint(conf), fmt.Sprintf("%+v", conf), fmt.Sprintf("%#v", conf), fmt.Sprint(err)} {
		if strings.Contains(text, "secret") {
			t.Errorf("the password stands in %s", text)
		}
	}
}
