// Package packet decodes IP packets with a TCP segment, as a queue or a capture has them.
package packet

import "net/netip"

// Flags are the TCP flags that connection tracking needs, as in the TCP header (RFC 9293
// section 3.1).
type Flags uint8

// The flags.
const (
	FIN Flags = 1 << 0
	SYN Flags = 1 << 1
	RST Flags = 1 << 2
	ACK Flags = 1 << 4
)

// Packet is one TCP segment. A queue's is valid only while the handler runs: Payload and
// Conntrack are borrowed, and the Packet is reused for the next one.
type Packet struct {
	// ID identifies the packet to Accept of its queue. It is 0 without a queue.
	ID uint32
	// Src and Dst are the addresses as in the packet: an IPv4-mapped address in an IPv6
	// packet stays an IPv6 address.
	Src, Dst netip.AddrPort
	// Zone is the packet's conntrack zone. Two zones may have connections between
	// the same addresses and ports.
	Zone uint16
	// Seq is the sequence number of the first byte of Payload, or of the SYN. Ack is the
	// acknowledgment number, valid with the flag ACK.
	Seq, Ack uint32
	Flags    Flags
	// Payload is the segment's payload, without the padding of the link layer.
	Payload []byte
	// Conntrack has ctnetlink's attributes (CTA_*) of the packet's connection. It is nil
	// if conntrack has not seen the packet, or if the queue does not ask for it.
	Conntrack []byte
}
