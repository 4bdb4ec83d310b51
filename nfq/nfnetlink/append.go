package nfnetlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	headerLen = unix.NLMSG_HDRLEN // struct nlmsghdr
	genmsgLen = 4                 // struct nfgenmsg
	attrLen   = unix.SizeofNlAttr
)

// Header is what messages differ in of struct nlmsghdr and struct nfgenmsg.
type Header struct {
	// Type has the subsystem (unix.NFNL_SUBSYS_*) in its high byte and the
	// subsystem's message in its low one.
	Type uint16
	// Flags are unix.NLM_F_*.
	Flags uint16
	// Seq is the sequence number, which the kernel's answers carry.
	Seq uint32
	// Family is the address family, such as unix.AF_INET.
	Family uint8
	// ResID is the resource ID: the number of a queue, or the subsystem of a batch.
	ResID uint16
}

// AppendHeader appends struct nlmsghdr, whose length [EndMessage] fills in, and
// struct nfgenmsg. The port ID is 0: the kernel takes the sender's from the socket.
func AppendHeader(b []byte, h Header) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, h.Type)
	b = binary.NativeEndian.AppendUint16(b, h.Flags)
	b = binary.NativeEndian.AppendUint32(b, h.Seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, h.Family, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, h.ResID)
}

// EndMessage fills in the length of the message that starts at b[start] and ends
// with b. Attributes are padded, so the next message is aligned.
func EndMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// AppendAttr appends struct nlattr for a value of n bytes. The caller appends the
// value and its padding to 4 bytes, and calls [EndAttr] if n was not known.
func AppendAttr(b []byte, typ, n uint16) []byte {
	b = binary.NativeEndian.AppendUint16(b, attrLen+n)
	return binary.NativeEndian.AppendUint16(b, typ)
}

// AppendNest appends struct nlattr of an attribute that holds attributes. The
// caller appends those and calls [EndAttr].
func AppendNest(b []byte, typ uint16) []byte { return AppendAttr(b, unix.NLA_F_NESTED|typ, 0) }

// EndAttr fills in the length of the attribute that starts at b[start] and ends
// with b, a multiple of 4 bytes.
func EndAttr(b []byte, start int) []byte {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

// AppendUint8 appends an attribute of one byte.
func AppendUint8(b []byte, typ uint16, v uint8) []byte {
	return append(AppendAttr(b, typ, 1), v, 0, 0, 0)
}

// AppendUint16 appends an attribute of two bytes, in network byte order.
func AppendUint16(b []byte, typ, v uint16) []byte {
	b = binary.BigEndian.AppendUint16(AppendAttr(b, typ, 2), v)
	return append(b, 0, 0)
}

// AppendUint32 appends an attribute of four bytes, in network byte order.
func AppendUint32(b []byte, typ uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendAttr(b, typ, 4), v)
}

// AppendUint64 appends an attribute of eight bytes, in network byte order.
func AppendUint64(b []byte, typ uint16, v uint64) []byte {
	return binary.BigEndian.AppendUint64(AppendAttr(b, typ, 8), v)
}

// AppendBytes appends an attribute with the value v, and its padding.
func AppendBytes(b []byte, typ uint16, v []byte) []byte {
	b = append(AppendAttr(b, typ, uint16(len(v))), v...)
	return appendPadding(b, len(v))
}

// AppendString appends an attribute with s and a terminating NUL, and its padding.
func AppendString(b []byte, typ uint16, s string) []byte {
	b = append(AppendAttr(b, typ, uint16(len(s)+1)), s...)
	return appendPadding(append(b, 0), len(s)+1)
}

// appendPadding pads a value of n bytes to a multiple of 4.
func appendPadding(b []byte, n int) []byte {
	var zeros [3]byte
	return append(b, zeros[:-n&3]...)
}
