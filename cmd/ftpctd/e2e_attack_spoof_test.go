package main_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"ftpctd/bench/lab"
)

// TestAttackForgedClient sends packets from outside, with the address of an idle host
// inside, to a server of the attacker's.
func TestAttackForgedClient(t *testing.T) {
	t.Parallel()
	const (
		twoPackets  = iota // NOOP and the announcement, of a connection that nobody opened
		handshake          // a whole session; the victim is a host that drops what it has not asked for
		lostReplies        // so, but the replies of the server go no further than the router
	)
	for _, tt := range []struct {
		name     string
		rpFilter int
		client   netip.Addr
		server   netip.Addr
		port     uint16
		attack   int
	}{
		{name: "two packets, IPv4, rp_filter 0", client: victimIPv4, server: attackerIPv4, port: 21, attack: twoPackets},
		{name: "two packets, IPv4, rp_filter 2", rpFilter: 2, client: victimIPv4, server: attackerIPv4, port: 21, attack: twoPackets},
		{name: "two packets, IPv6", client: victimIPv6, server: attackerIPv6, port: 21, attack: twoPackets},
		{name: "two packets, another control port", client: victimIPv4, server: attackerIPv4, port: secondPort, attack: twoPackets},
		{name: "two packets, IPv6, another control port", client: victimIPv6, server: attackerIPv6, port: secondPort, attack: twoPackets},
		{name: "handshake, IPv4, rp_filter 0", client: victimIPv4, server: attackerIPv4, port: 21, attack: handshake},
		{name: "handshake, IPv4, rp_filter 2", rpFilter: 2, client: victimIPv4, server: attackerIPv4, port: 21, attack: handshake},
		{name: "handshake, IPv6", client: victimIPv6, server: attackerIPv6, port: 21, attack: handshake},
		{name: "lost replies, IPv4", client: victimIPv4, server: attackerIPv4, port: 21, attack: lostReplies},
		{name: "lost replies, IPv6", client: victimIPv6, server: attackerIPv6, port: 21, attack: lostReplies},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				s.rpFilter(t, tt.rpFilter)
				s.startWith(t, config, tt.port)
				k := s.talk(testContext(t), netip.AddrPortFrom(tt.client, clientPort), netip.AddrPortFrom(tt.server, tt.port))
				k.client.wire = s.out
				secret := netip.AddrPortFrom(tt.client, secretPort)
				switch tt.attack {
				case twoPackets:
					k.say(t, k.client, "NOOP\r\n")
					k.say(t, k.client, announce(secret)+"\r\n")
				case handshake:
					k.handshake(t)
					k.login(t)
					k.dialogue(t, announce(secret), "200 OK")
				case lostReplies:
					k.server.ttl = 1
					k.flags(t, k.client, lab.SYN)
					k.mutter(t, lab.SYN|lab.ACK, "")
					k.flags(t, k.client, lab.ACK)
					k.mutter(t, lab.ACK|lab.PSH, "220 hello\r\n")
					k.say(t, k.client, "USER anonymous\r\n")
					k.mutter(t, lab.ACK|lab.PSH, "230 logged in\r\n")
					k.say(t, k.client, announce(secret)+"\r\n")
				}
				s.expectClosed(t, tt.server, secret)
			})
		})
	}
}

// mutter sends the next segment of the server, which need not arrive anywhere.
func (k *talk) mutter(t *testing.T, flags lab.Flags, data string) {
	t.Helper()
	s := k.segment(k.server, flags, data)
	k.send(t, k.server, s)
	k.server.next = s.Next()
}

// TestAttackForgedNeighbour sends packets from outside to a server inside with the
// address of another host outside, which no reverse path filter can distinguish.
func TestAttackForgedNeighbour(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		client, server netip.Addr
		rpFilter       int
	}{
		{name: "IPv4", client: netip.MustParseAddr("10.9.0.2"), server: victimIPv4},
		{name: "IPv4, rp_filter 1", client: netip.MustParseAddr("10.9.0.2"), server: victimIPv4, rpFilter: 1},
		{name: "IPv6", client: netip.MustParseAddr("fd09::2"), server: victimIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				s.rpFilter(t, tt.rpFilter)
				start(t, s.Router, config)
				k := s.talk(testContext(t), netip.AddrPortFrom(tt.client, clientPort), netip.AddrPortFrom(tt.server, lab.ControlPort))
				secret := netip.AddrPortFrom(tt.client, secretPort)
				k.say(t, k.client, "NOOP\r\n")
				k.say(t, k.client, announce(secret)+"\r\n")
				s.expectClosed(t, tt.server, secret)
			})
		})
	}
}

// TestAttackForgedLine puts a line into a session between others, in the name of one
// of its ends, from the far side of the router.
func TestAttackForgedLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		rpFilter int
		port     uint16
		attack   func(ctx context.Context, t *testing.T, s *stage, ipv6 bool, port uint16)
	}{
		{name: "reply, rp_filter 0", port: 21, attack: forgedReply},
		{name: "reply, rp_filter 2", rpFilter: 2, port: 21, attack: forgedReply},
		{name: "reply, another control port", port: secondPort, attack: forgedReply},
		{name: "command, rp_filter 0", port: 21, attack: forgedCommand},
		{name: "command, rp_filter 2", rpFilter: 2, port: 21, attack: forgedCommand},
	} {
		for _, ipv6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %t", tt.name, ipv6), func(t *testing.T) {
				eachMode(t, func(t *testing.T, config string) {
					s := newStage(t)
					s.rpFilter(t, tt.rpFilter)
					s.startWith(t, config, tt.port)
					tt.attack(testContext(t), t, s, ipv6, tt.port)
				})
			})
		}
	}
}

// forgedReply is a client outside that has not logged in, and answers its own PASV
// in the name of the server inside.
func forgedReply(ctx context.Context, t *testing.T, s *stage, ipv6 bool, port uint16) {
	client, server := attackerIPv4, victimIPv4
	ask, reply := "PASV\r\n", "230 logged in\r\n227 here ("+hostPort(netip.AddrPortFrom(victimIPv4, secretPort))+")\r\n"
	if ipv6 {
		client, server = attackerIPv6, victimIPv6
		ask, reply = "EPSV\r\n", "230 logged in\r\n229 here (|||39632|)\r\n"
	}
	k := s.talk(ctx, netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(server, port))
	k.handshake(t)
	k.say(t, k.server, "220 hello\r\n")
	k.say(t, k.client, "USER anonymous\r\n")
	k.say(t, k.server, "331 which password?\r\n")
	k.say(t, k.client, ask)
	k.server.wire = s.out
	k.say(t, k.server, reply)
	s.expectClosed(t, client, netip.AddrPortFrom(server, secretPort))
}

// forgedCommand is a server outside with a session from inside, which announces a port
// to itself with the address of the client.
func forgedCommand(ctx context.Context, t *testing.T, s *stage, ipv6 bool, port uint16) {
	client, server := victimIPv4, attackerIPv4
	if ipv6 {
		client, server = victimIPv6, attackerIPv6
	}
	k := s.talk(ctx, netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(server, port))
	k.handshake(t)
	k.login(t)
	k.client.wire = s.out
	secret := netip.AddrPortFrom(client, secretPort)
	k.dialogue(t, announce(secret), "200 OK")
	s.expectClosed(t, server, secret)
}

// TestAttackForgedData sends the first packet of an expected connection from outside,
// with the address of the host inside that is to open it, and from a port of the
// attacker's choice. Later segments of the attacker to that port would belong to the
// connection.
func TestAttackForgedData(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		attacker, victim netip.Addr
	}{
		{"IPv4", attackerIPv4, victimIPv4},
		{"IPv6", attackerIPv6, victimIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				s.rpFilter(t, 0)
				start(t, s.Router, config)
				k := s.talk(testContext(t), netip.AddrPortFrom(tt.attacker, clientPort), netip.AddrPortFrom(tt.victim, lab.ControlPort))
				k.handshake(t)
				k.login(t)

				secret, data := netip.AddrPortFrom(tt.victim, 22), netip.AddrPortFrom(tt.attacker, 6000)
				syn := lab.Segment{Src: secret, Dst: data, Seq: 1, Flags: lab.SYN}
				k.dialogue(t, announce(data), "200 OK")
				if err := s.out.Send(syn); err != nil {
					t.Fatal(err)
				}
				k.dialogue(t, "NOOP", "200 OK") // behind it
				if tracked(t, s.Router, secret) {
					t.Error("the forged packet began the expected connection")
				}

				k.dialogue(t, announce(data), "200 OK")
				k.deliver(t, k.server, syn) // by the host itself
			})
		})
	}
}
