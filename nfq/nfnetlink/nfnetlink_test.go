package nfnetlink_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/nfq/nfnetlink"
)

const genmsgLen = 4 // struct nfgenmsg

// Types of attributes.
const (
	typeNest = 1 + iota
	typeUint8
	typeUint16
	typeUint32
	typeUint64
	typeBytes
	typeString
)

var header = nfnetlink.Header{
	Type: unix.NFNL_SUBSYS_QUEUE<<8 | 2, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK,
	Seq: 0x01020304, Family: unix.AF_INET6, ResID: 0x0506,
}

// appendAll appends a message with an attribute of each kind.
func appendAll(b, value []byte, s string) []byte {
	start := len(b)
	b = nfnetlink.AppendHeader(b, header)
	nest := len(b)
	b = nfnetlink.AppendNest(b, typeNest)
	b = nfnetlink.AppendUint8(b, typeUint8, 0x11)
	b = nfnetlink.AppendUint16(b, typeUint16, 0x1213)
	b = nfnetlink.EndAttr(b, nest)
	b = nfnetlink.AppendUint32(b, typeUint32, 0x14151617)
	b = nfnetlink.AppendUint64(b, typeUint64, 0x18191a1b1c1d1e1f)
	b = nfnetlink.AppendBytes(b, typeBytes, value)
	b = nfnetlink.AppendString(b, typeString, s)
	return nfnetlink.EndMessage(b, start)
}

// TestAppend reads messages with github.com/mdlayher/netlink, values of each
// length to be padded.
func TestAppend(t *testing.T) {
	for n := range 5 {
		t.Run(fmt.Sprint(n, " bytes"), func(t *testing.T) {
			value, s := []byte{1, 2, 3, 4}[:n], "name"[:n]
			const before = "before"
			b := appendAll([]byte(before), value, s)
			if got := string(b[:len(before)]); got != before {
				t.Errorf("the bytes before the message became %q", got)
			}
			var m netlink.Message
			if err := m.UnmarshalBinary(b[len(before):]); err != nil {
				t.Fatal(err)
			}
			want := netlink.Header{
				Length: uint32(len(b) - len(before)), Type: netlink.HeaderType(header.Type),
				Flags: netlink.HeaderFlags(header.Flags), Sequence: header.Seq,
			}
			if diff := cmp.Diff(want, m.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]byte{unix.AF_INET6, unix.NFNETLINK_V0, 5, 6}, m.Data[:genmsgLen]); diff != "" {
				t.Errorf("struct nfgenmsg (-want +got):\n%s", diff)
			}
			attributes, err := netlink.UnmarshalAttributes(m.Data[genmsgLen:])
			if err != nil {
				t.Fatal(err)
			}
			nested, err := netlink.UnmarshalAttributes(attributes[0].Data)
			if err != nil {
				t.Fatal(err)
			}
			type attribute struct {
				Type uint16
				Data string
			}
			var got []attribute
			for _, a := range append(nested, attributes[1:]...) {
				got = append(got, attribute{a.Type, string(a.Data)})
			}
			if diff := cmp.Diff([]attribute{
				{typeUint8, "\x11"},
				{typeUint16, "\x12\x13"},
				{typeUint32, "\x14\x15\x16\x17"},
				{typeUint64, "\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"},
				{typeBytes, string(value)},
				{typeString, s + "\x00"},
			}, got); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if flags := attributes[0].Type; flags != netlink.Nested|typeNest {
				t.Errorf("the nest is of type %#x", flags)
			}
		})
	}
}

// values are those of a message of appendAll.
type values struct {
	Uint8  uint8
	Uint16 uint16
	Uint32 uint32
	Bytes  string
	String string
}

func (v *values) parse(m nfnetlink.Message) error {
	b, err := m.Attributes()
	if err != nil {
		return err
	}
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) (err error) {
		switch a.Type {
		case typeNest:
			err = v.parseNest(a.Value)
		case typeUint32:
			v.Uint32, err = a.Uint32()
		case typeBytes:
			v.Bytes = string(a.Value)
		case typeString:
			v.String = a.Text()
		}
		return err
	})
}

func (v *values) parseNest(b []byte) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) (err error) {
		switch a.Type {
		case typeUint8:
			v.Uint8, err = a.Uint8()
		case typeUint16:
			v.Uint16, err = a.Uint16()
		}
		return err
	})
}

func TestParse(t *testing.T) {
	whole := appendAll(nil, []byte{1, 2, 3}, "name")
	m, rest, ok := nfnetlink.NextMessage(append(appendAll(nil, []byte{1, 2, 3}, "name"), whole...))
	if !ok || m.Type != header.Type || m.Seq != header.Seq || string(rest) != string(whole) {
		t.Fatalf("message %+v, rest %x, whole: %t", m, rest, ok)
	}
	var got values
	if err := got.parse(m); err != nil {
		t.Fatal(err)
	}
	want := values{Uint8: 0x11, Uint16: 0x1213, Uint32: 0x14151617, Bytes: "\x01\x02\x03", String: "name"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestMalformedAttributes(t *testing.T) {
	genmsg := make([]byte, genmsgLen)
	with := func(attributes ...byte) []byte { return append(bytes.Clone(genmsg), attributes...) }
	nested := func(attribute []byte) []byte {
		b := nfnetlink.AppendNest(with(), typeNest)
		return nfnetlink.EndAttr(append(b, attribute...), len(genmsg))
	}
	tests := []struct {
		name string
		body []byte
		err  error
	}{
		{"no attributes", with(), nil},
		{"no body", nil, nfnetlink.ErrMessage},
		{"half a struct nfgenmsg", genmsg[:2], nfnetlink.ErrMessage},
		{"half a struct nlattr", with(0, 0), nfnetlink.ErrAttribute},
		{"shorter than its header", with(3, 3, 0, 0), nfnetlink.ErrAttribute},
		{"longer than the message", nfnetlink.AppendAttr(with(), typeBytes, 1), nfnetlink.ErrAttribute},
		{"no padding at the end", append(nfnetlink.AppendAttr(with(), typeBytes, 1), 1), nil},
		{"unknown type", nfnetlink.AppendUint32(with(), 99, 0), nil},
		{"number of another size", nfnetlink.AppendUint16(with(), typeUint32, 0), nfnetlink.ErrAttribute},
		{"nested number of another size", nested(nfnetlink.AppendUint8(nil, typeUint16, 0)), nfnetlink.ErrAttribute},
		{"nested byte of another size", nested(nfnetlink.AppendUint16(nil, typeUint8, 0)), nfnetlink.ErrAttribute},
		{"nested attribute longer than its nest", nested(nfnetlink.AppendAttr(nil, typeUint8, 1)), nfnetlink.ErrAttribute},
		{"string without a NUL", nfnetlink.AppendBytes(with(), typeString, []byte("name")), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := new(values).parse(nfnetlink.Message{Body: tt.body})
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
		})
	}
}

func TestErrno(t *testing.T) {
	rejected := binary.NativeEndian.AppendUint32(nil, 1<<32-2) // -ENOENT
	tests := []struct {
		name  string
		m     nfnetlink.Message
		errno unix.Errno
		ok    bool
	}{
		{"ACK", nfnetlink.Message{Type: unix.NLMSG_ERROR, Body: make([]byte, 20)}, 0, true},
		{"error", nfnetlink.Message{Type: unix.NLMSG_ERROR, Body: rejected}, unix.ENOENT, true},
		{"cut", nfnetlink.Message{Type: unix.NLMSG_ERROR, Body: rejected[:3]}, 0, false},
		{"other message", nfnetlink.Message{Type: unix.NLMSG_DONE, Body: rejected}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if errno, ok := tt.m.Errno(); errno != tt.errno || ok != tt.ok {
				t.Errorf("%v, %t; want %v, %t", errno, ok, tt.errno, tt.ok)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	buf := make([]byte, 0, 256)
	var v values
	n := testing.AllocsPerRun(100, func() {
		m, _, _ := nfnetlink.NextMessage(appendAll(buf, nil, "")) // Attr.Text of nothing is free
		if err := v.parse(m); err != nil {
			t.Error(err)
		}
	})
	if n != 0 || v.Uint16 == 0 {
		t.Errorf("%v allocations, value %#x", n, v.Uint16)
	}
}

// FuzzMessage holds that nothing is read beyond a datagram, and that its messages
// come to an end.
func FuzzMessage(f *testing.F) {
	f.Add(appendAll(nil, []byte{1, 2, 3}, "name"))
	f.Add(append(appendAll(nil, nil, ""), appendAll(nil, []byte{1}, "")[:30]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; ; {
			m, after, ok := nfnetlink.NextMessage(rest)
			if !ok {
				return
			}
			if len(after)+len(m.Body) >= len(rest) {
				t.Fatalf("a message of %d bytes leaves %d of %d", len(m.Body), len(after), len(rest))
			}
			_, _ = m.Errno()
			_ = new(values).parse(m)
			rest = after
		}
	})
}
