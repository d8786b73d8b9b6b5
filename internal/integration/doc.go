// Package integration holds the tests that need drivers or other modules that
// no user of parley should have to require. The tests of an adapter stand beside
// the adapter.
package integration
