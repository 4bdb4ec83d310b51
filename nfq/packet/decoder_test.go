package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// segment is a TCP segment from port 40001 to 21 with the payload "PASV\r\n" and
// the options given.
func segment(options ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 40001)
	b = binary.BigEndian.AppendUint16(b, 21)
	b = binary.BigEndian.AppendUint32(b, 1000)
	b = binary.BigEndian.AppendUint32(b, 2000)
	b = append(b, byte(20+len(options))/4<<4, 0b11000, 0xff, 0xff, 0, 0, 0, 0) // ACK and PSH
	b = append(b, options...)
	return append(b, "PASV\r\n"...)
}

func ipv4(protocol byte, fragment uint16, options, payload []byte) []byte {
	b := []byte{0x40 | byte(20+len(options))/4, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(options)+len(payload)))
	b = append(b, 0, 1)
	b = binary.BigEndian.AppendUint16(b, fragment)
	b = append(b, 64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2)
	b = append(b, options...)
	return append(b, payload...)
}

func ipv6(next byte, src, dst string, payload ...[]byte) []byte {
	rest := slices.Concat(payload...)
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(rest)))
	b = append(b, next, 64)
	b = append(b, netip.MustParseAddr(src).AsSlice()...)
	b = append(b, netip.MustParseAddr(dst).AsSlice()...)
	return append(b, rest...)
}

// The numbers of headers.
const (
	tcp, udp                            = 6, 17
	hopByHop, routing, fragment, option = 0, 43, 44, 60
)

// extension is a hop-by-hop, destination or routing header of 8 bytes: it holds
// a PadN option of four zeros.
func extension(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

func fragmentHeader(next byte, offset uint16) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{next, 0}, offset), 7)
}

// timestamps are the options of a usual segment, syn those of a usual SYN, which
// are more than layers.TCP has room for at first.
var (
	timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	syn        = []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}
)

func replace(b []byte, at int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	return b
}

var decodeTests = []struct {
	name string
	b    []byte
	want Packet // without sequence numbers, flags and payload, which the test fills in
	err  error
	// invalid is set for invalid options: gopacket formats an error for them, which is
	// an allocation.
	invalid bool
}{
	{name: "IPv4", b: ipv4(tcp, 0, nil, segment()), want: v4},
	{name: "IPv4 that must not be fragmented", b: ipv4(tcp, 0x4000, nil, segment()), want: v4},
	{name: "IPv4 with options", b: ipv4(tcp, 0, []byte{148, 4, 0, 0}, segment(timestamps...)), want: v4},
	{name: "IPv4 with an invalid option", b: ipv4(tcp, 0, []byte{148, 200, 0, 0}, segment()), want: v4, invalid: true},
	{name: "IPv4 with padding of the link", b: append(ipv4(tcp, 0, nil, segment()), 0, 0, 0, 0), want: v4},
	{name: "IPv6", b: ipv6(tcp, "fd00::1", "fd00::2", segment()), want: v6},
	{name: "IPv6 with padding of the link", b: append(ipv6(tcp, "fd00::1", "fd00::2", segment()), 0, 0), want: v6},
	{name: "IPv6 with mapped addresses", b: ipv6(tcp, "::ffff:192.0.2.1", "::ffff:198.51.100.2", segment()), want: mapped},
	{name: "hop-by-hop header", b: ipv6(hopByHop, "fd00::1", "fd00::2", extension(tcp), segment()), want: v6},
	{name: "hop-by-hop header and padding", b: append(ipv6(hopByHop, "fd00::1", "fd00::2", extension(tcp), segment()), 0, 0), want: v6},
	{name: "destination header", b: ipv6(option, "fd00::1", "fd00::2", extension(tcp), segment()), want: v6},
	{name: "routing header", b: ipv6(routing, "fd00::1", "fd00::2", extension(tcp), segment()), want: v6},
	{name: "all headers", b: ipv6(hopByHop, "fd00::1", "fd00::2", extension(option), extension(routing), extension(fragment), fragmentHeader(option, 0), extension(tcp), segment(syn...)), want: v6},
	{name: "fragment that is whole", b: ipv6(fragment, "fd00::1", "fd00::2", fragmentHeader(tcp, 0), segment()), want: v6},
	{name: "options of a SYN", b: ipv4(tcp, 0, nil, segment(syn...)), want: v4},
	{name: "TCP option that is too long", b: ipv4(tcp, 0, nil, segment(8, 200, 0, 0)), want: v4, invalid: true},
	{name: "TCP option of length 0", b: ipv4(tcp, 0, nil, segment(8, 0, 0, 0)), want: v4, invalid: true},

	{name: "nothing", b: nil, err: ErrTruncated},
	{name: "IPv4 cut within the header", b: ipv4(tcp, 0, nil, segment())[:19], err: ErrTruncated},
	{name: "IPv4 cut within the payload", b: cut(ipv4(tcp, 0, nil, segment())), err: ErrTruncated},
	{name: "IPv6 cut within the header", b: ipv6(tcp, "fd00::1", "fd00::2", segment())[:39], err: ErrTruncated},
	{name: "IPv6 cut within the payload", b: cut(ipv6(tcp, "fd00::1", "fd00::2", segment())), err: ErrTruncated},
	{name: "IPv6 with hop-by-hop header, cut", b: cut(ipv6(hopByHop, "fd00::1", "fd00::2", extension(tcp), segment())), err: ErrTruncated},
	{name: "IP version 5", b: replace(ipv4(tcp, 0, nil, segment()), 0, 0x55), err: ErrNotTCP},
	{name: "UDP over IPv4", b: ipv4(udp, 0, nil, segment()), err: ErrNotTCP},
	{name: "UDP over IPv6", b: ipv6(udp, "fd00::1", "fd00::2", segment()), err: ErrNotTCP},
	{name: "UDP behind a header", b: ipv6(hopByHop, "fd00::1", "fd00::2", extension(udp), segment()), err: ErrNotTCP},
	{name: "first fragment, IPv4", b: ipv4(tcp, 0x2000, nil, segment()), err: ErrFragment},
	{name: "later fragment, IPv4", b: ipv4(tcp, 185, nil, segment()), err: ErrFragment},
	{name: "first fragment, IPv6", b: ipv6(fragment, "fd00::1", "fd00::2", fragmentHeader(tcp, 1), segment()), err: ErrFragment},
	{name: "later fragment, IPv6", b: ipv6(fragment, "fd00::1", "fd00::2", fragmentHeader(tcp, 8), segment()), err: ErrFragment},
	{name: "IPv4 length 0", b: replace(ipv4(tcp, 0, nil, segment()), 2, 0, 0), err: ErrMalformed},
	{name: "IPv4 header of 16 bytes", b: replace(ipv4(tcp, 0, nil, segment()), 0, 0x44), err: ErrMalformed},
	{name: "IPv4 header of 0 bytes", b: replace(ipv4(tcp, 0, nil, segment()), 0, 0x40), err: ErrMalformed},
	{name: "IPv4 header that claims to be longer", b: replace(ipv4(tcp, 0, nil, []byte{1, 2, 3, 4}), 0, 0x4f), err: ErrMalformed},
	{name: "IPv6 length 0", b: replace(ipv6(hopByHop, "fd00::1", "fd00::2", extension(tcp), segment()), 4, 0, 0), err: ErrMalformed},
	{name: "extension header longer than the packet", b: replace(ipv6(option, "fd00::1", "fd00::2", extension(tcp), segment()), 41, 200), err: ErrMalformed},
	{name: "fragment header cut", b: ipv6(fragment, "fd00::1", "fd00::2", fragmentHeader(tcp, 0)[:7]), err: ErrMalformed},
	{name: "TCP header cut", b: ipv4(tcp, 0, nil, segment()[:19]), err: ErrMalformed},
	{name: "TCP header of 16 bytes", b: replace(ipv4(tcp, 0, nil, segment()), 32, 0x40), err: ErrMalformed},
	{name: "TCP header of 0 bytes", b: replace(ipv4(tcp, 0, nil, segment()), 32, 0), err: ErrMalformed},
	{name: "TCP header longer than the packet", b: replace(ipv4(tcp, 0, nil, segment()), 32, 0xf0), err: ErrMalformed},
}

var (
	v4     = Packet{Src: netip.MustParseAddrPort("192.0.2.1:40001"), Dst: netip.MustParseAddrPort("198.51.100.2:21")}
	v6     = Packet{Src: netip.MustParseAddrPort("[fd00::1]:40001"), Dst: netip.MustParseAddrPort("[fd00::2]:21")}
	mapped = Packet{Src: netip.MustParseAddrPort("[::ffff:192.0.2.1]:40001"), Dst: netip.MustParseAddrPort("[::ffff:198.51.100.2]:21")}
)

// cut removes the last byte.
func cut(b []byte) []byte { return b[:len(b)-1] }

func TestDecode(t *testing.T) {
	// One Decoder for all rows: an earlier packet must not affect a later one.
	var d Decoder
	for _, tt := range decodeTests {
		t.Run(tt.name, func(t *testing.T) {
			var got Packet
			if err := d.Decode(tt.b, &got); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			} else if err == nil {
				want := tt.want
				want.Seq, want.Ack, want.Flags, want.Payload = 1000, 2000, ACK, []byte("PASV\r\n")
				if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
					t.Errorf("packet (-want +got):\n%s", diff)
				}
				if n := testing.AllocsPerRun(100, func() { _ = d.Decode(tt.b, &got) }); n != 0 && !tt.invalid {
					t.Errorf("%v allocations, want none", n)
				}
			}
		})
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		name string
		bits byte
		want Flags
	}{
		{"SYN", 0b10, SYN},
		{"SYN and ACK", 0b10010, SYN | ACK},
		{"FIN and ACK", 0b10001, FIN | ACK},
		{"RST", 0b100, RST},
		{"those that do not matter", 0b11101000, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Packet
			if err := new(Decoder).Decode(ipv4(tcp, 0, nil, replace(segment(), 13, tt.bits)), &p); err != nil {
				t.Fatal(err)
			}
			if p.Flags != tt.want {
				t.Errorf("flags %05b, want %05b", p.Flags, tt.want)
			}
		})
	}
}

// FuzzDecode compares with gopacket's own decoding of whole packets, which
// allocates: what both read must be the same.
func FuzzDecode(f *testing.F) {
	for _, tt := range decodeTests {
		f.Add(tt.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decoder
		var p Packet
		before := bytes.Clone(b)
		err := d.Decode(b, &p)
		if !bytes.Equal(before, b) {
			t.Fatal("the packet was changed")
		}
		if err != nil {
			return
		}
		if len(p.Payload) > len(b)-40 {
			t.Fatalf("%d bytes of payload in a packet of %d", len(p.Payload), len(b))
		}
		first := layers.LayerTypeIPv4
		if b[0]>>4 == 6 {
			first = layers.LayerTypeIPv6
		}
		theirs, ok := gopacket.NewPacket(b, first, gopacket.NoCopy).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			return // headers that layers.IPv6 and its kin cannot read
		}
		if uint16(theirs.SrcPort) != p.Src.Port() || uint16(theirs.DstPort) != p.Dst.Port() || theirs.Seq != p.Seq || theirs.Ack != p.Ack {
			t.Errorf("got %v -> %v seq %d ack %d, gopacket %d -> %d seq %d ack %d", p.Src, p.Dst, p.Seq, p.Ack, theirs.SrcPort, theirs.DstPort, theirs.Seq, theirs.Ack)
		}
		if !bytes.HasPrefix(theirs.Payload, p.Payload) {
			t.Errorf("payload %q, gopacket %q", p.Payload, theirs.Payload)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, bb := range []struct {
		name string
		b    []byte
	}{
		{"IPv4", ipv4(tcp, 0, nil, segment(timestamps...))},
		{"IPv6", ipv6(tcp, "fd00::1", "fd00::2", segment(timestamps...))},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var d Decoder
			var p Packet
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.b)))
			for b.Loop() {
				if err := d.Decode(bb.b, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
