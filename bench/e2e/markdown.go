package main

import (
	"bytes"
	"fmt"
	"strings"
)

// markdown returns the full report.
func (r results) markdown() []byte {
	d := &document{results: r}
	cycles, transfer := r.plan.keys()
	if len(cycles) > 0 {
		d.throughput(cycles)
	}
	if len(transfer) > 0 {
		d.transfer(transfer)
	}
	if r.memory != nil {
		d.paragraph("### Memory")
		d.paragraph("%s", d.memoryUse())
	}
	if len(cycles) > 0 {
		d.latency(cycles)
		d.cpuTime(cycles)
	}
	return d.text.Bytes()
}

// summary returns the report for a reader in a hurry: one table, of the middle
// number of control connections.
func (r results) summary() []byte {
	d := &document{results: r}
	conns := r.plan.conns[len(r.plan.conns)/2]
	var keys []key
	for _, l := range r.plan.loads {
		if l.size == 0 {
			keys = append(keys, key{l.name, conns})
		}
	}
	if len(keys) > 0 {
		d.paragraph("Cycles per second with %s%s:", connections(conns), d.boldRatio())
		d.table("load", keys, r.plan.variants, func(k key) string { return d.plan.load(k.load).title }, d.rateCell)
		d.blocked()
	}
	d.paragraph("Medians of %d rounds, with the interquartile range of the ratios in parentheses. %s. %s",
		r.plan.rounds, d.where(), d.memoryUse())
	return d.text.Bytes()
}

// document is the report as it is written.
type document struct {
	results
	text bytes.Buffer
}

func (d *document) paragraph(format string, args ...any) {
	fmt.Fprintf(&d.text, "%s\n\n", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// throughput writes the tables of cycles per second.
func (d *document) throughput(keys []key) {
	p := d.plan
	d.paragraph("### Throughput")
	d.paragraph("Cycles per second%s:", d.boldRatio())
	d.cycleTable(keys, p.variants, d.rateCell)
	d.blocked()
	d.paragraph("Medians of %d rounds, with the interquartile range of the ratios in parentheses. "+
		"A cycle is a command, its reply and, except for NOOP, a data connection that is opened and closed. "+
		"%s. Other processes used %.0f %% of the CPU time.", p.rounds, d.where(), max(0, 100*d.measurements.otherCPU()))
	for _, base := range p.against[min(1, len(p.against)):] {
		d.paragraph("Cycles per second as a ratio to %s:", p.title(base))
		d.cycleTable(keys, without(p.variants, base), func(k key, v variant) string {
			return ratioText(d.measurements.ratio(k, v.name, base, rate))
		})
	}
}

// boldRatio completes a table's caption: its ratios are to the first base.
func (d *document) boldRatio() string {
	if len(d.plan.against) == 0 {
		return ""
	}
	return ", and in bold the ratio to " + d.plan.title(d.plan.against[0])
}

// rateCell is the cycles per second of a variant and their ratio to the first
// base.
func (d *document) rateCell(k key, v variant) string {
	cell := number(d.measurements.quartiles(k, v.name, rate).Median)
	if a := d.plan.against; len(a) > 0 && v.name != a[0] {
		cell += " " + ratioText(d.measurements.ratio(k, v.name, a[0], rate))
	}
	return cell
}

// blocked warns of the variants with cycles that did not complete.
func (d *document) blocked() {
	for _, v := range d.plan.variants {
		if n := d.measurements.blocked(v.name); n > 0 {
			d.paragraph("**%s: %d cycles did not complete.**", v.title, n)
		}
	}
}

// where names the machine and the day.
func (d *document) where() string {
	m := d.machine
	return fmt.Sprintf("Client, router and server share one machine: Linux %s, %d × %s, %s",
		m.Kernel, m.CPUs, m.CPU, m.Begun.Format("2006-01-02"))
}

// memoryUse is a sentence, or empty if memory was not measured.
func (d *document) memoryUse() string {
	m := d.memory
	if m == nil {
		return ""
	}
	return fmt.Sprintf("With %s idle control connections the daemon uses %s MiB of memory (RSS), %s MiB more than with none.",
		number(float64(m.Connections)), mebibytes(m.Filled), mebibytes(m.Filled-m.Idle))
}

// transfer writes the table of the bulk transfer. Its ratios are to the last base:
// the router without a helper.
func (d *document) transfer(keys []key) {
	p := d.plan
	base, bold := "", ""
	if n := len(p.against); n > 0 {
		base = p.against[n-1]
		bold = ", and in bold the ratio to " + p.title(base)
	}
	d.paragraph("### Bulk transfer")
	d.paragraph("Gigabytes per second on a data connection that carries %s, medians of %d transfers%s:",
		p.load(keys[0].load).title, p.rounds*transfersPerRound, bold)
	d.cycleTable(keys, p.variants, func(k key, v variant) string {
		size := float64(p.load(k.load).size)
		cell := number(size * d.measurements.quartiles(k, v.name, rate).Median / 1e9)
		if base != "" && v.name != base {
			cell += " " + ratioText(d.measurements.ratio(k, v.name, base, rate))
		}
		return cell
	})
}

func (d *document) latency(keys []key) {
	d.paragraph("### Latency")
	d.paragraph("Latency of a cycle in µs, median / 99th percentile:")
	d.cycleTable(keys, d.plan.variants, func(k key, v variant) string {
		return number(d.measurements.quartiles(k, v.name, p50).Median) + " / " + number(d.measurements.quartiles(k, v.name, p99).Median)
	})
}

func (d *document) cpuTime(keys []key) {
	p := d.plan
	d.paragraph("### CPU time")
	d.paragraph("CPU time per cycle in µs, of client, router and server together%s; then the daemon's part. "+
		"That includes work of the kernel: on a verdict, the daemon's thread carries the packet on through the network stack.", d.boldRatio())
	d.cycleTable(keys, p.variants, func(k key, v variant) string {
		cell := number(d.measurements.quartiles(k, v.name, labCPU).Median)
		if len(p.against) > 0 && v.name != p.against[0] {
			cell += " " + ratioText(d.measurements.ratio(k, v.name, p.against[0], labCPU))
		}
		if v.ftpctd || v.conntrackd {
			cell += ", daemon " + number(d.measurements.quartiles(k, v.name, daemonCPU).Median)
		}
		return cell
	})
}

// cycleTable writes a table with a row for each load and number of connections.
func (d *document) cycleTable(keys []key, variants []variant, cell func(key, variant) string) {
	d.table("load | connections", keys, variants, func(k key) string {
		return fmt.Sprintf("%s | %d", d.plan.load(k.load).title, k.conns)
	}, cell)
}

// table writes a table with a row for each key and a column for each variant. The
// first of the leading columns, which head names and lead fills, is text.
func (d *document) table(head string, keys []key, variants []variant, lead func(key) string, cell func(key, variant) string) {
	fmt.Fprintf(&d.text, "| %s |", head)
	for _, v := range variants {
		fmt.Fprintf(&d.text, " %s |", v.title)
	}
	numeric := strings.Count(head, "|") + len(variants)
	fmt.Fprintf(&d.text, "\n|---|%s\n", strings.Repeat("--:|", numeric))
	for _, k := range keys {
		fmt.Fprintf(&d.text, "| %s |", lead(k))
		for _, v := range variants {
			fmt.Fprintf(&d.text, " %s |", cell(k, v))
		}
		fmt.Fprintln(&d.text)
	}
	fmt.Fprintln(&d.text)
}

// connections writes a number of control connections.
func connections(n int) string {
	if n == 1 {
		return "1 control connection"
	}
	return fmt.Sprintf("%d control connections", n)
}

// ratioText writes a ratio and its interquartile range.
func ratioText(q quartiles) string {
	return fmt.Sprintf("**%.2f** (%.2f–%.2f)", q.Median, q.Lower, q.Upper)
}

// number writes three significant digits, or all digits of the integer part, with
// commas between thousands.
func number(f float64) string {
	switch {
	case f < 9.995:
		return fmt.Sprintf("%.2f", f)
	case f < 99.95:
		return fmt.Sprintf("%.1f", f)
	}
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func mebibytes(bytes int) string { return number(float64(bytes) / (1 << 20)) }

// title returns a variant's name in the report.
func (p plan) title(name string) string {
	for _, v := range p.variants {
		if v.name == name {
			return v.title
		}
	}
	return name
}

func without(variants []variant, name string) (others []variant) {
	for _, v := range variants {
		if v.name != name {
			others = append(others, v)
		}
	}
	return others
}
