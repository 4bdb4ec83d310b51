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
	for _, r := range rules() {
		p.rule(r)
	}
	if len(p.problems) > 0 {
		sortProblems(p.problems)
		return Config{}, &Error{File: file, Problems: p.problems}
	}
	return p.config, nil
}

// A schema is what a file may have.
type schema struct {
	keys   map[string]key
	tables map[string][]string // table name to the names in it, "" being the top level
}

func newSchema() schema {
	s := schema{keys: map[string]key{}, tables: map[string][]string{}}
	for _, k := range keys() {
		s.keys[k.name] = k
		table, name, inTable := strings.Cut(k.name, ".")
		if !inTable {
			table, name = "", k.name
		} else if _, known := s.tables[table]; !known {
			s.tables[""] = append(s.tables[""], table)
		}
		s.tables[table] = append(s.tables[table], name)
	}
	return s
}

// A parser makes a Config of a document.
type parser struct {
	doc      *document
	schema   schema
	config   Config
	offsets  map[string]int  // where the keys and tables met so far stand
	bad      map[string]bool // those with a problem
	problems []Problem
}

// entry takes an entry of the document. It goes down its path: a dotted key
// names tables that have no header, and what lies in a table that is not one or
// is not known has no meaning of its own.
func (p *parser) entry(e entry) {
	for i := range e.path {
		path := e.path[:i+1]
		name := keyName(path)
		if _, met := p.offsets[name]; !met {
			p.offsets[name] = e.offset
			p.fault(name, p.check(path, name))
		}
		if _, isTable := p.schema.tables[name]; !isTable || p.bad[name] {
			return
		}
	}
}

// check takes the value of a key, or makes sure that a table is one.
func (p *parser) check(path []string, name string) *fault {
	value := p.doc.value(path)
	if names, ok := p.schema.tables[name]; ok {
		if _, ok := value.(map[string]any); !ok {
			return wrongType(value, "a table with the keys "+strings.Join(names, ", "))
		}
		return nil
	}
	if k, ok := p.schema.keys[name]; ok {
		return k.set(&p.config, value)
	}
	parent := keyName(path[:len(path)-1])
	return &fault{"is unknown", strings.Join(p.schema.tables[parent], ", ")}
}

// rule checks a rule, unless one of its keys has a problem already.
func (p *parser) rule(r rule) {
	if slices.ContainsFunc(r.keys, func(name string) bool { return p.bad[name] }) {
		return
	}
	for _, name := range r.keys {
		if _, met := p.offsets[name]; met {
			p.fault(name, r.check(&p.config))
			return
		}
	}
}

// fault records a problem with a key that the document has.
func (p *parser) fault(name string, f *fault) {
	if f == nil {
		return
	}
	p.bad[name] = true
	line, column := p.doc.position(p.offsets[name])
	p.problems = append(p.problems, Problem{line, column, name, f.wrong, f.allowed})
}
