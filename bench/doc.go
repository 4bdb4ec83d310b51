// Package bench measures each stage of a packet's path through user space, from
// parsing a line to the bytes that return to the kernel. It has benchmarks only:
//
//	go test -bench . ./bench
//
// BenchmarkPath, in the package of the daemon's engine, measures the stages together.
//
// BenchmarkYardstick parses the same lines by other means in the same run, so that
// ratios can be compared across machines.
package bench
