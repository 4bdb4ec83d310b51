package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// The errors of [Decoder.Decode].
var (
	ErrNotTCP    = errors.New("packet: packet is not TCP over IPv4 or IPv6")
	ErrFragment  = errors.New("packet: packet is a fragment")
	ErrTruncated = errors.New("packet: packet is truncated")
	ErrMalformed = errors.New("packet: packet has a malformed header")
)

const (
	ipv4HeaderLen    = 20
	ipv6HeaderLen    = 40
	ipv6FragmentLen  = 8
	tcpMinDataOffset = 5
	// fragmentReserved are the reserved bits beside offset and M flag in the fragment
	// header (RFC 8200 section 4.5).
	fragmentReserved = 0b110
)

// Decoder decodes packets into a [Packet]. It reuses its memory for headers and allocates
// nothing. It is not safe for concurrent use. The zero Decoder is ready.
type Decoder struct {
	ip4 layers.IPv4
	ext layers.IPv6ExtensionSkipper
	tcp layers.TCP
}

// Decode decodes the IP packet b into p, whose Payload borrows from b. It does not change
// p.ID, p.Zone and p.Conntrack; if it fails, the other fields are undefined.
//
// It fails unless b is one whole TCP segment: for another protocol, a fragment, or a packet
// shorter than its header says, because a truncated line must not be parsed as a whole one.
// Checksums are not verified: conntrack has done that for a queue's packet.
//
// Invalid options are ignored, as the receiving host ignores them (tcp_parse_options of
// net/ipv4/tcp_input.c): a payload that the host accepts must be parsed here too.
func (d *Decoder) Decode(b []byte, p *Packet) error {
	if len(b) == 0 {
		return ErrTruncated
	}
	switch b[0] >> 4 {
	case 4:
		return d.ipv4(b, p)
	case 6:
		return d.ipv6(b, p)
	}
	return ErrNotTCP
}

func (d *Decoder) ipv4(b []byte, p *Packet) error {
	if len(b) < ipv4HeaderLen {
		return ErrTruncated
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < ipv4HeaderLen {
		return ErrMalformed
	}
	if total > len(b) {
		return ErrTruncated
	}
	d.ip4.BaseLayer = layers.BaseLayer{}
	err := d.ip4.DecodeFromBytes(b[:total], gopacket.NilDecodeFeedback)
	if err != nil && (d.ip4.IHL*4 < ipv4HeaderLen || len(d.ip4.Contents) != int(d.ip4.IHL)*4) {
		return ErrMalformed
	}
	if d.ip4.Flags&layers.IPv4MoreFragments != 0 || d.ip4.FragOffset != 0 {
		return ErrFragment
	}
	if d.ip4.Protocol != layers.IPProtocolTCP {
		return ErrNotTCP
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return d.segment(d.ip4.Payload, src, dst, p)
}

// ipv6 reads the fixed header without layers.IPv6, which includes the hop-by-hop header,
// allocates for each of its options, and counts its length twice: every such packet would
// seem truncated.
func (d *Decoder) ipv6(b []byte, p *Packet) error {
	if len(b) < ipv6HeaderLen {
		return ErrTruncated
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 { // at best a jumbogram (RFC 2675), which no control connection sends
		return ErrMalformed
	}
	if ipv6HeaderLen+length > len(b) {
		return ErrTruncated
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, rest := layers.IPProtocol(b[6]), b[ipv6HeaderLen:ipv6HeaderLen+length]
	for {
		switch next {
		case layers.IPProtocolTCP:
			return d.segment(rest, src, dst, p)
		case layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Destination:
			if d.ext.DecodeFromBytes(rest, gopacket.NilDecodeFeedback) != nil {
				return ErrMalformed
			}
			next, rest = d.ext.NextHeader, d.ext.Payload
		case layers.IPProtocolIPv6Fragment:
			if len(rest) < ipv6FragmentLen {
				return ErrMalformed
			}
			// An atomic fragment is a whole packet (RFC 6946).
			if binary.BigEndian.Uint16(rest[2:])&^fragmentReserved != 0 {
				return ErrFragment
			}
			next, rest = layers.IPProtocol(rest[0]), rest[ipv6FragmentLen:]
		default:
			return ErrNotTCP
		}
	}
}

func (d *Decoder) segment(b []byte, src, dst netip.Addr, p *Packet) error {
	d.tcp.BaseLayer = layers.BaseLayer{}
	err := d.tcp.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
	if err != nil && (d.tcp.DataOffset < tcpMinDataOffset || len(d.tcp.Contents) != int(d.tcp.DataOffset)*4) {
		return ErrMalformed
	}
	p.Src = netip.AddrPortFrom(src, uint16(d.tcp.SrcPort))
	p.Dst = netip.AddrPortFrom(dst, uint16(d.tcp.DstPort))
	p.Seq, p.Ack = d.tcp.Seq, d.tcp.Ack
	p.Flags = Flags(b[13]) & (FIN | SYN | RST | ACK)
	p.Payload = d.tcp.Payload
	return nil
}
