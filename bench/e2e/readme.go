package main

import (
	"bytes"
	"errors"
	"fmt"
)

// The lines of a README between which the report stands.
const (
	readmeBegin = "<!-- bench-e2e: begin, written by make bench-e2e -->\n"
	readmeEnd   = "<!-- bench-e2e: end -->\n"
)

var errNoMarkers = errors.New("it lacks the lines\n" + readmeBegin + readmeEnd + "between which the report goes")

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
	return fmt.Appendf(nil, "%s%s%s%s%s", before, readmeBegin, report, readmeEnd, after), nil
}
