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

// plan says what to measure and where to write the report.
type plan struct {
	variants []variant
	against  []string // the variants that others are compared with
	loads    []load
	conns    []int
	rounds   int
	idle     int // control connections for the memory measurement; 0 skips it
	timing   timing
	files    files
}

// files are the files to write besides standard output; an empty name skips one.
type files struct {
	json, chart     string
	summary, report string // pages with the lines pageBegin and pageEnd
}

// parsePlan reads the command line.
func parsePlan(args []string, stderr io.Writer) (p plan, err error) {
	flags := flag.NewFlagSet("e2e", flag.ContinueOnError)
	flags.SetOutput(stderr)
	programs, configs := assignments{}, assignments{}
	var (
		names    = flags.String("variants", "none,kernel,expect,entry", "variants to measure, separated by commas: none, kernel, expect, entry, conntrackd and the names in -program and -config")
		against  = flags.String("against", "kernel,none", "variants to form ratios to")
		loadList = flags.String("loads", "pasv,epsv,port,noop,bulk", "loads to measure")
		connList = flags.String("conns", "1,16,64", "numbers of control connections")
		size     = flags.Int("size", 1<<30, "bytes that the load bulk transfers")
	)
	flags.IntVar(&p.idle, "idle", 100_000, "idle control connections to measure the memory of ftpctd with; 0 skips that")
	flags.IntVar(&p.rounds, "rounds", 21, fmt.Sprintf("measurements of each variant and load; the load bulk is measured %d times as often", transfersPerRound))
	flags.DurationVar(&p.timing.duration, "time", 300*time.Millisecond, "duration of a measurement")
	p.timing.drain = patience
	flags.DurationVar(&p.timing.warmup, "warmup", 60*time.Millisecond, "warm-up before each measurement")
	flags.StringVar(&p.files.json, "json", "", "write all measurements to `FILE`")
	flags.StringVar(&p.files.chart, "chart", "", "write an SVG chart of the ratios to the first variant of -against to `FILE`")
	flags.StringVar(&p.files.summary, "summary", "", "replace the summary in `FILE`")
	flags.StringVar(&p.files.report, "report", "", "replace the report in `FILE`")
	flags.Var(programs, "program", "`NAME=FILE`: the ftpctd program of a variant, instead of one built from this tree")
	flags.Var(configs, "config", "`NAME=FILE`: the ftpctd configuration of a variant")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	if p.idle < 0 || p.idle > maxAbsent {
		return p, fmt.Errorf("-idle must be between 0 and %d", maxAbsent)
	}
	if flags.NArg() > 0 {
		return p, fmt.Errorf("unexpected argument %q", flags.Arg(0))
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
			return p, fmt.Errorf("-conns: %q is not a number of connections", s)
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

// checkFiles returns an error if the files of the plan cannot be written, before
// minutes are spent on measuring their contents.
func (p plan) checkFiles() error {
	if cycles, _ := p.keys(); p.files.chart != "" && (len(p.against) == 0 || len(cycles) == 0) {
		return errors.New("-chart needs a load of cycles and a variant to form ratios to: see -loads and -against")
	}
	for _, page := range []string{p.files.summary, p.files.report} {
		if page == "" {
			continue
		}
		text, err := os.ReadFile(page)
		if err == nil {
			_, err = replaceReport(text, nil)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
	}
	return nil
}

// assignments is a flag NAME=VALUE that can be repeated.
type assignments map[string]string

// String implements flag.Value.
func (a assignments) String() string { return "" }

// Set implements flag.Value.
func (a assignments) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" || value == "" {
		return errors.New("want NAME=FILE")
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
			return nil, fmt.Errorf("-variants: unknown variant %q: want none, kernel, expect, entry, conntrackd or a name in -program or -config", name)
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
			return nil, fmt.Errorf("-loads: unknown load %q: want pasv, epsv, port, noop or bulk", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// keys returns the keys of the measurements, in order: first the loads of cycles,
// then the bulk transfer, which loads the machine fully with one connection.
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

// run measures the memory, builds the testbeds, measures the loads and returns the
// results.
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
	// First, because its failure would discard minutes of measurements. One variant is
	// enough: the tracker's tables are the same in all admission modes.
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
	if err := r.measure(ctx, testbeds, transfer, p.rounds*transfersPerRound, progress); err != nil {
		return r, err
	}
	return r, nil
}

// transfersPerRound is the number of bulk transfers measured per round of cycles.
// Their rates vary more than those of cycles.
const transfersPerRound = 2

// measure measures the loads in keys on all testbeds, in rounds.
func (r *results) measure(ctx context.Context, testbeds []*testbed, keys []key, rounds int, progress io.Writer) error {
	p := r.plan
	for round := range rounds {
		for _, k := range keys {
			for i := range testbeds {
				// The variants take turns at being first, so that the after-effects of
				// a measurement reach all of them alike.
				tb := testbeds[(round+i)%len(testbeds)]
				if err := ctx.Err(); err != nil {
					return err
				}
				m, err := tb.measure(p.load(k.load), k.conns, p.timing)
				if err != nil {
					return err
				}
				m.Round = round
				fmt.Fprintf(progress, "round %d/%d %-4s %2d %-7s %9.1f/s  p50 %6.0f  p99 %6.0f µs  CPU per cycle %6.1f, daemon %5.1f µs\n",
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

// buildProgram builds ftpctd at path for the variants that run it without a
// -program.
func (p plan) buildProgram(ctx context.Context, path string) error {
	needed := false
	for i, v := range p.variants {
		if v.ftpctd && v.program == "" {
			p.variants[i].program, needed = path, true
		}
	}
	if !needed {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "ftpctd/cmd/ftpctd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build ftpctd: %w\n%s", err, out)
	}
	return nil
}
