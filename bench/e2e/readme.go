package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The lines of a README between which the report is.
const (
	readmeBegin = "<!-- bench-e2e: begin, written by make bench-e2e -->\n"
	readmeEnd   = "<!-- bench-e2e: end -->\n"
)

var errNoMarkers = errors.New("it lacks the lines\n" + readmeBegin + readmeEnd + "between which the report goes")

// readme returns the README of the plan with this report, and the chart if there
// is one.
func (r results) readme() ([]byte, error) {
	f := r.plan.files
	text, err := os.ReadFile(f.readme)
	if err != nil {
		return nil, err
	}
	report := r.markdown()
	if f.chart != "" {
		path, err := filepath.Rel(filepath.Dir(f.readme), f.chart)
		if err != nil {
			return nil, err
		}
		report = fmt.Appendf(nil, "![%s](%s)\n\n%s", r.chartTitle(), filepath.ToSlash(path), report)
	}
	return replaceReport(text, report)
}

// replaceReport returns a README with another report.
func replaceReport(readme, report []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(readme, []byte(readmeBegin))
	if !ok {
		return nil, errNoMarkers
	}
	_, after, ok := bytes.Cut(rest, []byte(readmeEnd))
	if !ok {
		return nil, errNoMarkers
	}
	return slices.Concat(before, []byte(readmeBegin), report, []byte(readmeEnd), after), nil
}
