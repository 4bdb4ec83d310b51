package main

import (
	"bytes"
	"fmt"
	"strings"
)

// markdown returns the report.
func (r results) markdown() []byte {
	d := &document{results: r}
	cycles, transfer := r.plan.keys()
	if len(cycles) > 0 {
		d.rates(cycles)
	}
	if len(transfer) > 0 {
		d.transfer(transfer)
	}
	if m := r.memory; m != nil {
		d.paragraph("With %s idle control connections the daemon takes %s MiB of memory (RSS), %s MiB more than with none.",
			number(float64(m.Connections)), mebibytes(m.Filled), mebibytes(m.Filled-m.Idle))
	}
	if len(cycles) > 0 {
		d.details(cycles)
	}
	return d.text.Bytes()
}

// document is the report as it is written.
type document struct {
	results
	text bytes.Buffer
}

func (d *document) paragraph(format string, args ...any) {
	fmt.Fprintf(&d.text, format+"\n\n", args...)
}

// rates writes the table of cycles a second.
func (d *document) rates(keys []key) {
	p := d.plan
	if len(p.against) == 0 {
		d.paragraph("Cycles a second:")
	} else {
		d.paragraph("Cycles a second, and in bold the share of what %s does:", p.title(p.against[0]))
	}
	d.table(keys, p.variants, func(k key, v variant) string {
		cell := number(d.measurements.quartiles(k, v.name, rate).Median)
		if len(p.against) > 0 && v.name != p.against[0] {
			cell += " " + share(d.measurements.ratio(k, v.name, p.against[0], rate))
		}
		return cell
	})
	for _, v := range p.variants {
		if n := d.measurements.blocked(v.name); n > 0 {
			d.paragraph("**%s: %d cycles did not end.**", v.title, n)
		}
	}
	m := d.machine
	d.paragraph("Medians of %d rounds; in parentheses the middle half of the shares. A cycle is a command, its reply and, "+
		"but for NOOP, a data connection that is opened and closed. Client, router and server share the machine: "+
		"Linux %s, %d × %s, %s. Other processes took %.0f %% of the CPU time that was used meanwhile.",
		p.rounds, m.Kernel, m.CPUs, m.CPU, m.Begun.Format("2006-01-02"), max(0, 100*d.measurements.otherCPU()))
}

// transfer writes the table of the one transfer. Ratios are to the last base: the
// router without a helper.
func (d *document) transfer(keys []key) {
	p := d.plan
	base, bold := "", ""
	if n := len(p.against); n > 0 {
		base = p.against[n-1]
		bold = fmt.Sprintf(", and in bold the share of what %s does", p.title(base))
	}
	d.paragraph("Gigabytes a second on a data connection that carries %s, medians of %d transfers%s:",
		p.load(keys[0].load).title, p.rounds*transfersARound, bold)
	d.table(keys, p.variants, func(k key, v variant) string {
		size := float64(p.load(k.load).size)
		cell := number(size * d.measurements.quartiles(k, v.name, rate).Median / 1e9)
		if base != "" && v.name != base {
			cell += " " + share(d.measurements.ratio(k, v.name, base, rate))
		}
		return cell
	})
}

// details writes the tables that few will want to see.
func (d *document) details(keys []key) {
	p := d.plan
	d.paragraph("<details><summary>Latency, CPU time and other ratios</summary>")
	for _, base := range p.against[min(1, len(p.against)):] {
		d.paragraph("Cycles a second as a share of what %s does:", p.title(base))
		d.table(keys, without(p.variants, base), func(k key, v variant) string {
			return share(d.measurements.ratio(k, v.name, base, rate))
		})
	}
	d.paragraph("Latency of a cycle in µs, median / 99th percentile:")
	d.table(keys, p.variants, func(k key, v variant) string {
		return number(d.measurements.quartiles(k, v.name, p50).Median) + " / " + number(d.measurements.quartiles(k, v.name, p99).Median)
	})
	d.paragraph("CPU time of a cycle in µs, of all that is part of it: client, router and server; " +
		"of that in the daemon, which is more than its own: with the verdict it carries the packet further on its way.")
	d.table(keys, p.variants, func(k key, v variant) string {
		cell := number(d.measurements.quartiles(k, v.name, labCPU).Median)
		if len(p.against) > 0 && v.name != p.against[0] {
			cell += " " + share(d.measurements.ratio(k, v.name, p.against[0], labCPU))
		}
		if v.ftpctd || v.conntrackd {
			cell += ", daemon " + number(d.measurements.quartiles(k, v.name, daemonCPU).Median)
		}
		return cell
	})
	d.paragraph("</details>")
}

// table writes a table with a row for each key and a column for each variant.
func (d *document) table(keys []key, variants []variant, cell func(key, variant) string) {
	fmt.Fprint(&d.text, "| load | connections |")
	for _, v := range variants {
		fmt.Fprintf(&d.text, " %s |", v.title)
	}
	fmt.Fprintf(&d.text, "\n|---|--:|%s\n", strings.Repeat("--:|", len(variants)))
	for _, k := range keys {
		fmt.Fprintf(&d.text, "| %s | %d |", d.plan.load(k.load).title, k.conns)
		for _, v := range variants {
			fmt.Fprintf(&d.text, " %s |", cell(k, v))
		}
		fmt.Fprintln(&d.text)
	}
	fmt.Fprintln(&d.text)
}

// share writes a ratio and its middle half.
func share(q quartiles) string {
	return fmt.Sprintf("**%.2f** (%.2f–%.2f)", q.Median, q.Lower, q.Upper)
}

// number writes three digits, or as many as there are before the point, with
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

// title returns what a variant is called in the report.
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
