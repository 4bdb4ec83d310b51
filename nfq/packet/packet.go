// Package packet is one TCP segment as it crosses a firewall: what it is, and how it is
// decoded.
package packet

import "net/netip"

// Flags are the TCP flags that matter to a reader of streams, at their places
// in the TCP header (RFC 9293 section 3.1).
type Flags uint8

// The flags.
const (
	FIN Flags = 1 << 0
	SYN Flags = 1 << 1
	RST Flags = 1 << 2
	ACK Flags = 1 << 4
)

// Packet is one TCP segment. One that a queue hands out is valid only while the handler
// runs: Payload and Conntrack are borrowed, and the Packet is used again for the next one.
type Packet struct {
	// ID is the queue's name for the packet, which its Accept wants. It is 0 where the
	// packet comes from no queue.
	ID uint32
	// Src and Dst are the addresses as they stand in the packet: an IPv4-mapped
	// address in an IPv6 packet stays an IPv6 address.
	Src, Dst netip.AddrPort
	// Zone is the packet's conntrack zone. Two zones may have connections between
	// the same addresses and ports.
	Zone uint16
	// Seq and Ack are the sequence and acknowledgment numbers, Seq that of the
	// first byte of Payload, or of the SYN.
	Seq, Ack uint32
	Flags    Flags
	// Payload is what the segment carries, without the padding of the link.
	Payload []byte
	// Conntrack is what conntrack knows of the packet's connection: the CTA_*
	// attributes of ctnetlink, borrowed like Payload. It is nil where conntrack
	// has not seen the packet, and where the queue does not ask for it.
	Conntrack []byte
}
