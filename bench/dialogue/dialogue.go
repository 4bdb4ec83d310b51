// Package dialogue has FTP dialogues for benchmarks, as segments and as IP packets.
package dialogue

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"ftpctd/nfq/packet"
)

// The ends of the control connection that the dialogues are for.
var (
	Client = netip.MustParseAddrPort("10.0.0.1:50000")
	Server = netip.MustParseAddrPort("192.168.0.201:21")
)

// Login begins a session, behind the handshake.
var Login = Parse("S220 ready\r\n|CUSER a\r\n|S331 p\r\n|CPASS b\r\n|S230 ok\r\n")

// Dialogue is an exchange of a session.
type Dialogue struct {
	Kind  string
	Steps []Step
	// Src and Dst are the ends of the data connection that the dialogue announces. They
	// are not valid if it announces none.
	Src, Dst netip.AddrPort
}

// Repeatable are the dialogues that can be repeated without end on one connection.
var Repeatable = []Dialogue{
	{Kind: "boring", Steps: Parse("CNOOP\r\n|S200 ok\r\n")},
	{Kind: "announcing-227", Steps: Parse("CPASV\r\n|S227 Entering Passive Mode (192,168,0,201,122,8).\r\n"), Src: passive.src, Dst: passive.dst},
	{
		Kind: "announcing-PORT", Steps: Parse("CPORT 10,0,0,1,154,208\r\n|S200 ok\r\n"),
		Src: netip.MustParseAddrPort("192.168.0.201:20"), Dst: netip.MustParseAddrPort("10.0.0.1:39632"),
	},
	{Kind: "split", Steps: Parse("CPA|CSV\r\n|S227 Entering Passive Mode |S(192,168,0,201,122,8).\r\n"), Src: passive.src, Dst: passive.dst},
}

var passive = struct{ src, dst netip.AddrPort }{
	netip.MustParseAddrPort("10.0.0.1:50001"), netip.MustParseAddrPort("192.168.0.201:31240"),
}

// Step is a segment of a dialogue.
type Step struct {
	Server  bool // sends it
	Payload []byte
}

// Parse reads steps that are separated by "|", each with a "C" or an "S" ahead of its
// payload.
func Parse(s string) []Step {
	var steps []Step
	for part := range strings.SplitSeq(s, "|") {
		steps = append(steps, Step{part[0] == 'S', []byte(part[1:])})
	}
	return steps
}

// Size is the number of bytes in steps.
func Size(steps []Step) (n int64) {
	for _, st := range steps {
		n += int64(len(st.Payload))
	}
	return n
}

// Speaker numbers the segments of a control connection.
type Speaker struct {
	Client, Server netip.AddrPort
	// Seq are the next sequence numbers of the client and of the server.
	Seq [2]uint32
}

// SYNACK is the server's answer to the client's SYN. Both were numbered when it returns.
func (s *Speaker) SYNACK() packet.Packet {
	p := packet.Packet{Src: s.Server, Dst: s.Client, Flags: packet.SYN | packet.ACK, Seq: s.Seq[1], Ack: s.Seq[0] + 1}
	s.Seq[0]++
	s.Seq[1]++
	return p
}

// Packet is the segment of a step.
func (s *Speaker) Packet(st Step) packet.Packet {
	p := packet.Packet{Src: s.Client, Dst: s.Server, Seq: s.Seq[0], Ack: s.Seq[1], Flags: packet.ACK, Payload: st.Payload}
	if st.Server {
		p = packet.Packet{Src: s.Server, Dst: s.Client, Seq: s.Seq[1], Ack: s.Seq[0], Flags: packet.ACK, Payload: st.Payload}
		s.Seq[1] += uint32(len(st.Payload))
	} else {
		s.Seq[0] += uint32(len(st.Payload))
	}
	return p
}

// IP builds the IP packet of a segment, with a time stamp option and without checksums.
func IP(p packet.Packet) []byte {
	tcp := make([]byte, 32)
	binary.BigEndian.PutUint16(tcp[0:], p.Src.Port())
	binary.BigEndian.PutUint16(tcp[2:], p.Dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], p.Seq)
	binary.BigEndian.PutUint32(tcp[8:], p.Ack)
	tcp[12], tcp[13] = 8<<4, byte(p.Flags)
	copy(tcp[20:], []byte{1, 1, 8, 10}) // NOP, NOP, time stamps
	tcp = append(tcp, p.Payload...)
	if p.Src.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		copy(ip[12:], p.Src.Addr().AsSlice())
		copy(ip[16:], p.Dst.Addr().AsSlice())
		return append(ip, tcp...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, 6, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], p.Src.Addr().AsSlice())
	copy(ip[24:], p.Dst.Addr().AsSlice())
	return append(ip, tcp...)
}
