// Package report writes the events of the tracker as text, and as JSON lines, whose
// keys and words are part of the command's interface.
package report
