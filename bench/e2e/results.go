package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// results are the results of a plan.
type results struct {
	plan         plan
	machine      machine
	measurements measurements
	memory       *memory // nil if not measured
}

// machine is the machine and the time of the measurements.
type machine struct {
	Kernel string    `json:"kernel"`
	CPU    string    `json:"cpu"`
	CPUs   int       `json:"cpus"`
	Begun  time.Time `json:"begun"`
}

func thisMachine() (m machine, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	return machine{
		Kernel: unix.ByteSliceToString(u.Release[:]), CPU: modelName(text), CPUs: runtime.NumCPU(), Begun: time.Now(),
	}, err
}

// modelName returns the name of the first CPU in /proc/cpuinfo, or the architecture
// where there is none.
func modelName(cpuinfo []byte) string {
	for line := range bytes.Lines(cpuinfo) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(name)) == "model name" {
			return string(bytes.TrimSpace(value))
		}
	}
	return runtime.GOARCH
}

// write writes the report to stdout, and the files of the plan.
func (r results) write(stdout io.Writer) error {
	if _, err := stdout.Write(r.markdown()); err != nil {
		return err
	}
	for _, out := range []struct {
		path    string
		content func() ([]byte, error)
	}{
		{r.plan.files.json, r.json},
		{r.plan.files.chart, r.chart},
		{r.plan.files.summary, r.summaryPage},
		{r.plan.files.report, r.reportPage},
	} {
		if out.path == "" {
			continue
		}
		content, err := out.content()
		if err == nil {
			err = os.WriteFile(out.path, content, 0o644)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", out.path, err)
		}
	}
	return nil
}

// json returns all measurements.
func (r results) json() ([]byte, error) {
	text, err := json.MarshalIndent(struct {
		Machine      machine      `json:"machine"`
		Rounds       int          `json:"rounds"`
		Measurements measurements `json:"measurements"`
		Memory       *memory      `json:"memory,omitempty"`
	}{r.machine, r.plan.rounds, r.measurements, r.memory}, "", "\t")
	return append(text, '\n'), err
}
