package config

import (
	"slices"
	"strings"
)

// Parse reads the text of a configuration file; file is its name in the error,
// which is an [*Error]. What the text does not set has its default.
func Parse(file string, text []byte) (Config, error) {
	doc, problem := parseDocument(text)
	if problem != nil {
		return Config{}, &Error{File: file, Problems: []Problem{*problem}}
	}
	p := parser{doc: doc, schema: newSchema(), config: Default(), offsets: map[string]int{}, bad: map[string]bool{}}
	for _, e := range doc.entries {
		p.entry(e)
	}
	for _, c := range constraints() {
		p.constraint(c)
	}
	if len(p.problems) > 0 {
		sortProblems(p.problems)
		return Config{}, &Error{File: file, Problems: p.problems}
	}
	return p.config, nil
}

// A parser fills a Config from a document.
type parser struct {
	doc      *document
	schema   schema
	config   Config
	offsets  map[string]int  // of the keys and tables met so far
	bad      map[string]bool // those with a problem
	problems []Problem
}

// entry checks an entry of the document, along its path: a dotted key names tables
// that have no header. The keys of a table that is unknown, or not a table, are not
// reported as well.
func (p *parser) entry(e entry) {
	for i := range e.path {
		path := e.path[:i+1]
		name := keyName(path)
		if _, met := p.offsets[name]; !met {
			p.offsets[name] = e.offset
			p.report(name, p.check(path, name))
		}
		if _, isTable := p.schema.tables[name]; !isTable || p.bad[name] {
			return
		}
	}
}

// check sets a key to its value, or checks that a table is one.
func (p *parser) check(path []string, name string) *violation {
	value := p.doc.value(path)
	if names, ok := p.schema.tables[name]; ok {
		if _, ok := value.(map[string]any); !ok {
			return &violation{typeOf(value), "a table with the keys " + strings.Join(names, ", ")}
		}
		return nil
	}
	if k, ok := p.schema.keys[name]; ok {
		return k.set(&p.config, value)
	}
	parent := keyName(path[:len(path)-1])
	return &violation{"is unknown", strings.Join(p.schema.tables[parent], ", ")}
}

// constraint checks a constraint, unless one of its keys has a problem already.
func (p *parser) constraint(c constraint) {
	if slices.ContainsFunc(c.keys, func(name string) bool { return p.bad[name] }) {
		return
	}
	for _, name := range c.keys {
		if _, met := p.offsets[name]; met {
			p.report(name, c.check(&p.config))
			return
		}
	}
}

// report records a violation, if there is one, of a key that the document has.
func (p *parser) report(name string, v *violation) {
	if v == nil {
		return
	}
	p.bad[name] = true
	line, column := p.doc.position(p.offsets[name])
	p.problems = append(p.problems, Problem{Line: line, Column: column, Key: name, Wrong: v.problem, Allowed: v.want})
}
