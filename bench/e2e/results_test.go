package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s; if this is intended, run go test with -update (-want +got):\n%s", path, diff)
	}
}

// sample returns results in which the kernel does 10,000 cycles per second in each
// round, and the other variants a share of that which differs between rounds.
func sample(t *testing.T, args ...string) results {
	t.Helper()
	p, err := parsePlan(append([]string{"-rounds", "3", "-loads", "pasv,noop,bulk", "-conns", "1,16", "-size", "1048576"}, args...), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	r := results{
		plan: p,
		machine: machine{
			Kernel: "6.12.0", CPU: "Example <1>", CPUs: 2, Begun: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
		},
		memory: &memory{Variant: "expect", Connections: 100_000, Idle: 16 << 20, Filled: 64 << 20},
	}
	shares := map[string][]float64{
		"none": {1.1, 1.2, 1.1}, "kernel": {1, 1, 1}, "expect": {0.9, 0.8, 0.95}, "entry": {0.5, 0.5, 0.6},
	}
	cycles, transfer := p.keys()
	for _, k := range append(cycles, transfer...) {
		for round := range p.rounds {
			for _, v := range p.variants {
				m := measurement{
					Round: round, Variant: v.name, Load: k.load, Conns: k.conns,
					Cycles: int(10_000 * shares[v.name][round]), Elapsed: time.Second,
					P50: 100 * time.Microsecond, P99: 1234 * time.Microsecond,
					Machine: 2 * time.Second, Lab: 1500 * time.Millisecond,
				}
				if v.ftpctd {
					m.Daemon = 100 * time.Millisecond
				}
				if k.load == "bulk" {
					m.Cycles, m.Elapsed = 1, time.Duration(float64(time.Millisecond)/shares[v.name][round])
				}
				r.measurements = append(r.measurements, m)
			}
		}
	}
	return r
}

func TestMarkdown(t *testing.T) {
	blocked := sample(t, "-loads", "pasv", "-conns", "1")
	blocked.measurements[2].Blocked = 3
	for _, tt := range []struct {
		file    string
		results results
	}{
		{"report.md", sample(t)},
		{"alone.md", sample(t, "-variants", "expect", "-loads", "noop", "-conns", "16")},
		{"blocked.md", blocked},
	} {
		t.Run(tt.file, func(t *testing.T) { golden(t, tt.file, tt.results.markdown()) })
	}
}

func TestSummary(t *testing.T) {
	withoutMemory := sample(t, "-variants", "expect", "-loads", "noop", "-conns", "1")
	withoutMemory.memory = nil
	blocked := sample(t, "-loads", "pasv")
	blocked.measurements[2].Blocked = 3
	for _, tt := range []struct {
		file    string
		results results
	}{
		{"summary.md", sample(t)},
		{"summary-alone.md", withoutMemory},
		{"summary-blocked.md", blocked},
		{"summary-bulk.md", sample(t, "-loads", "bulk")},
	} {
		t.Run(tt.file, func(t *testing.T) { golden(t, tt.file, tt.results.summary()) })
	}
}

func TestChart(t *testing.T) {
	svg, err := sample(t).chart()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "chart.svg", svg)
}

func TestRatio(t *testing.T) {
	at := func(round int, variant string, cycles int) measurement {
		return measurement{Round: round, Variant: variant, Load: "pasv", Conns: 1, Cycles: cycles, Elapsed: time.Second}
	}
	// The machine was half as fast in the second round; that cancels out.
	ms := measurements{
		at(0, "kernel", 1000), at(0, "expect", 750),
		at(1, "expect", 250), at(1, "kernel", 500),
		at(2, "kernel", 1000), at(2, "expect", 1000),
		at(3, "expect", 1), // without its pair
	}
	got := ms.ratio(key{"pasv", 1}, "expect", "kernel", rate)
	if diff := cmp.Diff(quartiles{Median: 0.75, Lower: 0.625, Upper: 0.875}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		f    float64
		want string
	}{
		{0, "0.00"},
		{0.666, "0.67"},
		{9.994, "9.99"},
		{9.996, "10.0"},
		{99.96, "100"},
		{999.6, "1,000"},
		{1234567.8, "1,234,568"},
	} {
		if got := number(tt.f); got != tt.want {
			t.Errorf("number(%v) = %q, want %q", tt.f, got, tt.want)
		}
	}
}

// TestWrite checks the files of a plan.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	summary, report := filepath.Join(dir, "README.md"), filepath.Join(dir, "bench", "README.md")
	chart, raw := filepath.Join(dir, "bench", "chart.svg"), filepath.Join(dir, "raw.json")
	if err := os.Mkdir(filepath.Join(dir, "bench"), 0o755); err != nil {
		t.Fatal(err)
	}
	const before, after = "# Title\n\n" + pageBegin, pageEnd + "\n## Next\n"
	for _, page := range []string{summary, report} {
		if err := os.WriteFile(page, []byte(before+"an older report\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := sample(t, "-summary", summary, "-report", report, "-json", raw, "-chart", chart)
	if err := r.write(t.Output()); err != nil {
		t.Fatal(err)
	}

	for _, page := range []struct{ path, chart, text string }{
		{path: summary, chart: "bench/chart.svg", text: string(r.summary())},
		{path: report, chart: "chart.svg", text: string(r.markdown())},
	} {
		got, err := os.ReadFile(page.path)
		if err != nil {
			t.Fatal(err)
		}
		image := "![Cycles per second as a ratio to nf_conntrack_ftp](" + page.chart + ")\n\n"
		if diff := cmp.Diff(before+image+page.text+after, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", page.path, diff)
		}
	}
	text, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	var back struct{ Measurements measurements }
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.measurements, back.Measurements); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(chart); err != nil {
		t.Error(err)
	}
}
