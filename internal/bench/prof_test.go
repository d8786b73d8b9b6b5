package main
import "testing"
func BenchmarkFirst(b *testing.B) {
	f := first(protected)
	for b.Loop() { f(5000) }
}
func BenchmarkFloor(b *testing.B) {
	f := first(newFloor)
	for b.Loop() { f(5000) }
}
