package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The lines of a page between which the report is.
const (
	pageBegin = "<!-- bench-e2e: begin, written by make bench-e2e -->\n"
	pageEnd   = "<!-- bench-e2e: end -->\n"
)

var errNoMarkers = errors.New("it lacks the lines\n" + pageBegin + pageEnd + "between which the report goes")

// summaryPage returns the page of the plan that shows the summary, updated.
func (r results) summaryPage() ([]byte, error) { return r.page(r.plan.files.summary, r.summary()) }

// reportPage returns the page of the plan that shows the full report, updated.
func (r results) reportPage() ([]byte, error) { return r.page(r.plan.files.report, r.markdown()) }

// page returns the page at path with another report, below the chart if the plan
// has one.
func (r results) page(path string, report []byte) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if chart := r.plan.files.chart; chart != "" {
		link, err := filepath.Rel(filepath.Dir(path), chart)
		if err != nil {
			return nil, err
		}
		report = fmt.Appendf(nil, "![%s](%s)\n\n%s", r.chartTitle(), filepath.ToSlash(link), report)
	}
	return replaceReport(text, report)
}

// replaceReport returns a page with another report.
func replaceReport(page, report []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(pageBegin))
	if !ok {
		return nil, errNoMarkers
	}
	_, after, ok := bytes.Cut(rest, []byte(pageEnd))
	if !ok {
		return nil, errNoMarkers
	}
	return slices.Concat(before, []byte(pageBegin), report, []byte(pageEnd), after), nil
}
