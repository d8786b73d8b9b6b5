package services

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Requests of Kafka's protocol (kafka.apache.org/protocol), and the versions of
// them that we speak. A broker answers version 0 of ApiVersions whatever its age.
const (
	kafkaMetadata           = 3
	kafkaMetadataVersion    = 1 // the first that can ask for no topic
	kafkaAPIVersions        = 18
	kafkaAPIVersionsVersion = 0
)

var errKafka = errors.New("the server does not speak Kafka's protocol")

// greetKafka asks what the broker speaks, and for the brokers that serve clients:
// while one starts, or has lost its controller, its port is open and it lists
// none. Kafka does not tell its version.
func greetKafka(conn io.ReadWriter) (version string, err error) {
	in := io.LimitReader(conn, maxGreeting)
	answer, err := askKafka(conn, in, kafkaAPIVersions, kafkaAPIVersionsVersion, nil)
	if err != nil {
		return "", err
	}
	if len(answer) < 6 { // an error code and the length of a list
		return "", errKafka
	}
	if code := binary.BigEndian.Uint16(answer); code != 0 {
		return "", fmt.Errorf("kafka answers ApiVersions with error %d", code)
	}
	noTopics := []byte{0, 0, 0, 0}
	answer, err = askKafka(conn, in, kafkaMetadata, kafkaMetadataVersion, noTopics)
	if err != nil {
		return "", err
	}
	if len(answer) < 4 {
		return "", errKafka
	}
	brokers, answer := binary.BigEndian.Uint32(answer), answer[4:]
	if brokers == 0 {
		return "", errors.New("kafka has no broker yet")
	}
	if len(answer) < 6 { // of the first broker its number, and the length of its host
		return "", errKafka
	}
	size := int(binary.BigEndian.Uint16(answer[4:]))
	if answer = answer[6:]; size > len(answer) {
		return "", errKafka
	}
	// Clients leave the address that they were given for the one that they are
	// told, which may be good only where the broker's other clients are.
	if host := string(answer[:size]); host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return "", fmt.Errorf("kafka sends its clients to %q, which is not loopback", host)
	}
	return "", nil
}

// askKafka sends a request and returns its answer without the header.
func askKafka(out io.Writer, in io.Reader, api, version uint16, body []byte) ([]byte, error) {
	const correlation = 1
	request := binary.BigEndian.AppendUint32(nil, uint32(10+len(body)))
	request = binary.BigEndian.AppendUint16(request, api)
	request = binary.BigEndian.AppendUint16(request, version)
	request = binary.BigEndian.AppendUint32(request, correlation)
	request = append(request, 0xFF, 0xFF) // no client id
	if _, err := out.Write(append(request, body...)); err != nil {
		return nil, err
	}
	var head [8]byte // size, correlation
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 4 || size > maxGreeting || binary.BigEndian.Uint32(head[4:]) != correlation {
		return nil, errKafka
	}
	answer := make([]byte, size-4)
	_, err := io.ReadFull(in, answer)
	return answer, err
}
