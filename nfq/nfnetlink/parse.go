package nfnetlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// typeMask clears NLA_F_NESTED and NLA_F_NET_BYTEORDER in the type of an
// attribute.
const typeMask = 0x3fff

// The errors of [Attributes.Err].
var (
	// ErrMessage is of a message that is too short for struct nfgenmsg.
	ErrMessage = errors.New("truncated message")
	// ErrAttribute is of an attribute that goes beyond what holds it, or whose value
	// has not the size of what was asked for.
	ErrAttribute = errors.New("malformed attribute")
)

// Message is one netlink message.
type Message struct {
	Type uint16
	Seq  uint32
	// Body follows struct nlmsghdr. It is borrowed from the datagram.
	Body []byte
}

// NextMessage cuts the first message off a datagram. ok is false if there is no
// whole one.
func NextMessage(datagram []byte) (m Message, rest []byte, ok bool) {
	if len(datagram) < headerLen {
		return Message{}, nil, false
	}
	n := binary.NativeEndian.Uint32(datagram)
	if n < headerLen || uint64(n) > uint64(len(datagram)) {
		return Message{}, nil, false
	}
	m = Message{
		Type: binary.NativeEndian.Uint16(datagram[4:]),
		Seq:  binary.NativeEndian.Uint32(datagram[8:]),
		Body: datagram[headerLen:n],
	}
	return m, datagram[min(int(n+3)&^3, len(datagram)):], true
}

// Errno returns the error number of an NLMSG_ERROR message (struct nlmsgerr), which
// is 0 for an ACK. ok is false if m is no such message.
func (m Message) Errno() (errno unix.Errno, ok bool) {
	if m.Type != unix.NLMSG_ERROR || len(m.Body) < 4 {
		return 0, false
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Body))), true
}

// Attributes returns the attributes behind struct nfgenmsg in the body of a
// message.
func (m Message) Attributes() Attributes {
	if len(m.Body) < GenmsgLen {
		return Attributes{err: ErrMessage}
	}
	return ParseAttributes(m.Body[GenmsgLen:])
}

// Attributes reads attributes one after the other:
//
//	a := nfnetlink.ParseAttributes(b)
//	for a.Next() {
//		switch a.Type() {
//		case typ:
//			v = a.Uint32()
//		}
//	}
//	return a.Err()
//
// The first error ends the loop.
type Attributes struct {
	rest  []byte
	typ   uint16
	value []byte
	err   error
}

// ParseAttributes returns the attributes in b.
func ParseAttributes(b []byte) Attributes { return Attributes{rest: b} }

// Next goes on to the next attribute. It returns false at the end, and after an
// error.
func (a *Attributes) Next() bool {
	if len(a.rest) == 0 || a.err != nil {
		return false
	}
	n := 0
	if len(a.rest) >= attrLen {
		n = int(binary.NativeEndian.Uint16(a.rest))
	}
	if n < attrLen || n > len(a.rest) {
		a.err = ErrAttribute
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) & typeMask
	a.value = a.rest[attrLen:n]
	a.rest = a.rest[min((n+3)&^3, len(a.rest)):]
	return true
}

// Err returns the first error.
func (a *Attributes) Err() error { return a.err }

// Type returns the type of the attribute, without its flags.
func (a *Attributes) Type() uint16 { return a.typ }

// Bytes returns the value of the attribute, borrowed and without padding.
func (a *Attributes) Bytes() []byte { return a.value }

// Uint8 returns a value of one byte.
func (a *Attributes) Uint8() uint8 {
	if !a.sized(1) {
		return 0
	}
	return a.value[0]
}

// Uint16 returns a value of two bytes in network byte order.
func (a *Attributes) Uint16() uint16 {
	if !a.sized(2) {
		return 0
	}
	return binary.BigEndian.Uint16(a.value)
}

// Uint32 returns a value of four bytes in network byte order.
func (a *Attributes) Uint32() uint32 {
	if !a.sized(4) {
		return 0
	}
	return binary.BigEndian.Uint32(a.value)
}

// Addr returns an IPv4 or IPv6 address.
func (a *Attributes) Addr() netip.Addr {
	addr, ok := netip.AddrFromSlice(a.value)
	if !ok {
		a.err = ErrAttribute
	}
	return addr
}

// String returns a value up to its terminating NUL, if it has one.
func (a *Attributes) String() string {
	s, _, _ := bytes.Cut(a.value, []byte{0})
	return string(s)
}

// Do passes the value to parse, such as a function that reads nested attributes,
// and keeps its error.
func (a *Attributes) Do(parse func(value []byte) error) {
	if err := parse(a.value); err != nil {
		a.err = err
	}
}

// sized makes it an error if the value is not of n bytes.
func (a *Attributes) sized(n int) bool {
	if len(a.value) != n {
		a.err = ErrAttribute
	}
	return len(a.value) == n
}
