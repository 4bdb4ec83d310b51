package capture_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"ftpctd/bench/corpora"
	"ftpctd/cmd/ftpctd/internal/capture"
)

// packet is what a test expects of one call of Next.
type packet struct {
	Time  time.Time
	Frame int
	IP    string
}

// readAll reads a capture to its end or its error.
func readAll(t *testing.T, name string, file []byte) (packets []packet, skipped int, err error) {
	t.Helper()
	r, err := capture.NewReader(name, bytes.NewReader(file))
	if err != nil {
		return nil, 0, err
	}
	for {
		ts, ip, err := r.Next()
		if err != nil {
			if _, _, again := r.Next(); !errors.Is(again, err) {
				t.Errorf("Next after %v: %v, want the same error", err, again)
			}
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return packets, r.Skipped(), err
		}
		packets = append(packets, packet{ts, r.Frame(), string(ip)})
	}
}

// Bodies of packets. Nothing looks beyond the lengths of the IP header.
var (
	packet4 = ipv4Packet("227 Entering Passive Mode")
	packet6 = ipv6Packet("229 Entering Extended Passive Mode")
	arp     = strings.Repeat("\x00\x01", 14)

	moment = time.Date(2026, 11, 22, 13, 14, 15, 123456000, time.UTC)
	nanos  = moment.Add(789)
)

func ipv4Packet(payload string) string {
	h := make([]byte, 20)
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	return string(h) + payload
}

func ipv6Packet(payload string) string {
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return string(h) + payload
}

// ethernet puts a packet into a frame with the EtherTypes before it, the VLAN
// tags among them.
func ethernet(ip string, types ...uint16) string {
	return "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02" + tags(types...) + ip
}

func tags(types ...uint16) string {
	var b []byte
	for i, typ := range types {
		if i > 0 {
			b = append(b, 0, byte(i)) // VLAN i
		}
		b = binary.BigEndian.AppendUint16(b, typ)
	}
	return string(b)
}

// frame is one captured frame.
type frame struct {
	ts   time.Time
	data string
}

// pcapFile writes a pcap file by hand: any byte order and any link type.
func pcapFile(order binary.AppendByteOrder, nano bool, link uint32, frames ...frame) []byte {
	magic, unit := uint32(0xa1b2c3d4), time.Microsecond
	if nano {
		magic, unit = 0xa1b23c4d, time.Nanosecond
	}
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	for _, v := range []uint32{0, 0, 65535, link} {
		b = order.AppendUint32(b, v)
	}
	for _, f := range frames {
		for _, v := range []int64{f.ts.Unix(), int64(f.ts.Nanosecond()) / int64(unit), int64(len(f.data)), int64(len(f.data))} {
			b = order.AppendUint32(b, uint32(v))
		}
		b = append(b, f.data...)
	}
	return b
}

// modifiedFile writes a pcap file as Alexey Kuznetsov's patched libpcap does.
func modifiedFile(order binary.AppendByteOrder, link uint32, frames ...frame) []byte {
	b := order.AppendUint32(nil, 0xa1b2cd34)
	b = append(b, pcapFile(order, false, link)[4:]...)
	for _, f := range frames {
		record := pcapFile(order, false, link, f)[24:]
		b = append(b, record[:16]...)
		b = order.AppendUint32(b, 3)      // interface
		b = order.AppendUint16(b, 0x0800) // protocol
		b = append(b, 4, 0)               // type of the packet, padding
		b = append(b, record[16:]...)
	}
	return b
}

// ngFile writes pcapng blocks by hand.
type ngFile struct {
	order binary.AppendByteOrder
	b     []byte
}

func (f *ngFile) block(typ uint32, body []byte) *ngFile {
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	f.b = f.order.AppendUint32(f.b, typ)
	f.b = f.order.AppendUint32(f.b, uint32(len(body)+12))
	f.b = append(f.b, body...)
	f.b = f.order.AppendUint32(f.b, uint32(len(body)+12))
	return f
}

// section starts a section.
func (f *ngFile) section() *ngFile {
	b := f.order.AppendUint32(nil, 0x1a2b3c4d)
	b = f.order.AppendUint16(b, 1)
	b = f.order.AppendUint16(b, 0)
	b = f.order.AppendUint64(b, 1<<64-1) // length not known
	return f.block(0x0a0d0d0a, b)
}

// iface describes an interface with options, which are written as they are.
func (f *ngFile) iface(link uint16, snaplen uint32, options ...[]byte) *ngFile {
	b := f.order.AppendUint16(nil, link)
	b = f.order.AppendUint16(b, 0)
	b = f.order.AppendUint32(b, snaplen)
	return f.block(1, append(b, bytes.Join(options, nil)...))
}

func (f *ngFile) option(code uint16, value ...byte) []byte {
	b := f.order.AppendUint16(nil, code)
	b = f.order.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (f *ngFile) enhanced(iface uint32, stamp uint64, data string) *ngFile {
	b := f.order.AppendUint32(nil, iface)
	return f.block(6, append(f.stamped(b, stamp, data), f.option(1, []byte("a comment")...)...))
}

func (f *ngFile) obsolete(iface uint16, stamp uint64, data string) *ngFile {
	b := f.order.AppendUint16(nil, iface)
	b = f.order.AppendUint16(b, 7) // drops
	return f.block(2, f.stamped(b, stamp, data))
}

func (f *ngFile) stamped(b []byte, stamp uint64, data string) []byte {
	for _, v := range []uint32{uint32(stamp >> 32), uint32(stamp), uint32(len(data)), uint32(len(data))} {
		b = f.order.AppendUint32(b, v)
	}
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (f *ngFile) simple(length uint32, data string) *ngFile {
	return f.block(3, append(f.order.AppendUint32(nil, length), data...))
}

func little() *ngFile { return &ngFile{order: binary.LittleEndian} }
func big() *ngFile    { return &ngFile{order: binary.BigEndian} }

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// written is a capture by the writers of gopacket: the yardstick for the files
// made by hand.
func written(t *testing.T, write func(w io.Writer) error) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func info(data string, ts time.Time, iface int) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: ts, CaptureLength: len(data), Length: len(data), InterfaceIndex: iface}
}

func TestFormats(t *testing.T) {
	eth4, eth6 := ethernet(packet4, 0x0800), ethernet(packet6, 0x86dd)
	micros := uint64(moment.UnixMicro())
	both := []packet{{moment, 1, packet4}, {moment, 2, packet6}}

	tests := []struct {
		name    string
		file    []byte
		want    []packet
		skipped int
	}{
		{
			name: "pcapgo pcap",
			file: written(t, func(w io.Writer) error {
				pw := pcapgo.NewWriter(w)
				return errors.Join(
					pw.WriteFileHeader(65535, layers.LinkTypeEthernet),
					pw.WritePacket(info(eth4, moment, 0), []byte(eth4)),
					pw.WritePacket(info(eth6, moment, 0), []byte(eth6)),
				)
			}),
			want: both,
		},
		{
			name: "pcapgo pcap, nanoseconds",
			file: written(t, func(w io.Writer) error {
				pw := pcapgo.NewWriterNanos(w)
				return errors.Join(
					pw.WriteFileHeader(65535, layers.LinkTypeEthernet),
					pw.WritePacket(info(eth4, nanos, 0), []byte(eth4)),
				)
			}),
			want: []packet{{nanos, 1, packet4}},
		},
		{
			name: "pcapgo pcapng, interfaces of two link types",
			file: written(t, func(w io.Writer) error {
				pw, err := pcapgo.NewNgWriter(w, layers.LinkTypeEthernet)
				if err != nil {
					return err
				}
				raw, err := pw.AddInterface(pcapgo.NgInterface{Name: "tun0", LinkType: layers.LinkTypeRaw})
				return errors.Join(
					err,
					pw.WritePacket(info(eth4, nanos, 0), []byte(eth4)),
					pw.WritePacket(info(packet6, nanos, raw), []byte(packet6)),
					pw.Flush(),
				)
			}),
			want: []packet{{nanos, 1, packet4}, {nanos, 2, packet6}},
		},
		{
			name: "pcap, little endian",
			file: pcapFile(binary.LittleEndian, false, 1, frame{moment, eth4}, frame{moment, eth6}),
			want: both,
		},
		{
			name: "pcap, big endian",
			file: pcapFile(binary.BigEndian, false, 1, frame{moment, eth4}, frame{moment, eth6}),
			want: both,
		},
		{
			name: "pcap, big endian, nanoseconds",
			file: pcapFile(binary.BigEndian, true, 1, frame{nanos, eth4}),
			want: []packet{{nanos, 1, packet4}},
		},
		{
			name: "pcap, length of the frame check sequence in the link type",
			file: pcapFile(binary.LittleEndian, false, 0x24000001, frame{moment, eth4 + "\xde\xad\xbe\xef"}),
			want: []packet{{moment, 1, packet4}},
		},
		{
			name: "modified pcap, little endian",
			file: modifiedFile(binary.LittleEndian, 1, frame{moment, eth4}, frame{moment, eth6}),
			want: both,
		},
		{
			name: "modified pcap, big endian",
			file: modifiedFile(binary.BigEndian, 1, frame{moment, eth4}, frame{moment, eth6}),
			want: both,
		},
		{
			name: "pcap, gzip",
			file: gzipped(t, pcapFile(binary.LittleEndian, false, 1, frame{moment, eth4}, frame{moment, eth6})),
			want: both,
		},
		{
			name:    "pcap, frames without IP are counted",
			file:    pcapFile(binary.LittleEndian, false, 1, frame{moment, ethernet(arp, 0x0806)}, frame{moment, eth4}, frame{moment, ""}),
			want:    []packet{{moment, 2, packet4}},
			skipped: 2,
		},
		{
			name: "pcap, no frames",
			file: pcapFile(binary.LittleEndian, false, 1),
		},
		{
			name: "pcapng, big endian",
			file: big().section().iface(1, 0).enhanced(0, micros, eth4).enhanced(0, micros, eth6).b,
			want: both,
		},
		{
			name: "pcapng, gzip",
			file: gzipped(t, little().section().iface(1, 0).enhanced(0, micros, eth4).enhanced(0, micros, eth6).b),
			want: both,
		},
		{
			name: "pcapng, obsolete packet block",
			file: little().section().iface(1, 0).iface(101, 0).obsolete(0, micros, eth4).obsolete(1, micros, packet6).b,
			want: both,
		},
		{
			name: "pcapng, simple packet block has no time",
			file: little().section().iface(1, 0).simple(uint32(len(eth4)), eth4).b,
			want: []packet{{time.Time{}, 1, packet4}},
		},
		{
			name: "pcapng, simple packet block is cut at the snapshot length",
			file: little().section().iface(101, 32).simple(uint32(len(packet4)), packet4[:32]).b,
			want: []packet{{time.Time{}, 1, packet4[:32]}},
		},
		{
			name: "pcapng, time resolutions and offset",
			file: little().section().
				iface(101, 0, little().option(9, 9), little().option(0)).
				iface(101, 0, little().option(2, []byte("eth1")...), little().option(9, 0x80|20)).
				iface(101, 0, little().option(14, binary.LittleEndian.AppendUint64(nil, 1<<64-3600)...)).
				iface(101, 0, little().option(9, 19)).
				enhanced(0, uint64(nanos.UnixNano()), packet4).
				enhanced(1, uint64(moment.Unix())<<20|1<<19, packet4).
				enhanced(2, micros, packet4).
				enhanced(3, 15e18, packet4).b,
			want: []packet{
				{nanos, 1, packet4},
				{moment.Truncate(time.Second).Add(time.Second / 2), 2, packet4},
				{moment.Add(-time.Hour), 3, packet4},
				{time.Unix(1, 5e8).UTC(), 4, packet4},
			},
		},
		{
			name: "pcapng, unknown blocks are skipped",
			file: little().section().block(0x0bad, []byte("custom")).iface(1, 0).block(5, make([]byte, 16)).enhanced(0, micros, eth4).enhanced(0, micros, eth6).b,
			want: both,
		},
		{
			name: "pcapng, a section of the other byte order with its own interfaces",
			file: append(
				little().section().iface(1, 0).enhanced(0, micros, eth4).b,
				big().section().iface(101, 0).enhanced(0, micros, packet6).b...,
			),
			want: both,
		},
		{
			name:    "pcapng, an interface of an unknown link type among others",
			file:    little().section().iface(220, 0).iface(1, 0).enhanced(0, micros, "usb").enhanced(1, micros, eth4).b,
			want:    []packet{{moment, 2, packet4}},
			skipped: 1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, skipped, err := readAll(t, "test.pcap", tt.file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("packets (-want +got):\n%s", diff)
			}
			if skipped != tt.skipped {
				t.Errorf("skipped %d frames, want %d", skipped, tt.skipped)
			}
		})
	}
}

func TestLinkTypes(t *testing.T) {
	sll := func(typ ...uint16) string { return strings.Repeat("\x00", 14) + tags(typ...) }
	sll2 := func(typ uint16) string {
		return string(binary.BigEndian.AppendUint16(nil, typ)) + strings.Repeat("\x00", 18)
	}
	tests := []struct {
		name  string
		link  uint32
		frame string
		want  string // "" where no packet is expected
	}{
		{"ethernet IPv4", 1, ethernet(packet4, 0x0800), packet4},
		{"ethernet IPv6", 1, ethernet(packet6, 0x86dd), packet6},
		{"ethernet 802.1Q", 1, ethernet(packet4, 0x8100, 0x0800), packet4},
		{"ethernet QinQ", 1, ethernet(packet6, 0x88a8, 0x8100, 0x86dd), packet6},
		{"ethernet QinQ before the standard", 1, ethernet(packet4, 0x9100, 0x8100, 0x0800), packet4},
		{"ethernet ARP", 1, ethernet(arp, 0x0806), ""},
		{"ethernet 802.3 length", 1, ethernet(packet4, uint16(len(packet4))), ""},
		{"ethernet padded to 60 bytes", 1, ethernet(ipv4Packet("\r\n")+strings.Repeat("\x00", 24), 0x0800), ipv4Packet("\r\n")},
		{"ethernet IPv6 padded", 1, ethernet(packet6+"\x00\x00", 0x86dd), packet6},
		{"ethernet shorter than its header", 1, ethernet("")[:11], ""},
		{"ethernet cut in a tag", 1, ethernet("\x00", 0x8100), ""},
		{"ethernet with no packet behind the type", 1, ethernet("", 0x0800), ""},
		{"ethernet type of the other version", 1, ethernet(packet6, 0x0800), ""},
		{"IPv4 with the total length of segmentation offload", 1, ethernet("\x45\x00\x00\x00"+packet4[4:], 0x0800), "\x45\x00\x00\x00" + packet4[4:]},
		{"IPv4 with a total length shorter than its header", 1, ethernet("\x45\x00\x00\x13"+packet4[4:], 0x0800), "\x45\x00\x00\x13" + packet4[4:]},
		{"IPv4 cut by the snapshot length", 1, ethernet(packet4[:30], 0x0800), packet4[:30]},
		{"IPv4 cut in its header", 1, ethernet(packet4[:10], 0x0800), packet4[:10]},
		{"IPv6 jumbo", 1, ethernet(packet6[:4]+"\x00\x00"+packet6[6:], 0x86dd), packet6[:4] + "\x00\x00" + packet6[6:]},
		{"Linux cooked v1", 113, sll(0x0800) + packet4, packet4},
		{"Linux cooked v1, VLAN", 113, sll(0x8100, 0x86dd) + packet6, packet6},
		{"Linux cooked v1, cut", 113, sll(), ""},
		{"Linux cooked v2", 276, sll2(0x86dd) + packet6, packet6},
		{"Linux cooked v2, ARP", 276, sll2(0x0806) + arp, ""},
		{"Linux cooked v2, cut", 276, sll2(0x0800)[:19], ""},
		{"raw IPv4", 101, packet4, packet4},
		{"raw IPv6", 101, packet6, packet6},
		{"raw of BSD", 12, packet4, packet4},
		{"raw, neither version", 101, "\x50" + packet4[1:], ""},
		{"raw, empty", 101, "", ""},
		{"IPv4 only", 228, packet4, packet4},
		{"IPv4 only, IPv6", 228, packet6, ""},
		{"IPv6 only", 229, packet6, packet6},
		{"null, little endian", 0, "\x02\x00\x00\x00" + packet4, packet4},
		{"null, big endian", 0, "\x00\x00\x00\x02" + packet4, packet4},
		{"null, IPv6 of Darwin", 0, "\x1e\x00\x00\x00" + packet6, packet6},
		{"null, another family", 0, "\x07\x00\x00\x00" + packet4, ""},
		{"null, cut", 0, "\x02\x00\x00", ""},
		{"loop, IPv6 of OpenBSD", 108, "\x00\x00\x00\x18" + packet6, packet6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, skipped, err := readAll(t, "test.pcap", pcapFile(binary.LittleEndian, false, tt.link, frame{moment, tt.frame}))
			if err != nil {
				t.Fatal(err)
			}
			want, wantSkipped := []packet{{moment, 1, tt.want}}, 0
			if tt.want == "" {
				want, wantSkipped = nil, 1
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("packets (-want +got):\n%s", diff)
			}
			if skipped != wantSkipped {
				t.Errorf("skipped %d frames, want %d", skipped, wantSkipped)
			}
		})
	}
}

// TestDamage checks that what comes before the damage is delivered, and that
// the error names the place.
func TestDamage(t *testing.T) {
	eth4 := ethernet(packet4, 0x0800) // 59 bytes
	pcap := pcapFile(binary.LittleEndian, false, 1, frame{moment, eth4}, frame{moment, eth4})
	zipped := gzipped(t, pcap)
	patch := func(b []byte, at int, with ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	ng := little().section().iface(1, 0)
	head := len(ng.b)
	one := ng.enhanced(0, uint64(moment.UnixMicro()), eth4).b
	second := func(f func(*ngFile)) []byte {
		n := little()
		n.b = bytes.Clone(one)
		f(n)
		return n.b
	}

	tests := []struct {
		name    string
		file    []byte
		packets int
		is      error
		want    string
	}{
		{name: "empty file", is: capture.ErrFormat, want: "t: unrecognized format: not pcap or pcapng: it is empty"},
		{name: "three bytes", file: []byte("\xd4\xc3\xb2"), is: capture.ErrFormat, want: "t: unrecognized format: not pcap or pcapng"},
		{name: "text", file: []byte("227 Entering Passive Mode (192,168,0,201,122,8)\r\n"), is: capture.ErrFormat, want: "t: unrecognized format: not pcap or pcapng"},
		{name: "gzip of text", file: gzipped(t, []byte("220 ready\r\n")), is: capture.ErrFormat, want: "t: unrecognized format: not pcap or pcapng"},
		{name: "gzip header cut", file: zipped[:5], is: io.ErrUnexpectedEOF, want: "t: gzip header: truncated record: unexpected EOF"},
		{name: "pcap header cut", file: pcap[:20], is: io.ErrUnexpectedEOF, want: "t: pcap header: truncated record: unexpected EOF"},
		{name: "pcap version", file: patch(pcap, 4, 3), is: capture.ErrFormat, want: "t: unrecognized format: not pcap or pcapng: pcap version 3.4, only 2.x is supported"},
		{name: "pcap record header cut", file: pcap[:24+75+7], packets: 1, is: io.ErrUnexpectedEOF, want: "t: frame 2, at byte 99: truncated record: unexpected EOF"},
		{name: "modified pcap record header cut", file: modifiedFile(binary.LittleEndian, 1, frame{moment, eth4})[:24+20], is: io.ErrUnexpectedEOF, want: "t: frame 1, at byte 24: truncated record: unexpected EOF"},
		{name: "pcap record without data", file: pcap[:24+75+16], packets: 1, is: io.ErrUnexpectedEOF, want: "t: frame 2, at byte 99: truncated record: unexpected EOF"},
		{name: "pcap frame cut", file: pcap[:len(pcap)-1], packets: 1, is: io.ErrUnexpectedEOF, want: "t: frame 2, at byte 99: truncated record: unexpected EOF"},
		{name: "pcap length of gigabytes", file: patch(pcap, 24+75+8, 0xff, 0xff, 0xff, 0xff), packets: 1, is: capture.ErrCorrupt, want: "t: frame 2, at byte 99: corrupt: a frame of 4294967295 bytes, more than 262144"},
		{name: "pcap link type", file: patch(pcap, 20, 105), is: capture.ErrLinkType, want: "t: no frame of a supported link type: link type 105 (supported: Ethernet, Linux cooked v1 and v2, raw IP, BSD loopback)"},
		{name: "gzip cut", file: zipped[:len(zipped)-8], packets: 2, is: io.ErrUnexpectedEOF, want: "t: frame 3, at byte 174: truncated record: unexpected EOF"},
		{name: "gzip checksum", file: patch(zipped, len(zipped)-8, 0, 0, 0, 0), packets: 2, is: gzip.ErrChecksum, want: "t: frame 3, at byte 174: gzip: invalid checksum"},

		{name: "pcapng magic alone", file: one[:4], is: io.ErrUnexpectedEOF, want: "t: pcapng section header: truncated record: unexpected EOF"},
		{name: "pcapng byte-order magic", file: patch(one, 8, 0), is: capture.ErrCorrupt, want: "t: pcapng section header: corrupt: byte-order magic 003c2b1a"},
		{name: "pcapng version", file: patch(one, 12, 2), is: capture.ErrFormat, want: "t: pcapng section header: unrecognized format: not pcap or pcapng: pcapng version 2.0, only 1.x is supported"},
		{name: "pcapng section header too short", file: patch(one, 4, 12, 0, 0, 0), is: capture.ErrCorrupt, want: "t: pcapng section header: corrupt: the block is too short for its content"},
		{name: "pcapng block header cut", file: one[:head+5], is: io.ErrUnexpectedEOF, want: "t: frame 1, at byte 48: truncated record: unexpected EOF"},
		{name: "pcapng block cut", file: one[:len(one)-5], is: io.ErrUnexpectedEOF, want: "t: frame 1, at byte 48: truncated record: unexpected EOF"},
		{name: "pcapng block length 0", file: patch(one, head+4, 0, 0, 0, 0), is: capture.ErrCorrupt, want: "t: frame 1, at byte 48: corrupt: a block of 0 bytes"},
		{name: "pcapng block length odd", file: patch(one, head+4, 33, 0, 0, 0), is: capture.ErrCorrupt, want: "t: frame 1, at byte 48: corrupt: a block of 33 bytes"},
		{name: "pcapng length of gigabytes", file: patch(one, head+4, 0xfc, 0xff, 0xff, 0xff), is: io.ErrUnexpectedEOF, want: "t: frame 1, at byte 48: truncated record: unexpected EOF"},
		{name: "pcapng lengths differ", file: patch(one, len(one)-4, 1), is: capture.ErrCorrupt, want: "t: frame 1, at byte 48: corrupt: block lengths differ (108 and 1)"},
		{name: "pcapng captured length beyond the block", file: patch(one, head+20, 0xff, 0xff, 0xff, 0x7f), is: capture.ErrCorrupt, want: "t: frame 1, at byte 48: corrupt: the block is too short for its content"},
		{
			name: "pcapng interface not described",
			file: second(func(f *ngFile) { f.enhanced(1, 0, eth4) }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 156: corrupt: interface 1 of 1",
		},
		{
			name: "pcapng interfaces end with their section",
			file: second(func(f *ngFile) { f.section().simple(1, "x") }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 184: corrupt: interface 0 of 0",
		},
		{
			name: "pcapng packet block without its fields",
			file: second(func(f *ngFile) { f.block(6, make([]byte, 16)) }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 156: corrupt: the block is too short for its content",
		},
		{
			name: "pcapng decimal resolution out of range",
			file: second(func(f *ngFile) { f.iface(1, 0, f.option(9, 20)) }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 156: corrupt: timestamp resolution 0x14",
		},
		{
			name: "pcapng binary resolution out of range",
			file: second(func(f *ngFile) { f.iface(1, 0, f.option(9, 0xff)) }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 156: corrupt: timestamp resolution 0xff",
		},
		{
			name: "pcapng option beyond its block",
			file: second(func(f *ngFile) { f.iface(1, 0, []byte{2, 0, 0xff, 0xff}) }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 156: corrupt: the block is too short for its content",
		},
		{
			name: "pcapng more interfaces than any capture has",
			file: func() []byte {
				n := little().section()
				for range 1<<16 + 1 {
					n.iface(1, 0)
				}
				return n.b
			}(), is: capture.ErrCorrupt,
			want: "t: frame 1, at byte 1310748: corrupt: more than 65536 interfaces",
		},
		{
			name: "pcapng frame longer than any snapshot",
			file: second(func(f *ngFile) { f.enhanced(0, 0, strings.Repeat("x", 256<<10+1)) }), packets: 1, is: capture.ErrCorrupt,
			want: "t: frame 2, at byte 156: corrupt: a frame of 262145 bytes, more than 262144",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			packets, _, err := readAll(t, "t", tt.file)
			if len(packets) != tt.packets {
				t.Errorf("%d packets before the error, want %d", len(packets), tt.packets)
			}
			if !errors.Is(err, tt.is) {
				t.Fatalf("error %v, want one that is %v", err, tt.is)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ok.pcap")
	if err := os.WriteFile(path, pcapFile(binary.LittleEndian, false, 101, frame{moment, packet4}), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := capture.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ip, err := r.Next(); err != nil || string(ip) != packet4 {
		t.Errorf("Next: %q, %v; want the packet", ip, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := capture.Open(filepath.Join(dir, "none.pcap")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v, want fs.ErrNotExist", err)
	}
	if _, err := capture.Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v, want an error that names it", err)
	}
}

// TestNextAllocates makes sure that memory does not grow with the capture.
func TestNextAllocates(t *testing.T) {
	frames := make([]frame, 2000)
	ng := little().section().iface(1, 0)
	for i := range frames {
		frames[i] = frame{moment, ethernet(packet4, 0x0800)}
		ng.enhanced(0, 0, frames[i].data)
	}
	for name, file := range map[string][]byte{
		"pcap":   pcapFile(binary.LittleEndian, false, 1, frames...),
		"pcapng": ng.b,
	} {
		t.Run(name, func(t *testing.T) {
			r, err := capture.NewReader(name, bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			allocs := testing.AllocsPerRun(1000, func() {
				if _, _, err := r.Next(); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%v allocations a packet, want 0", allocs)
			}
		})
	}
}

// TestCorpora reads real captures to their end and compares with gopacket's
// reader, which is right for undamaged Ethernet captures.
func TestCorpora(t *testing.T) {
	root := corpora.Path(t, "corpora")
	files := 0
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(filepath.Base(path), ".pcap") || strings.Contains(path, "expected") || filepath.Ext(path) == ".out" {
			return err
		}
		files++
		t.Run(filepath.Base(path), func(t *testing.T) {
			want := gopacketRead(t, path)
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := readAll(t, path, file)
			if err != nil {
				t.Fatal(err)
			}
			if len(want) == 0 {
				t.Fatal("gopacket found no IP packet")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("packets (-gopacket +got):\n%.2000s", diff)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Errorf("no capture under %s", root)
	}
}

func gopacketRead(t *testing.T, path string) (packets []packet) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r.SetSnaplen(1 << 20)
	for n := 1; ; n++ {
		data, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return packets
		}
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(data, r.LinkType(), gopacket.Lazy)
		if l := p.NetworkLayer(); l != nil {
			ip := string(l.LayerContents()) + string(l.LayerPayload())
			packets = append(packets, packet{ci.Timestamp, n, ip})
		}
	}
}

// FuzzReader feeds the reader with damaged captures: it must end, and without a
// panic. What it delivers must lie in bounds that do not depend on the file.
func FuzzReader(f *testing.F) {
	eth4 := ethernet(packet4, 0x8100, 0x0800)
	f.Add(pcapFile(binary.LittleEndian, false, 1, frame{moment, eth4}))
	f.Add(modifiedFile(binary.BigEndian, 1, frame{moment, eth4}))
	f.Add(pcapFile(binary.BigEndian, true, 276, frame{moment, strings.Repeat("\x08\x00", 10) + packet4}))
	f.Add(little().section().iface(1, 0).enhanced(0, 1, eth4).obsolete(0, 1, eth4).simple(uint32(len(eth4)), eth4).b)
	f.Add(big().section().iface(101, 0, big().option(9, 0x8a), big().option(14, make([]byte, 8)...)).enhanced(0, 1, packet6).b)
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := capture.NewReader("fuzz", bytes.NewReader(file))
		for err == nil {
			var ip []byte
			before := r.Frame() + r.Skipped()
			_, ip, err = r.Next()
			if err == nil && (len(ip) == 0 || len(ip) > 256<<10 || ip[0]>>4 != 4 && ip[0]>>4 != 6) {
				t.Fatalf("frame %d: not an IP packet: %d bytes", r.Frame(), len(ip))
			}
			if err == nil && r.Frame()+r.Skipped() <= before {
				t.Fatal("Next did not advance")
			}
		}
		var e *capture.Error
		if !errors.Is(err, io.EOF) && !errors.As(err, &e) {
			t.Fatalf("error %v is not a *capture.Error", err)
		}
	})
}
