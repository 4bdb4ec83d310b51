package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// plan is what to measure and where to put the report.
type plan struct {
	variants []variant
	against  []string // the variants that others are compared with
	loads    []load
	conns    []int
	rounds   int
	idle     int // control connections to fill the daemon with; 0 for none
	timing   timing
	files    files
}

// files are those to write, beside standard output; none where the name is empty.
type files struct {
	json, chart, readme string
}

// parsePlan reads the command line.
func parsePlan(args []string, stderr io.Writer) (p plan, err error) {
	flags := flag.NewFlagSet("e2e", flag.ContinueOnError)
	flags.SetOutput(stderr)
	programs, configs := assignments{}, assignments{}
	var (
		names    = flags.String("variants", "none,kernel,expect,entry", "the variants to measure, separated by commas; those of -program and -config as well")
		against  = flags.String("against", "kernel,none", "the variants that ratios are formed to")
		loadList = flags.String("loads", "pasv,epsv,port,noop,bulk", "the loads")
		connList = flags.String("conns", "1,16,64", "numbers of control connections")
		size     = flags.Int("size", 1<<30, "bytes of the one transfer of the load bulk")
	)
	flags.IntVar(&p.idle, "idle", 100_000, "control connections with which to measure the memory of ftpctd; 0 for none")
	flags.IntVar(&p.rounds, "rounds", 21, fmt.Sprintf("how many times each variant is measured, and a transfer %d times as often", transfersARound))
	flags.DurationVar(&p.timing.duration, "time", 300*time.Millisecond, "how long each measurement takes")
	p.timing.drain = patience
	flags.DurationVar(&p.timing.warmup, "warmup", 60*time.Millisecond, "and what goes before it")
	flags.StringVar(&p.files.json, "json", "", "`FILE` for everything that was measured")
	flags.StringVar(&p.files.chart, "chart", "", "`FILE` for an image of the first ratios, SVG")
	flags.StringVar(&p.files.readme, "readme", "", "`FILE` in which to replace the report")
	flags.Var(programs, "program", "`NAME=FILE`: ftpctd to use in a variant, in place of one that is built")
	flags.Var(configs, "config", "`NAME=FILE`: the configuration of ftpctd in a variant")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	if p.idle < 0 || p.idle > maxAbsent {
		return p, fmt.Errorf("-idle must be between 0 and %d", maxAbsent)
	}
	if flags.NArg() > 0 {
		return p, fmt.Errorf("what is %q?", flags.Arg(0))
	}
	if p.rounds < 1 || p.timing.duration <= 0 || p.timing.warmup < 0 || *size < 1 {
		return p, errors.New("-rounds, -time and -size must be positive, and -warmup not negative")
	}
	if p.variants, err = chooseVariants(strings.Split(*names, ","), programs, configs); err != nil {
		return p, err
	}
	if p.loads, err = chooseLoads(strings.Split(*loadList, ","), *size); err != nil {
		return p, err
	}
	for s := range strings.SplitSeq(*connList, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return p, fmt.Errorf("-conns: %q is no number of connections", s)
		}
		p.conns = append(p.conns, n)
	}
	for name := range strings.SplitSeq(*against, ",") {
		if slices.ContainsFunc(p.variants, func(v variant) bool { return v.name == name }) {
			p.against = append(p.against, name)
		}
	}
	return p, p.checkFiles()
}

// checkFiles reports whether the files of the plan can be written, before anybody
// has waited minutes for what goes into them.
func (p plan) checkFiles() error {
	if cycles, _ := p.keys(); p.files.chart != "" && (len(p.against) == 0 || len(cycles) == 0) {
		return errors.New("-chart: it shows loads of cycles, and ratios to one of the variants: see -loads and -against")
	}
	if p.files.readme == "" {
		return nil
	}
	text, err := os.ReadFile(p.files.readme)
	if err == nil {
		_, err = replaceReport(text, nil)
	}
	if err != nil {
		return fmt.Errorf("-readme %s: %w", p.files.readme, err)
	}
	return nil
}

// assignments is a flag NAME=VALUE that may be given several times.
type assignments map[string]string

// String implements flag.Value.
func (a assignments) String() string { return "" }

// Set implements flag.Value.
func (a assignments) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" || value == "" {
		return errors.New("NAME=FILE is wanted")
	}
	a[name] = value
	return nil
}

// chooseVariants returns the variants with these names.
func chooseVariants(names []string, programs, configs assignments) (chosen []variant, err error) {
	for _, name := range names {
		v, known := builtIn(name)
		program, hasProgram := programs[name]
		config, hasConfig := configs[name]
		if !known && !hasProgram && !hasConfig {
			return nil, fmt.Errorf("-variants: what is %q? Without -program or -config there are none, kernel, expect, entry and conntrackd", name)
		}
		if !known {
			v = variant{name: name, title: name, ftpctd: true}
		}
		v.program = cmp.Or(program, v.program)
		if hasConfig {
			text, err := os.ReadFile(config)
			if err != nil {
				return nil, fmt.Errorf("-config %s: %w", name, err)
			}
			v.config = string(text)
		}
		chosen = append(chosen, v)
	}
	for _, a := range []assignments{programs, configs} {
		for name := range a {
			if i := slices.IndexFunc(chosen, func(v variant) bool { return v.name == name }); i < 0 || !chosen[i].ftpctd {
				return nil, fmt.Errorf("%s is not one of the -variants that run ftpctd", name)
			}
		}
	}
	return chosen, nil
}

// chooseLoads returns the loads with these names.
func chooseLoads(names []string, size int) (chosen []load, err error) {
	all := loads(size)
	for _, name := range names {
		i := slices.IndexFunc(all, func(l load) bool { return l.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-loads: what is %q? There are pasv, epsv, port, noop and bulk", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// keys returns what is measured, in order: the loads of cycles, and afterwards
// the one of a single transfer, which fills the machine alone.
func (p plan) keys() (cycles, transfer []key) {
	for _, l := range p.loads {
		if l.size > 0 {
			transfer = append(transfer, key{l.name, 1})
			continue
		}
		for _, n := range p.conns {
			cycles = append(cycles, key{l.name, n})
		}
	}
	return cycles, transfer
}

// run measures the memory, builds the testbeds, measures the loads and returns what
// came of it.
func (p plan) run(ctx context.Context, progress io.Writer) (r results, err error) {
	dir, err := os.MkdirTemp("", "ftpctd-bench-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := p.buildProgram(ctx, filepath.Join(dir, "ftpctd")); err != nil {
		return r, err
	}
	r = results{plan: p}
	if r.machine, err = thisMachine(); err != nil {
		return r, err
	}
	// Ahead of the minutes of measuring, which its failure would be the end of. One of
	// the variants is enough: the modes of admission keep the same books.
	if i := slices.IndexFunc(p.variants, func(v variant) bool { return v.ftpctd }); i >= 0 && p.idle > 0 {
		m, err := p.variants[i].fill(ctx, p.idle)
		if err != nil {
			return r, err
		}
		r.memory = &m
	}
	var testbeds []*testbed
	defer func() {
		for _, tb := range testbeds {
			err = errors.Join(err, tb.close())
		}
	}()
	for _, v := range p.variants {
		tb, err := v.build(ctx)
		if err != nil {
			return r, err
		}
		testbeds = append(testbeds, tb)
	}
	cycles, transfer := p.keys()
	if err := r.measure(ctx, testbeds, cycles, p.rounds, progress); err != nil {
		return r, err
	}
	if err := r.measure(ctx, testbeds, transfer, p.rounds*transfersARound, progress); err != nil {
		return r, err
	}
	return r, nil
}

// transfersARound is how many transfers are measured for each round of cycles: one
// takes as long as it takes, and that differs more.
const transfersARound = 2

// measure measures the loads in keys on all testbeds, in rounds.
func (r *results) measure(ctx context.Context, testbeds []*testbed, keys []key, rounds int, progress io.Writer) error {
	p := r.plan
	for round := range rounds {
		for _, k := range keys {
			for i := range testbeds {
				// Each variant is first in turn: whatever the one before leaves behind
				// falls upon all alike.
				tb := testbeds[(round+i)%len(testbeds)]
				if err := ctx.Err(); err != nil {
					return err
				}
				m, err := tb.measure(p.load(k.load), k.conns, p.timing)
				if err != nil {
					return err
				}
				m.Round = round
				fmt.Fprintf(progress, "round %d/%d %-4s %2d %-7s %9.1f/s  p50 %6.0f  p99 %6.0f µs  CPU a cycle %6.1f, daemon %5.1f µs\n",
					round+1, rounds, m.Load, m.Conns, m.Variant, rate(m), p50(m), p99(m), labCPU(m), daemonCPU(m))
				r.measurements = append(r.measurements, m)
			}
		}
	}
	return nil
}

func (p plan) load(name string) load {
	i := slices.IndexFunc(p.loads, func(l load) bool { return l.name == name })
	return p.loads[i]
}

// buildProgram builds ftpctd, at path, for the variants that run it and name no
// program of their own.
func (p plan) buildProgram(ctx context.Context, path string) error {
	wanted := false
	for i, v := range p.variants {
		if v.ftpctd && v.program == "" {
			p.variants[i].program, wanted = path, true
		}
	}
	if !wanted {
		return nil
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "ftpctd/cmd/ftpctd").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build ftpctd: %w\n%s", err, out)
	}
	return nil
}
