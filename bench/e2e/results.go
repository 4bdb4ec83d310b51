package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// results is what came of a plan.
type results struct {
	plan         plan
	measurements measurements
}

// markdown writes the report.
func (r results) markdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	r.table(out, "Cycles a second, the median of the rounds:", r.plan.variants, func(k key, v variant) string {
		return number(r.measurements.spread(k, v.name, rate).Median)
	})
	for _, base := range r.plan.against {
		title := fmt.Sprintf("Cycles a second divided by those of %s in the same round, median and middle half:", r.plan.title(base))
		r.table(out, title, without(r.plan.variants, base), func(k key, v variant) string {
			s := r.measurements.ratio(k, v.name, base)
			return fmt.Sprintf("**%.2f** (%.2f–%.2f)", s.Median, s.Lower, s.Upper)
		})
	}
	r.table(out, "Latency of a cycle, 50 % / 99 %, in µs:", r.plan.variants, func(k key, v variant) string {
		return number(r.measurements.spread(k, v.name, p50).Median) + " / " + number(r.measurements.spread(k, v.name, p99).Median)
	})
	r.table(out, "CPU time of a cycle in µs, client and server included, and of that the daemon's:", r.plan.variants, func(k key, v variant) string {
		s := number(r.measurements.spread(k, v.name, labCPU).Median)
		if v.ftpctd {
			s += " / " + number(r.measurements.spread(k, v.name, daemonCPU).Median)
		}
		return s
	})
	return out.Flush()
}

// table writes a table with a row for each load and a column for each variant.
func (r results) table(w io.Writer, title string, variants []variant, cell func(key, variant) string) {
	fmt.Fprintf(w, "%s\n\n| load | connections |", title)
	for _, v := range variants {
		fmt.Fprintf(w, " %s |", v.title)
	}
	fmt.Fprintf(w, "\n|---|--:|%s\n", strings.Repeat("--:|", len(variants)))
	for _, k := range r.plan.keys() {
		fmt.Fprintf(w, "| %s | %d |", r.plan.load(k.load).title, k.conns)
		for _, v := range variants {
			fmt.Fprintf(w, " %s |", cell(k, v))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

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

// number writes three significant digits, and a blank between thousands.
func number(f float64) string {
	switch {
	case f < 10:
		return fmt.Sprintf("%.2f", f)
	case f < 100:
		return fmt.Sprintf("%.1f", f)
	case f < 10000:
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%d,%03d", int(f+0.5)/1000, int(f+0.5)%1000)
}
