package nfnetlink

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// typeMask clears NLA_F_NESTED and NLA_F_NET_BYTEORDER in the type of an
// attribute.
const typeMask = 0x3fff

// The errors of messages that the kernel does not send.
var (
	// ErrMessage is of a message that is too short for struct nfgenmsg.
	ErrMessage = errors.New("truncated message")
	// ErrAttribute is of an attribute that is longer than what holds it, or whose
	// value has another size than its type.
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

// Attributes returns the attributes behind struct nfgenmsg.
func (m Message) Attributes() ([]byte, error) {
	if len(m.Body) < genmsgLen {
		return nil, ErrMessage
	}
	return m.Body[genmsgLen:], nil
}

// Attr is an attribute.
type Attr struct {
	Type uint16 // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	// Value is borrowed, and without padding.
	Value []byte
}

// NextAttr cuts the first attribute off b. ok is false at the end, and where an
// attribute is malformed.
func NextAttr(b []byte) (a Attr, rest []byte, ok bool) {
	if len(b) < attrLen {
		return Attr{}, b, false
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < attrLen || n > len(b) {
		return Attr{}, b, false
	}
	a = Attr{Type: binary.NativeEndian.Uint16(b[2:]) & typeMask, Value: b[attrLen:n]}
	if n = (n + 3) &^ 3; n > len(b) { // min would be slower
		n = len(b)
	}
	return a, b[n:], true
}

// EachAttr calls f with each attribute in b, and returns the first error: f's, or
// [ErrAttribute] where one is malformed.
func EachAttr(b []byte, f func(Attr) error) error {
	for len(b) > 0 {
		a, rest, ok := NextAttr(b)
		if !ok {
			return ErrAttribute
		}
		if err := f(a); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// Uint8 returns a value of one byte.
func (a Attr) Uint8() (uint8, error) {
	if len(a.Value) != 1 {
		return 0, ErrAttribute
	}
	return a.Value[0], nil
}

// Uint16 returns a value of two bytes in network byte order.
func (a Attr) Uint16() (uint16, error) {
	if len(a.Value) != 2 {
		return 0, ErrAttribute
	}
	return binary.BigEndian.Uint16(a.Value), nil
}

// Uint32 returns a value of four bytes in network byte order.
func (a Attr) Uint32() (uint32, error) {
	if len(a.Value) != 4 {
		return 0, ErrAttribute
	}
	return binary.BigEndian.Uint32(a.Value), nil
}

// Text returns a string without its terminating NUL.
func (a Attr) Text() string {
	s, _, _ := bytes.Cut(a.Value, []byte{0})
	return string(s)
}
