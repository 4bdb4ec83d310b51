package capture

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"time"
)

// pcapngMagic is the type of a section header block: a palindrome, so that it
// can be told before the byte order is known.
var pcapngMagic = [4]byte{0x0a, 0x0d, 0x0d, 0x0a}

// The blocks of a pcapng file that matter here (draft-ietf-opsawg-pcapng,
// section 4).
const (
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
	blockSection   = 0x0a0d0d0a

	byteOrderMagic = 0x1a2b3c4d

	blockOverhead = 12 // type, length, and the length again at the end
)

// The options of an interface description block that matter here.
const (
	optionEnd      = 0
	optionTSResol  = 9
	optionTSOffset = 14
)

// maxInterfaces bounds what the interface descriptions of a hostile file can
// make the reader remember.
const maxInterfaces = 1 << 16

var errShort = fmt.Errorf("%w: the block is too short for its content", ErrCorrupt)

// An ngInterface is what an interface description block says.
type ngInterface struct {
	link    linkType
	snaplen uint32
	units   uint64 // of a time stamp in a second
	offset  int64  // seconds to add to each time stamp
}

// time converts a time stamp of the interface.
func (i *ngInterface) time(stamp uint64) time.Time {
	hi, lo := bits.Mul64(stamp%i.units, uint64(time.Second))
	nanos, _ := bits.Div64(hi, lo, i.units)
	return time.Unix(int64(stamp/i.units)+i.offset, int64(nanos)).UTC()
}

// A pcapng reads the packet blocks of a pcapng file. What a block holds besides
// is skipped without being stored, however long the file says it is.
type pcapng struct {
	src    *source
	order  binary.ByteOrder // of the section
	ifaces []ngInterface    // of the section
	length uint32           // of the block under way
	rest   uint32           // bytes of its body not read yet
	buf    []byte
	head   [20]byte
}

func newPcapng(src *source) (*pcapng, error) {
	// The buffer is not nil, so that an empty frame is a frame as well.
	p := &pcapng{src: src, order: binary.LittleEndian, buf: make([]byte, 0, 2048)}
	_, err := p.open()
	if err == nil {
		err = p.close()
	}
	if err != nil {
		return nil, fmt.Errorf("pcapng section header: %w", err)
	}
	return p, nil
}

// next implements format.
func (p *pcapng) next() (record, error) {
	for {
		typ, err := p.open()
		if err != nil {
			return record{}, err
		}
		var rec record
		switch typ {
		case blockInterface:
			err = p.describe()
		case blockPacket, blockEnhanced:
			rec, err = p.packet(typ)
		case blockSimple:
			rec, err = p.simple()
		}
		if err == nil {
			err = p.close()
		}
		if err != nil {
			return record{}, err
		}
		if rec.data != nil {
			return rec, nil
		}
	}
}

// open reads the head of a block. A section header is read with its byte order,
// which holds for its own length already.
func (p *pcapng) open() (typ uint32, err error) {
	p.src.begin()
	h := p.head[:8]
	if err := p.src.full(h); err != nil {
		return 0, err
	}
	section := [4]byte(h) == pcapngMagic
	if section {
		if err := p.byteOrder(); err != nil {
			return 0, err
		}
	}
	p.length = p.order.Uint32(h[4:])
	if p.length < blockOverhead || p.length%4 != 0 {
		return 0, fmt.Errorf("%w: a block of %d bytes", ErrCorrupt, p.length)
	}
	p.rest = p.length - blockOverhead
	if !section {
		return p.order.Uint32(h), nil
	}
	if p.rest < 4 {
		return 0, errShort
	}
	p.rest -= 4
	return blockSection, p.section()
}

// byteOrder reads the byte-order magic of a section header, behind its length.
func (p *pcapng) byteOrder() error {
	magic := p.head[8:12]
	if err := p.src.full(magic); err != nil {
		return err
	}
	for _, p.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if p.order.Uint32(magic) == byteOrderMagic {
			return nil
		}
	}
	return fmt.Errorf("%w: byte-order magic %x", ErrCorrupt, magic)
}

// section begins a section. Interfaces of the one before do not count in it.
func (p *pcapng) section() error {
	b, err := p.body(4)
	if err != nil {
		return err
	}
	if major, minor := p.order.Uint16(b), p.order.Uint16(b[2:]); major != 1 {
		return fmt.Errorf("%w: pcapng version %d.%d, only 1.x is supported", ErrFormat, major, minor)
	}
	p.ifaces = p.ifaces[:0]
	return nil
}

// close reads to the end of the block, whose length stands there once more.
func (p *pcapng) close() error {
	if err := p.src.skip(int(p.rest)); err != nil {
		return err
	}
	b := p.head[:4]
	if err := p.src.full(b); err != nil {
		return err
	}
	if end := p.order.Uint32(b); end != p.length {
		return fmt.Errorf("%w: block lengths differ (%d and %d)", ErrCorrupt, p.length, end)
	}
	return nil
}

// body reads n bytes of the body of the block under way, at most len(p.head).
// They are valid until the next call.
func (p *pcapng) body(n uint32) ([]byte, error) {
	if n > p.rest {
		return nil, errShort
	}
	p.rest -= n
	b := p.head[:n]
	return b, p.src.full(b)
}

// describe reads an interface description block.
func (p *pcapng) describe() error {
	b, err := p.body(8)
	if err != nil {
		return err
	}
	if len(p.ifaces) == maxInterfaces {
		return fmt.Errorf("%w: more than %d interfaces", ErrCorrupt, maxInterfaces)
	}
	iface := ngInterface{
		link:    linkType(p.order.Uint16(b)),
		snaplen: p.order.Uint32(b[4:]),
		units:   1e6,
	}
	for p.rest > 0 {
		if b, err = p.body(4); err != nil {
			return err
		}
		code, length := p.order.Uint16(b), uint32(p.order.Uint16(b[2:]))
		if code == optionEnd {
			break
		}
		if err := p.option(&iface, code, length); err != nil {
			return err
		}
	}
	p.ifaces = append(p.ifaces, iface)
	return nil
}

// option reads the value of an option of an interface description and its
// padding to four bytes.
func (p *pcapng) option(iface *ngInterface, code uint16, length uint32) error {
	padded := (length + 3) &^ 3
	switch {
	case code == optionTSResol && length == 1:
		b, err := p.body(padded)
		if err != nil {
			return err
		}
		if iface.units, err = resolution(b[0]); err != nil {
			return err
		}
	case code == optionTSOffset && length == 8:
		b, err := p.body(padded)
		if err != nil {
			return err
		}
		iface.offset = int64(p.order.Uint64(b))
	case padded > p.rest:
		return errShort
	default:
		p.rest -= padded
		return p.src.skip(int(padded))
	}
	return nil
}

// resolution returns the time units in a second: a negative power of ten, or of
// two where the top bit is set.
func resolution(v byte) (uint64, error) {
	exp := v & 0x7f
	switch {
	case v&0x80 != 0 && exp < 64:
		return 1 << exp, nil
	case v&0x80 == 0 && exp < 20:
		units := uint64(1)
		for range exp {
			units *= 10
		}
		return units, nil
	}
	return 0, fmt.Errorf("%w: timestamp resolution %#02x", ErrCorrupt, v)
}

// packet reads an enhanced packet block, or the packet block it succeeded. They
// differ in the first four bytes: the obsolete one counts drops there.
func (p *pcapng) packet(typ uint32) (record, error) {
	b, err := p.body(20)
	if err != nil {
		return record{}, err
	}
	id := p.order.Uint32(b)
	if typ == blockPacket {
		id = uint32(p.order.Uint16(b))
	}
	iface, err := p.iface(id)
	if err != nil {
		return record{}, err
	}
	stamp := uint64(p.order.Uint32(b[4:]))<<32 | uint64(p.order.Uint32(b[8:]))
	return p.data(record{ts: iface.time(stamp), link: iface.link}, p.order.Uint32(b[12:]))
}

// simple reads a simple packet block: the length is the original one, the
// interface the first, and there is no time.
func (p *pcapng) simple() (record, error) {
	b, err := p.body(4)
	if err != nil {
		return record{}, err
	}
	iface, err := p.iface(0)
	if err != nil {
		return record{}, err
	}
	length := p.order.Uint32(b)
	if iface.snaplen != 0 {
		length = min(length, iface.snaplen)
	}
	return p.data(record{link: iface.link}, length)
}

// iface returns the interface that a packet names.
func (p *pcapng) iface(id uint32) (*ngInterface, error) {
	if int64(id) >= int64(len(p.ifaces)) {
		return nil, fmt.Errorf("%w: interface %d of %d", ErrCorrupt, id, len(p.ifaces))
	}
	return &p.ifaces[id], nil
}

// data completes a record with n bytes of captured data.
func (p *pcapng) data(rec record, n uint32) (record, error) {
	if n > p.rest {
		return record{}, errShort
	}
	var err error
	if p.buf, err = p.src.frame(p.buf, n); err != nil {
		return record{}, err
	}
	p.rest -= n
	rec.data = p.buf
	return rec, nil
}
