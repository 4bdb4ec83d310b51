package main

import (
	"slices"
	"time"
)

// measurement is the result of one load on one variant in one round.
type measurement struct {
	Round   int    `json:"round"`
	Variant string `json:"variant"`
	Load    string `json:"load"`
	Conns   int    `json:"connections"`

	Cycles  int           `json:"cycles"`
	Elapsed time.Duration `json:"elapsed_ns"`
	P50     time.Duration `json:"p50_ns"` // latency of a cycle
	P99     time.Duration `json:"p99_ns"`
	// Machine, Lab and Daemon are the CPU times of usage.
	Machine time.Duration `json:"machine_cpu_ns"`
	Lab     time.Duration `json:"lab_cpu_ns"`
	Daemon  time.Duration `json:"daemon_cpu_ns"`
	// Blocked is the number of cycles that did not complete, Related the number of
	// packets that the firewall accepted as RELATED, and Data the number of data
	// connections, all including the warm-up.
	Blocked int `json:"blocked"`
	Related int `json:"related"`
	Data    int `json:"data_connections"`
}

// newMeasurement returns the measurement of the cycles between two readings. It
// sorts their latencies.
func newMeasurement(latencies []time.Duration, before, after usage) measurement {
	slices.Sort(latencies)
	return measurement{
		Cycles: len(latencies), Elapsed: after.at.Sub(before.at),
		P50: percentile(latencies, 50), P99: percentile(latencies, 99),
		Machine: after.machine - before.machine,
		Lab:     after.lab - before.lab,
		Daemon:  after.daemon - before.daemon,
	}
}

// key identifies measurements that are comparable with each other.
type key struct {
	load  string
	conns int
}

// The figures of a measurement. CPU times are per cycle, in µs.
func rate(m measurement) float64      { return float64(m.Cycles) / m.Elapsed.Seconds() }
func p50(m measurement) float64       { return micros(m.P50) }
func p99(m measurement) float64       { return micros(m.P99) }
func labCPU(m measurement) float64    { return micros(m.Lab) / float64(m.Cycles) }
func daemonCPU(m measurement) float64 { return micros(m.Daemon) / float64(m.Cycles) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// measurements are all measurements of a run.
type measurements []measurement

// quartiles returns the quartiles of a variant's figure over the rounds.
func (ms measurements) quartiles(k key, variant string, figure func(measurement) float64) quartiles {
	var values []float64
	for _, m := range ms {
		if m.is(k, variant) {
			values = append(values, figure(m))
		}
	}
	return quartilesOf(values)
}

// ratio returns the quartiles of a variant's figure divided by the base's in the same
// round. The two were measured within seconds of each other, so other load on the
// machine affected both.
func (ms measurements) ratio(k key, variant, base string, figure func(measurement) float64) quartiles {
	var values []float64
	for _, m := range ms {
		if !m.is(k, variant) {
			continue
		}
		i := slices.IndexFunc(ms, func(b measurement) bool { return b.Round == m.Round && b.is(k, base) })
		if i >= 0 {
			values = append(values, figure(m)/figure(ms[i]))
		}
	}
	return quartilesOf(values)
}

func (m measurement) is(k key, variant string) bool {
	return m.Load == k.load && m.Conns == k.conns && m.Variant == variant
}

// blocked returns the number of a variant's cycles that did not complete.
func (ms measurements) blocked(variant string) (n int) {
	for _, m := range ms {
		if m.Variant == variant {
			n += m.Blocked
		}
	}
	return n
}

// otherCPU returns the share of the machine's CPU time that neither a lab nor a daemon
// used: that of other processes and of kernel threads.
func (ms measurements) otherCPU() float64 {
	var lab, machine time.Duration
	for _, m := range ms {
		lab += m.Lab
		machine += m.Machine
	}
	return 1 - float64(lab)/float64(machine)
}
