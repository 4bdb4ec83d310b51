package conntrack_test

import (
	"fmt"
	"net/netip"
	"time"

	"ftpctd/conntrack"
	"ftpctd/nfq/packet"
)

// A PASV dialogue: the reply of the server announces where it waits for the client, and the
// Decision on its packet has the expectation.
func ExampleTracker() {
	t := conntrack.New(conntrack.Config{
		Ports:       []uint16{21},
		Policy:      conntrack.Policy{MinPort: 1024, PassivePorts: conntrack.PortRange{Min: 1024, Max: 65535}},
		Connections: 1000, MaxExpected: 8, Timeout: 30 * time.Second,
	})
	client, server := netip.MustParseAddrPort("192.0.2.10:40000"), netip.MustParseAddrPort("198.51.100.20:21")
	clientSeq, serverSeq := uint32(1001), uint32(2001)
	now := time.Now()

	// The handshake opens the connection.
	t.Packet(now, &packet.Packet{Src: client, Dst: server, Seq: clientSeq - 1, Flags: packet.SYN})
	t.Packet(now, &packet.Packet{
		Src: server, Dst: client, Seq: serverSeq - 1, Ack: clientSeq, Flags: packet.SYN | packet.ACK,
	})
	for _, line := range []struct{ from, text string }{
		{"server", "220 Welcome.\r\n"},
		{"client", "USER anonymous\r\n"},
		{"server", "230 Logged in.\r\n"},
		{"client", "PASV\r\n"},
		{"server", "227 Entering Passive Mode (198,51,100,20,122,8).\r\n"},
	} {
		p := packet.Packet{
			Src: client, Dst: server, Seq: clientSeq, Ack: serverSeq, Flags: packet.ACK, Payload: []byte(line.text),
		}
		if line.from == "server" {
			p.Src, p.Dst, p.Seq, p.Ack = server, client, serverSeq, clientSeq
			serverSeq += uint32(len(line.text))
		} else {
			clientSeq += uint32(len(line.text))
		}
		for _, x := range t.Packet(now, &p).Expect {
			fmt.Println("expect", x.Tuple.Src.Addr(), "->", x.Tuple.Dst, "by", x.Via)
		}
	}

	// The expectation ends with its master.
	for _, x := range t.Packet(now, &packet.Packet{Src: client, Dst: server, Seq: clientSeq, Flags: packet.RST}).Withdraw {
		fmt.Println("withdraw", x.Tuple.Dst)
	}
	// Output:
	// expect 192.0.2.10 -> 198.51.100.20:31240 by 227
	// withdraw 198.51.100.20:31240
}

// PORT with the address of another host (FTP bounce) is rejected, and Observe gets the reason.
func ExamplePolicy() {
	t := conntrack.New(conntrack.Config{
		Ports: []uint16{21}, Connections: 1000, MaxExpected: 8, Timeout: 30 * time.Second,
		Policy: conntrack.Policy{
			MinPort: 1024, Active: true, ActivePorts: conntrack.PortRange{Min: 1024, Max: 65535},
		},
		Observe: func(e conntrack.Event) {
			if e.Kind == conntrack.EventReject {
				fmt.Println("reject", e.Tuple.Dst, e.Reason)
			}
		},
	})
	client, server := netip.MustParseAddrPort("192.0.2.10:40000"), netip.MustParseAddrPort("198.51.100.20:21")
	now := time.Now()
	send := func(p packet.Packet) { t.Packet(now, &p) }
	send(packet.Packet{Src: server, Dst: client, Seq: 2000, Ack: 1001, Flags: packet.SYN | packet.ACK})
	send(packet.Packet{Src: server, Dst: client, Seq: 2001, Ack: 1001, Flags: packet.ACK, Payload: []byte("220 Welcome.\r\n")})
	send(packet.Packet{Src: client, Dst: server, Seq: 1001, Ack: 2015, Flags: packet.ACK, Payload: []byte("PORT 203,0,113,9,154,208\r\n")})
	// Output:
	// reject 203.0.113.9:39632 foreign-address
}
