package main_test

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"ftpctd/bench/lab"
)

// TestAttackSimultaneousOpen is a server outside that answers the SYN of a client inside
// with its own SYN (RFC 9293 section 3.5, figure 7): the handshake has no SYN/ACK from
// the server, unless it sends one later, with numbers of its choice. The client is a
// kernel's, and sends a request that a web page made it send.
func TestAttackSimultaneousOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		port uint16
		// synAck sends a SYN/ACK before the handshake ends, as if the client
		// began with the body of its request.
		synAck bool
	}{
		{name: "bare SYN", port: 21},
		{name: "bare SYN, another control port", port: secondPort},
		{name: "SYN/ACK behind it", port: 21, synAck: true},
		{name: "SYN/ACK behind it, another control port", port: secondPort, synAck: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				ctx := testContext(t)
				s := newStage(t)
				s.startWith(t, config, tt.port)
				server := netip.AddrPortFrom(attackerIPv4, tt.port)
				secret := netip.AddrPortFrom(s.inside.IPv4(), secretPort)
				connected := make(chan net.Conn, 1)
				go func() {
					conn, err := s.inside.DialTCP(ctx, netip.AddrPort{}, server)
					if err != nil {
						conn = nil
					}
					connected <- conn
				}()
				syn := waitFor(ctx, t, s.atOut, "the client's SYN", func(got lab.Segment) bool { return got.Dst == server })
				k := s.talk(ctx, syn.Src, server)
				k.client.next = syn.Next()
				k.send(t, k.server, k.segment(k.server, lab.SYN, ""))
				k.server.next++
				waitFor(ctx, t, s.atOut, "the client's SYN/ACK", func(got lab.Segment) bool {
					return got.Dst == server && got.Flags == lab.SYN|lab.ACK && got.Ack == k.server.next
				})
				if tt.synAck {
					fake := k.segment(k.server, lab.SYN|lab.ACK, "")
					fake.Seq--
					fake.Ack += uint32(len(post))
					k.deliver(t, k.server, fake)
				}
				k.send(t, k.server, k.segment(k.server, lab.ACK, ""))
				conn := <-connected
				if conn == nil {
					t.Fatal("the client does not connect")
				}
				defer func() { _ = conn.Close() }()
				k.request(t, conn, post)
				k.say(t, k.server, "220 hello\r\n")
				for _, line := range []struct{ command, reply string }{
					{"USER anonymous", "331 which password?"},
					{"PASS lab@example.com", "230 logged in"},
					{announce(secret), "200 OK"},
				} {
					k.request(t, conn, line.command+"\r\n")
					k.say(t, k.server, line.reply+"\r\n")
				}
				s.expectClosed(t, attackerIPv4, secret)
			})
		})
	}
}

// request sends a text from a kernel client, and acknowledges it when it has arrived.
func (k *talk) request(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	waitFor(k.ctx, t, k.stage.atOut, "the client's request", func(got lab.Segment) bool {
		return got.Src == k.client.addr && got.Next() == k.client.next+uint32(len(text))
	})
	k.client.next += uint32(len(text))
	k.send(t, k.server, k.segment(k.server, lab.ACK, ""))
}

// TestAttackHandshake plays tricks with the numbers and the data of a handshake, so
// that a request is read from its body on. The client inside is played by hand: what
// it does is what a client does that has not got the segments in question, which a
// short TTL can bring about.
func TestAttackHandshake(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		// open opens the connection and sends the client's request, without the
		// body.
		open func(t *testing.T, k *talk)
		// read says that what follows is a session by right.
		read bool
	}{
		{name: "no request", open: func(t *testing.T, k *talk) { k.handshake(t) }, read: true},
		{name: "two SYN/ACKs, the second ahead", open: func(t *testing.T, k *talk) {
			k.flags(t, k.client, lab.SYN)
			k.flags(t, k.server, lab.SYN|lab.ACK)
			k.synAck(t, uint32(len(post)))
			k.flags(t, k.client, lab.ACK)
			k.say(t, k.client, post)
		}},
		{name: "two SYN/ACKs, the second to a client that has spoken", open: func(t *testing.T, k *talk) {
			k.handshake(t)
			k.say(t, k.client, post)
			k.synAck(t, 0)
		}},
		{name: "RST, and a SYN/ACK", open: func(t *testing.T, k *talk) {
			k.handshake(t)
			k.say(t, k.client, post)
			k.deliver(t, k.server, k.segment(k.server, lab.RST|lab.ACK, ""))
			k.stage.flushConntrack(t)
			k.say(t, k.client, "\r\n")
			k.synAck(t, 0)
		}},
		{name: "conntrack forgets it, and a SYN/ACK", open: func(t *testing.T, k *talk) {
			k.handshake(t)
			k.say(t, k.client, post)
			k.stage.flushConntrack(t)
			k.say(t, k.client, "\r\n")
			k.synAck(t, 0)
		}},
		// The forged SYN is ignored by conntrack until a SYN/ACK acknowledges it:
		// then the connection is in the state SYN_RECV again.
		{name: "SYN forged, and a SYN/ACK", open: func(t *testing.T, k *talk) {
			k.handshake(t)
			k.say(t, k.client, post)
			k.forgedSYN(t)
			k.synAck(t, 0)
		}},
		{name: "conntrack forgets it, SYN forged, and a SYN/ACK", open: func(t *testing.T, k *talk) {
			k.handshake(t)
			k.say(t, k.client, post)
			k.stage.flushConntrack(t)
			k.forgedSYN(t)
			k.synAck(t, 0)
		}},
		{name: "conntrack forgets it, and simultaneous open", open: func(t *testing.T, k *talk) {
			k.handshake(t)
			k.say(t, k.client, post)
			k.stage.flushConntrack(t)
			k.forgedSYN(t)
			s := k.segment(k.server, lab.SYN, "")
			s.Seq--
			k.deliver(t, k.server, s)
			k.synAck(t, 0)
		}},
	} {
		for _, end := range victims {
			t.Run(tt.name+", "+end.family, func(t *testing.T) {
				eachMode(t, func(t *testing.T, config string) {
					s := newStage(t)
					s.rpFilter(t, 0)
					start(t, s.Router, config)
					k := s.talk(testContext(t), netip.AddrPortFrom(end.client, clientPort), netip.AddrPortFrom(end.server, lab.ControlPort))
					tt.open(t, k)
					secret := netip.AddrPortFrom(end.client, secretPort)
					k.masquerade(t, secret)
					if got := s.reachable(t, end.server, secret); got != tt.read {
						t.Errorf("%s can reach %s: %t, want %t", end.server, secret, got, tt.read)
					}
				})
			})
		}
	}
}

// synAck sends a SYN/ACK of the server that fits its next segment, and acknowledges
// ahead bytes more than the client has sent. The router may drop it.
func (k *talk) synAck(t *testing.T, ahead uint32) {
	t.Helper()
	s := k.segment(k.server, lab.SYN|lab.ACK, "")
	s.Seq--
	s.Ack += ahead
	k.send(t, k.server, s)
}

// forgedSYN sends a SYN from outside with the address of the client, which fits the next
// segment of the client.
func (k *talk) forgedSYN(t *testing.T) {
	t.Helper()
	s := k.segment(k.client, lab.SYN, "")
	s.Seq--
	if err := k.stage.out.Send(s); err != nil {
		t.Fatal(err)
	}
	k.crossed(t, s)
}

// TestAttackFastOpen is a request that comes with the SYN (TCP Fast Open, RFC 7413).
// The server acknowledges all but its body, which is sent again.
func TestAttackFastOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		client, server netip.Addr
		data           string // of the SYN
		acknowledged   int    // so many bytes of it
	}{
		{name: "IPv4", client: victimIPv4, server: attackerIPv4, data: post, acknowledged: len(post)},
		{name: "IPv6", client: victimIPv6, server: attackerIPv6, data: post, acknowledged: len(post)},
		{name: "in part", client: victimIPv4, server: attackerIPv4, data: post + "USER", acknowledged: len(post)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				start(t, s.Router, config)
				ctx := testContext(t)
				k := s.talk(ctx, netip.AddrPortFrom(tt.client, clientPort), netip.AddrPortFrom(tt.server, lab.ControlPort))
				secret := netip.AddrPortFrom(tt.client, secretPort)
				syn := k.segment(k.client, lab.SYN, tt.data)
				k.send(t, k.client, syn)
				// Another SYN follows on the same way: when it has come, the first
				// has come or was dropped.
				fence := s.talk(ctx, netip.AddrPortFrom(tt.client, clientPort+1), netip.AddrPortFrom(tt.server, lab.ControlPort))
				second := fence.segment(fence.client, lab.SYN, "")
				fence.send(t, fence.client, second)
				came := waitFor(ctx, t, s.atOut, "a SYN comes", func(got lab.Segment) bool {
					return got.Src == syn.Src || got.Src == second.Src
				})
				if came.Src == second.Src {
					// Dropped: the client tries without data, and is served.
					k.handshake(t)
					k.login(t)
					k.dialogue(t, announce(secret), "200 OK")
					if !s.reachable(t, tt.server, secret) {
						t.Error("a session whose first SYN had data is not served after the second")
					}
					return
				}
				k.client.next += 1 + uint32(tt.acknowledged)
				k.flags(t, k.server, lab.SYN|lab.ACK)
				k.flags(t, k.client, lab.ACK)
				k.masquerade(t, secret)
				s.expectClosed(t, tt.server, secret)
			})
		})
	}
}
