package conntrack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/nfq/packet"
)

// track updates the conntrack state of the wire's connection: as much of
// tcp_conntracks of net/netfilter/nf_conntrack_proto_tcp.c as the tests need.
func (w *wire) track(src netip.AddrPort, flags packet.Flags) {
	fromClient := src == w.client
	switch {
	case flags&packet.RST != 0:
		w.state = StateNone
	case flags&(packet.SYN|packet.ACK) == packet.SYN && fromClient && w.state == StateNone:
		w.state = StateSynSent
	case flags&(packet.SYN|packet.ACK) == packet.SYN|packet.ACK && !fromClient && w.state == StateSynSent:
		w.state = StateSynRecv
	case flags&(packet.SYN|packet.ACK) == packet.ACK && fromClient && w.state == StateSynRecv:
		w.state = StateEstablished
	}
}

// lookup is a Config.Lookup that knows the wire's connection.
func (w *wire) lookup(_ *packet.Packet, ends Tuple) (Connection, bool) {
	found := withoutNAT(w.zone, Tuple{Src: w.client, Dst: w.server})
	found.State = w.state
	return found, found.Endpoints() == ends && w.state != StateNone
}

// dialogue is the shortest session with an expectation.
func (w *wire) dialogue() {
	w.s("220 r\r\n")
	w.c("USER a\r\n")
	w.s("230 ok\r\n")
	w.c("PORT 192,0,2,10,154,208\r\n")
}

const (
	served  = "expect PORT 198.51.100.20 > 192.0.2.10:39632"
	notSeen = "not-ftp not-seen-from-start"
)

// TestHandshake demands that a SYN/ACK opens a connection only if conntrack takes it
// for the reply to the client's SYN.
func TestHandshake(t *testing.T) {
	ap := netip.MustParseAddrPort
	ends := Tuple{Src: testClient, Dst: testServer}
	begun := withoutNAT(0, ends)
	begun.State = StateSynRecv
	alter := func(f func(c *Connection)) Connection {
		c := begun
		f(&c)
		return c
	}
	tests := []struct {
		name   string
		kernel Connection
		known  bool
		want   []string
	}{
		{"answers the client's SYN", begun, true, []string{"open", served}},
		{"to a server behind NAT", alter(func(c *Connection) { c.Original.Dst = ap("203.0.113.1:2121") }), true, []string{"open", served}},
		{"conntrack has no such connection", Connection{}, false, []string{notSeen}},
		{"conntrack has no state", alter(func(c *Connection) { c.State = StateNone }), true, []string{notSeen}},
		{"conntrack has not seen it as the answer", alter(func(c *Connection) { c.State = StateSynSent }), true, []string{notSeen}},
		{"the client has answered already", alter(func(c *Connection) { c.State = StateEstablished }), true, []string{notSeen}},
		{"simultaneous open: SYN_SENT2", alter(func(c *Connection) { c.State = 9 }), true, []string{notSeen}},
		{"the connection has ended", alter(func(c *Connection) { c.State = 7 }), true, []string{notSeen}},
		{"the other side opened it", alter(func(c *Connection) { c.Original, c.Reply = c.Reply, c.Original }), true, []string{notSeen}},
		{"a data connection", alter(func(c *Connection) { c.Expected = true }), true, []string{notSeen}},
		{"of another client", alter(func(c *Connection) { c.Original.Src = ap("192.0.2.99:40000") }), true, []string{notSeen}},
		{"of another server", alter(func(c *Connection) { c.Reply.Src = ap("198.51.100.99:21") }), true, []string{notSeen}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe = l.observe
			cfg.Lookup = func(_ *packet.Packet, got Tuple) (Connection, bool) {
				if got != ends {
					t.Errorf("asked for the connection between %v, want %v", got, ends)
				}
				return tt.kernel, tt.known
			}
			w := newWire(New(cfg))
			w.handshake()
			w.dialogue()
			if diff := cmp.Diff(tt.want, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkBooks(t, w.t)
		})
	}
}

// TestNeverPickedUp demands that a connection that was not parsed from its handshake on
// stays skipped, whatever its hosts do, until conntrack sees another handshake.
func TestNeverPickedUp(t *testing.T) {
	forget := func(w *wire) { // fills the table with sessions of other clients
		for i := range w.t.cfg.Connections {
			other := newWire(w.t)
			other.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 40000)
			w.t.cfg.Lookup = other.lookup
			other.login()
		}
		w.t.cfg.Lookup = w.lookup
	}
	post := func(w *wire) {
		w.handshake()
		w.s("220 r\r\n")
		w.c("POST / HTTP/1.1\r\n")
	}
	tests := []struct {
		name string
		play func(w *wire)
		want []string // before the dialogue, which is skipped
	}{
		{"the client speaks first", func(w *wire) { w.c("NOOP\r\n") }, []string{notSeen}},
		{"the server speaks first", func(w *wire) { w.s("220 r\r\n") }, []string{notSeen}},
		{"established before the first packet", func(w *wire) { w.state = StateEstablished }, []string{notSeen}},
		{"lost SYN/ACK", func(w *wire) {
			w.send(w.client, w.server, w.cseq, 0, packet.SYN, "")
			w.cseq++
			w.sseq++
			w.state = StateEstablished
		}, []string{notSeen}},
		{"lost SYN/ACK, sent again at will", func(w *wire) {
			w.state = StateEstablished
			w.send(w.server, w.client, w.sseq-1, w.cseq, packet.SYN|packet.ACK, "")
		}, []string{notSeen}},
		{"SYN/ACK sent at will on what is unread", func(w *wire) {
			w.state = StateEstablished
			w.c("XXXX ")
			w.send(w.server, w.client, w.sseq-1, w.cseq, packet.SYN|packet.ACK, "")
		}, []string{notSeen}},
		{"SYN of the client, SYN/ACK of the server on what is unread", func(w *wire) {
			w.state = StateEstablished
			w.c("XXXX ")
			w.send(w.client, w.server, w.cseq-1, 0, packet.SYN, "")
			w.send(w.server, w.client, w.sseq-1, w.cseq, packet.SYN|packet.ACK, "")
		}, []string{notSeen}},
		{"evicted", func(w *wire) {
			w.login()
			forget(w)
		}, []string{"open", "open", "open", "open", "close evicted", "open"}},
		{"evicted, not FTP", func(w *wire) {
			post(w)
			forget(w)
		}, []string{"open", "not-ftp not-a-verb", "open", "open", "open", "close evicted", "open"}},
		{"nothing was seen on it for days", func(w *wire) {
			w.login()
			w.now = w.now.Add(idleTimeout + time.Second)
			w.t.Expire(w.now)
		}, []string{"open", "close expired", notSeen}},
		{"ended for us alone", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
			w.state = StateEstablished
		}, []string{"open", "close closed"}},
		{"ended for us alone, a while ago", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
			w.state = StateEstablished
			w.now = w.now.Add(closedTimeout + time.Second)
			w.t.Expire(w.now)
		}, []string{"open", "close closed", notSeen}},
		{"not FTP, ended for us alone, a while ago", func(w *wire) {
			post(w)
			w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
			w.state = StateEstablished
			w.now = w.now.Add(closedTimeout + time.Second)
			w.t.Expire(w.now)
		}, []string{"open", "not-ftp not-a-verb", "close closed", notSeen}},
		{"simultaneous open", func(w *wire) {
			w.send(w.client, w.server, w.cseq, 0, packet.SYN, "")
			w.send(w.server, w.client, w.sseq, 0, packet.SYN, "")
			w.cseq++
			w.sseq++
			w.send(w.client, w.server, w.cseq-1, w.sseq, packet.SYN|packet.ACK, "")
			w.state = StateEstablished
		}, []string{notSeen}},
		{"SYN with data that the server took", func(w *wire) {
			w.send(w.client, w.server, w.cseq, 0, packet.SYN, "USER a\r\n")
			w.cseq += 9
			w.send(w.server, w.client, w.sseq, w.cseq, packet.SYN|packet.ACK, "")
			w.sseq++
		}, []string{notSeen}},
		{"SYN with data that the server did not take", func(w *wire) {
			w.send(w.client, w.server, w.cseq, 0, packet.SYN, "USER a\r\n")
			w.cseq++
			w.send(w.server, w.client, w.sseq, w.cseq, packet.SYN|packet.ACK, "")
			w.sseq++
			w.c("USER a\r\n")
		}, []string{notSeen}},
		{"SYN with data in the place of a connection that ended", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
			w.send(w.client, w.server, w.cseq, 0, packet.SYN, "POST / HTTP/1.1\r\n")
			w.cseq += 18
			w.send(w.server, w.client, w.sseq, w.cseq, packet.SYN|packet.ACK, "")
			w.sseq++
		}, []string{"open", "close closed", notSeen}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Connections, cfg.Observe = 4, l.observe
			w := newWire(nil)
			cfg.Lookup = w.lookup
			w.t = New(cfg)
			tt.play(w)
			w.dialogue()
			w.dialogue()
			if diff := cmp.Diff(tt.want, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkBooks(t, w.t)
			if left := w.t.expected.n; left != 0 {
				t.Errorf("%d expectations, want none", left)
			}

			w.send(w.client, w.server, w.cseq, 0, packet.RST, "") // also closes what only conntrack saw closing
			w.cseq, w.sseq = 5, 6
			l.take()
			w.handshake()
			w.dialogue()
			if got := l.take(); len(got) == 0 || got[len(got)-1] != served {
				t.Errorf("after another handshake: events %q, want the last to be %q", got, served)
			}
			checkBooks(t, w.t)
		})
	}
}

// TestHandshakeInTheMiddle sends a second handshake on a connection, which conntrack takes
// for a new connection: what follows does not continue the session that was parsed.
func TestHandshakeInTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		name   string
		reopen bool
		want   []string
	}{
		{name: "anybody may have sent the SYN", want: []string{"open", notSeen}},
		{name: "the client has sent it", reopen: true, want: []string{"open", "close closed", "open", served}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe, cfg.Reopen = l.observe, tt.reopen
			w := newWire(nil)
			kernel := withoutNAT(0, Tuple{Src: w.client, Dst: w.server})
			kernel.State = StateSynRecv
			cfg.Lookup = func(*packet.Packet, Tuple) (Connection, bool) { return kernel, true }
			w.t = New(cfg)
			w.login()
			kernel.Assured = true
			w.cseq, w.sseq = w.cseq+1000, w.sseq+1000
			w.handshake()
			w.dialogue()
			if diff := cmp.Diff(tt.want, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkBooks(t, w.t)
		})
	}
}

// TestBothControlPorts opens connections between two control ports: the handshake decides
// which side is the client.
func TestBothControlPorts(t *testing.T) {
	var l log
	cfg := testConfig()
	cfg.Observe = l.observe
	there, back := newWire(nil), newWire(nil)
	there.client = netip.MustParseAddrPort("192.0.2.10:21")
	back.client, back.server = there.server, there.client
	cfg.Lookup = func(p *packet.Packet, ends Tuple) (Connection, bool) {
		if c, ok := there.lookup(p, ends); ok {
			return c, true
		}
		return back.lookup(p, ends)
	}
	there.t = New(cfg)
	back.t = there.t
	there.login()
	there.state = StateNone // conntrack has seen it close, the tracker has not
	back.login()
	back.c("PORT 198,51,100,20,154,208\r\n")
	want := []string{"open", "close closed", "open", "expect PORT 192.0.2.10 > 198.51.100.20:39632"}
	if diff := cmp.Diff(want, l.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	checkBooks(t, there.t)
}
