// Package bench measures every stage of a packet's way through user space, from
// the line grammar to the bytes that go back to the kernel. It has benchmarks
// only:
//
//	go test -bench . ./bench
//
// BenchmarkYardstick measures other ways of reading the same lines in the same
// run, so that ratios can be told on any machine.
package bench
