package capture

import (
	"encoding/binary"
	"fmt"
	"time"
)

// A pcap file is a header of 24 bytes and records of a header of 16 bytes and a
// frame (draft-ietf-opsawg-pcap). Everything is in the byte order of the
// machine that wrote it, which the magic number tells.
//
// A modified pcap, which Alexey Kuznetsov's patched libpcap writes, has 8 bytes more in
// the header of a record: the interface, the protocol and the packet's type
// (struct pcap_sf_patched_pkthdr of libpcap).
const (
	pcapHeaderLen         = 24
	pcapRecordLen         = 16
	pcapModifiedRecordLen = 24

	pcapMicroseconds = 0xa1b2c3d4
	pcapNanoseconds  = 0xa1b23c4d
	pcapModified     = 0xa1b2cd34 // microseconds, too
)

// A pcap reads the records of a pcap file. The snapshot length of its header is
// not looked at: some writers go beyond it, and tcpdump and Wireshark read them.
type pcap struct {
	src   *source
	order binary.ByteOrder
	nanos int64 // nanoseconds in a unit of the time stamp's fraction
	link  linkType
	buf   []byte
	head  [pcapModifiedRecordLen]byte
	heads int // bytes of head that a record has
}

func newPcap(src *source) (*pcap, error) {
	var h [pcapHeaderLen]byte
	if err := src.full(h[:4]); err != nil {
		return nil, err
	}
	p := &pcap{src: src, heads: pcapRecordLen}
	for _, p.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch p.order.Uint32(h[:]) {
		case pcapMicroseconds:
			p.nanos = 1000
		case pcapModified:
			p.nanos, p.heads = 1000, pcapModifiedRecordLen
		case pcapNanoseconds:
			p.nanos = 1
		default:
			continue
		}
		break
	}
	if p.nanos == 0 {
		return nil, ErrFormat
	}
	if err := src.full(h[4:]); err != nil {
		return nil, fmt.Errorf("pcap header: %w", err)
	}
	if major, minor := p.order.Uint16(h[4:]), p.order.Uint16(h[6:]); major != 2 {
		return nil, fmt.Errorf("%w: pcap version %d.%d, only 2.x is supported", ErrFormat, major, minor)
	}
	// The upper half of the field holds the length of the frame check sequence.
	p.link = linkType(p.order.Uint32(h[20:]) & 0xffff)
	return p, nil
}

// next implements format.
func (p *pcap) next() (record, error) {
	p.src.begin()
	h := p.head[:p.heads]
	if err := p.src.full(h); err != nil {
		return record{}, err
	}
	sec, frac := int64(p.order.Uint32(h)), int64(p.order.Uint32(h[4:]))
	var err error
	if p.buf, err = p.src.frame(p.buf, p.order.Uint32(h[8:])); err != nil {
		return record{}, err
	}
	return record{ts: time.Unix(sec, frac*p.nanos).UTC(), link: p.link, data: p.buf}, nil
}
