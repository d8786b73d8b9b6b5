// Package gateway holds the tests of parley/gateway with clients and servers of
// other makers: grpc-go, and the WebSocket implementation of golang.org/x/net.
package gateway
