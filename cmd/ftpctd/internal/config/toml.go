package config

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// An entry is a key or the header of a table, with its offset in the file.
type entry struct {
	path   []string
	offset int
}

// A document is a TOML file: its values, and their positions.
type document struct {
	text    []byte
	values  map[string]any
	entries []entry // in the order of the file
}

// parseDocument parses TOML. A text that is not TOML has one problem: what follows it
// cannot be trusted.
func parseDocument(text []byte) (*document, *Problem) {
	d := &document{text: text}
	d.scan()
	err := toml.Unmarshal(text, &d.values)
	if err == nil {
		return d, nil
	}
	p := &Problem{Wrong: strings.TrimPrefix(err.Error(), "toml: ")}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		p.Line, p.Column = at.Position()
	} else {
		p.Line, p.Column = d.position(d.conflict())
	}
	return nil, p
}

// scan lists the entries, up to the first error of syntax.
func (d *document) scan() {
	var p unstable.Parser
	p.Reset(d.text)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.KeyValue {
			d.add(table, e)
			continue
		}
		table = d.add(nil, e)
	}
}

// add lists a node under its table, and the nodes inside an inline table. It returns
// the full path of the node.
func (d *document) add(table []string, node *unstable.Node) []string {
	path := slices.Clone(table)
	key := node.Key()
	offset := -1
	for key.Next() {
		if offset < 0 {
			offset = int(key.Node().Raw.Offset)
		}
		path = append(path, string(key.Node().Data))
	}
	d.entries = append(d.entries, entry{path, offset})
	if node.Kind == unstable.KeyValue && node.Value().Kind == unstable.InlineTable {
		for children := node.Value().Children(); children.Next(); {
			d.add(path, children.Node())
		}
	}
	return path
}

// conflict returns the offset of the entry that contradicts one before it, such as a
// key set twice. The decoder finds it, but does not report where: it is the first
// entry up to whose end the text is invalid.
func (d *document) conflict() int {
	for i, e := range d.entries {
		end := len(d.text)
		if i+1 < len(d.entries) {
			next := d.entries[i+1].offset
			end = 1 + bytes.LastIndexByte(d.text[:next], '\n')
		}
		var values map[string]any
		var syntax *toml.DecodeError
		if err := toml.Unmarshal(d.text[:end], &values); err != nil && !errors.As(err, &syntax) {
			return e.offset
		}
	}
	return 0
}

// value returns the value at a path, or nil.
func (d *document) value(path []string) any {
	var v any = d.values
	for _, part := range path {
		table, _ := v.(map[string]any)
		v = table[part]
	}
	return v
}

// position returns the line and the column of an offset, counted from 1.
func (d *document) position(offset int) (line, column int) {
	before := d.text[:offset]
	return 1 + bytes.Count(before, []byte{'\n'}), offset - bytes.LastIndexByte(before, '\n')
}

// keyName formats a path as in the file, with quotes where they are needed.
func keyName(path []string) string {
	parts := make([]string, len(path))
	for i, part := range path {
		parts[i] = part
		if part == "" || strings.ContainsFunc(part, func(r rune) bool { return !plain(r) }) {
			parts[i] = strconv.Quote(part)
		}
	}
	return strings.Join(parts, ".")
}

// plain reports whether r needs no quotes in a key.
func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}
