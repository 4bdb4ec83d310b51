package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing wrong with a file.
type Problem struct {
	// Line and Column are its position, counted from 1, the column in bytes.
	Line, Column int
	// Key is the full name of the key, such as passive.ports. It is empty
	// where the file is not TOML.
	Key string
	// Wrong is the problem itself.
	Wrong string
	// Allowed describes the values that the key accepts. It is empty where the file is
	// not TOML.
	Allowed string
}

// String returns the problem as "line:column: key: problem; allowed: values".
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d: ", p.Line, p.Column)
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Wrong)
	if p.Allowed != "" {
		b.WriteString("; allowed: " + p.Allowed)
	}
	return b.String()
}

// An Error is a file with problems.
type Error struct {
	// File is the name of the file.
	File string
	// Problems are its problems, at least one, in the order of the file.
	Problems []Problem
}

// Error implements error. It is one line per problem, each beginning with the name of
// the file.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ":" + p.String()
	}
	return strings.Join(lines, "\n")
}

// sortProblems sorts problems by position.
func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
