package conntrack

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// track follows what conntrack makes of a packet of the wire's connection: as much of
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

// dialogue is all that it takes to have an endpoint expected.
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
// for the answer to the client's SYN.
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

// TestNeverPickedUp demands that what was not read from its handshake on stays unread,
// whatever the sides of the connection do, until conntrack sees another handshake.
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
		want []string // before the dialogue, which is unread
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

			w.send(w.client, w.server, w.cseq, 0, packet.RST, "") // also what conntrack has ended is known by now
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

// TestHandshakeInTheMiddle has conntrack take a handshake on a connection that had one
// for the beginning of another: what follows is not what was read.
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

// TestDataToControlPort leaves data connections unread that go to a control port, which
// the firewall may admit for being one.
func TestDataToControlPort(t *testing.T) {
	attacker, inside := testServer.Addr(), testClient.Addr()
	login := func(tr *Tracker, client, server netip.AddrPort) *wire {
		w := newWire(tr)
		w.client, w.server = client, server
		w.login()
		return w
	}
	data := func(tr *Tracker, port uint16) *wire {
		return login(tr, netip.AddrPortFrom(inside, port), netip.AddrPortFrom(attacker, 2121))
	}
	announce := func(tr *Tracker, line string) {
		login(tr, netip.AddrPortFrom(attacker, 50000), netip.AddrPortFrom(inside, 21)).c(line)
	}
	for _, tt := range []struct {
		name  string
		play  func(tr *Tracker) *wire
		later time.Duration
		want  []string // of the data connection
	}{
		{name: "nobody has announced it", play: func(tr *Tracker) *wire { return data(tr, 40000) }, want: []string{"open", "expect PORT 198.51.100.20 > 192.0.2.10:5000"}},
		{name: "from port 20", play: func(tr *Tracker) *wire { return data(tr, dataPort) }},
		{name: "announced", play: func(tr *Tracker) *wire {
			announce(tr, "PORT 198,51,100,20,8,73\r\n")
			return data(tr, 40000)
		}, want: []string{"open", "reject PORT 192.0.2.10 > 198.51.100.20:2121 control-port", "not-ftp control-port"}},
		{name: "announced, below the lowest port", play: func(tr *Tracker) *wire {
			announce(tr, "PORT 198,51,100,20,0,21\r\n")
			return login(tr, netip.AddrPortFrom(inside, 40000), netip.AddrPortFrom(attacker, 21))
		}, want: []string{"open", "reject PORT 192.0.2.10 > 198.51.100.20:21 below-min-port", "not-ftp control-port"}},
		{name: "announced by a server", play: func(tr *Tracker) *wire {
			w := login(tr, netip.AddrPortFrom(inside, 50000), netip.AddrPortFrom(attacker, 21))
			w.c("PASV\r\n")
			w.s("227 (198,51,100,20,8,73)\r\n")
			return data(tr, 40000)
		}, want: []string{"open", "reject 227 192.0.2.10 > 198.51.100.20:2121 control-port", "not-ftp control-port"}},
		{name: "announced long ago", play: func(tr *Tracker) *wire {
			announce(tr, "PORT 198,51,100,20,8,73\r\n")
			w := newWire(tr)
			tr.Expire(w.now.Add(time.Hour))
			w.client, w.server, w.now = netip.AddrPortFrom(inside, 40000), netip.AddrPortFrom(attacker, 2121), w.now.Add(time.Hour)
			w.login()
			return w
		}, want: []string{"open", "reject PORT 192.0.2.10 > 198.51.100.20:2121 control-port", "open", "expect PORT 198.51.100.20 > 192.0.2.10:5000"}},
		{name: "more announced than are told apart", play: func(tr *Tracker) *wire {
			for i := range maxControlPorts {
				if tr.controlPorts.until == nil {
					tr.controlPorts.until = map[tupleKey]time.Duration{}
				}
				tr.controlPorts.until[tupleKey{port: uint16(i), zone: 1}] = time.Hour
			}
			announce(tr, "PORT 198,51,100,20,8,73\r\n")
			return data(tr, 40000)
		}, want: []string{"open", "reject PORT 192.0.2.10 > 198.51.100.20:2121 control-port", "not-ftp control-port"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Ports, cfg.Observe = []uint16{21, 2121}, l.observe
			w := tt.play(New(cfg))
			w.c("PORT 192,0,2,10,19,136\r\n")
			if diff := cmp.Diff(tt.want, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkBooks(t, w.t)
		})
	}
}

// TestOlder picks up what conntrack had at the start: once, and as long as it is the
// same connection.
func TestOlder(t *testing.T) {
	ends := Tuple{Src: testClient, Dst: testServer}
	older := withoutNAT(0, ends)
	older.ID, older.State, older.Assured = 7, StateEstablished, true
	inZone := older
	inZone.Zone = 3
	alter := func(f func(c *Connection)) func(w *wire, kernel *Connection) {
		return func(_ *wire, kernel *Connection) { f(kernel) }
	}
	nothing := func(*wire, *Connection) {}
	const pickedUp = "open picked-up"
	expect := []string{pickedUp, served}
	tests := []struct {
		name string
		list Connection
		zone uint16
		play func(w *wire, kernel *Connection) // before the client's PORT line
		want []string
	}{
		{name: "as it was", list: older, play: nothing, want: expect},
		{name: "it has another ID", list: older, play: alter(func(c *Connection) { c.ID++ }), want: []string{notSeen}},
		{name: "it is not ASSURED any more", list: older, play: alter(func(c *Connection) { c.Assured = false }), want: []string{notSeen}},
		{name: "it is a data connection", list: older, play: alter(func(c *Connection) { c.Expected = true }), want: []string{notSeen}},
		{name: "it goes the other way", list: older, play: alter(func(c *Connection) { c.Original, c.Reply = c.Reply, c.Original }), want: []string{notSeen}},
		{name: "a packet without payload leaves it", list: older, play: func(w *wire, _ *Connection) { w.c("") }, want: expect},
		{name: "not a second time", list: older, play: func(w *wire, _ *Connection) {
			w.c("NOOP\r\n")
			w.t.forget(w.t.find(w.client, w.server), Evicted)
		}, want: []string{pickedUp, "close evicted", notSeen}},
		{name: "not after its RST", list: older, play: func(w *wire, _ *Connection) {
			w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
		}, want: []string{notSeen}},
		{name: "not after its FIN", list: older, play: func(w *wire, _ *Connection) {
			w.send(w.client, w.server, w.cseq, w.sseq, packet.FIN|packet.ACK, "")
			w.cseq++
		}, want: []string{notSeen}},
		{name: "not after a SYN", list: older, play: func(w *wire, _ *Connection) {
			w.send(w.client, w.server, w.cseq, 0, packet.SYN, "")
		}, want: []string{notSeen}},
		{name: "a new handshake takes its place", list: older, play: func(w *wire, kernel *Connection) {
			kernel.State, kernel.Assured = StateSynRecv, false
			w.handshake()
			kernel.State, kernel.Assured = StateEstablished, true
			w.t.forget(w.t.find(w.client, w.server), Evicted)
		}, want: []string{"open", "close evicted", notSeen}},
		{name: "in a zone", list: inZone, zone: 3, play: nothing, want: expect},
		{name: "in another zone", list: inZone, play: nothing, want: []string{notSeen}},
		{name: "not listed: not ASSURED", list: func() Connection { c := older; c.Assured = false; return c }(), play: alter(func(c *Connection) { c.Assured = true }), want: []string{notSeen}},
		{name: "not listed: given up by an earlier daemon", list: func() Connection { c := older; c.Unread = true; return c }(), play: nothing, want: []string{notSeen}},
		{name: "not listed: conntrack picked it up", list: func() Connection { c := older; c.PickedUp = true; return c }(), play: nothing, want: []string{notSeen}},
		{name: "not listed: a data connection", list: func() Connection { c := older; c.Expected = true; return c }(), play: alter(func(c *Connection) { c.Expected = false }), want: []string{notSeen}},
		{name: "not listed: half closed", list: func() Connection { c := older; c.State = 5; return c }(), play: nothing, want: []string{notSeen}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			kernel := tt.list
			cfg := testConfig()
			cfg.Observe = l.observe
			cfg.Older = NewOlder([]Connection{tt.list}, cfg.Ports, 10)
			cfg.Lookup = func(*packet.Packet, Tuple) (Connection, bool) { return kernel, true }
			w := newWire(New(cfg))
			w.zone = tt.zone
			tt.play(w, &kernel)
			w.c("PORT 192,0,2,10,154,208\r\n")
			if diff := cmp.Diff(tt.want, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkBooks(t, w.t)
		})
	}

	t.Run("bounded", func(t *testing.T) {
		var list []Connection
		for i := range 5 {
			c := older
			c.Original.Src = netip.AddrPortFrom(testClient.Addr(), uint16(50000+i))
			c.Reply.Dst = c.Original.Src
			list = append(list, c)
		}
		list[0].Reply.Src = netip.MustParseAddrPort("198.51.100.20:2121") // not a control port
		if n, leftOut := NewOlder(list, []uint16{21}, 3).Len(); n != 3 || leftOut != 1 {
			t.Errorf("%d connections and %d left out, want 3 and 1", n, leftOut)
		}
	})
	t.Run("from a control port, the server speaks first", func(t *testing.T) {
		list := older
		list.Original.Src = netip.MustParseAddrPort("192.0.2.10:21")
		list.Reply.Dst = list.Original.Src
		cfg := testConfig()
		cfg.Older = NewOlder([]Connection{list}, cfg.Ports, 1)
		cfg.Lookup = func(*packet.Packet, Tuple) (Connection, bool) { return list, true }
		w := newWire(New(cfg))
		w.client = list.Original.Src
		w.s("200 ok\r\n")
		if d := w.c("PORT 192,0,2,10,154,208\r\n"); len(d.Expect) != 1 {
			t.Errorf("%+v, want an expectation", d)
		}
	})
	t.Run("without Lookup", func(t *testing.T) {
		cfg := testConfig()
		cfg.Older = NewOlder([]Connection{older}, cfg.Ports, 1)
		w := newWire(New(cfg))
		if d := w.c("PORT 192,0,2,10,154,208\r\n"); len(d.Expect) != 1 {
			t.Errorf("%+v, want an expectation", d)
		}
	})
}

// TestBothControlPorts has two hosts connect to one another, each from a control port:
// the handshake tells who is the client.
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
	there.state = StateNone // conntrack has seen it end, we have not
	back.login()
	back.c("PORT 198,51,100,20,154,208\r\n")
	want := []string{"open", "close closed", "open", "expect PORT 192.0.2.10 > 198.51.100.20:39632"}
	if diff := cmp.Diff(want, l.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	checkBooks(t, there.t)
}

// TestClientShare gives one client a quarter of the table.
func TestClientShare(t *testing.T) {
	limit := []string{"open", "not-ftp client-limit"}
	tests := []struct {
		name  string
		addr  func(i int) string
		equal bool // they are one client
	}{
		{"one IPv4 address", func(int) string { return "192.0.2.10" }, true},
		{"several IPv4 addresses", func(i int) string { return fmt.Sprintf("192.0.2.%d", 10+i) }, false},
		{"one IPv6 network", func(i int) string { return fmt.Sprintf("2001:db8::%d", 10+i) }, true},
		{"several IPv6 networks", func(i int) string { return fmt.Sprintf("2001:db8:0:%d::1", i) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Connections, cfg.Observe = 16, l.observe
			tr := New(cfg)
			wires := make([]*wire, 5)
			for i := range wires {
				w := newWire(tr)
				wires[i] = w
				w.client = netip.AddrPortFrom(netip.MustParseAddr(tt.addr(i)), uint16(40000+i))
				if w.client.Addr().Is6() {
					w.server = netip.MustParseAddrPort("[2001:db8:ffff::1]:21")
				}
				l.take()
				w.login()
				want := []string{"open"}
				if tt.equal && i == 4 {
					want = limit
				}
				if diff := cmp.Diff(want, l.take()); diff != "" {
					t.Errorf("session %d: events (-want +got):\n%s", i, diff)
				}
				checkBooks(t, tr)
			}
			if !tt.equal {
				return
			}
			// One that ends makes room for the next.
			wires[0].send(wires[0].client, wires[0].server, wires[0].cseq, 0, packet.RST, "")
			wires[4].cseq, wires[4].sseq = 5, 6
			l.take()
			wires[4].login()
			if diff := cmp.Diff([]string{"close closed", "open"}, l.take()); diff != "" {
				t.Errorf("after the end of one: events (-want +got):\n%s", diff)
			}
			checkBooks(t, tr)
		})
	}
}

// TestEvictionOrder has connections make room in the order of their rank.
func TestEvictionOrder(t *testing.T) {
	kinds := []struct {
		name string
		play func(w *wire)
	}{
		{"ended", func(w *wire) {
			w.handshake()
			w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
		}},
		{"unread", func(w *wire) { w.c("NOOP\r\n") }},
		{"silent", func(w *wire) { w.handshake() }},
		{"one side spoke", func(w *wire) {
			w.handshake()
			w.s("220 r\r\n")
		}},
		{"both sides spoke", func(w *wire) { w.login() }},
	}
	cfg := testConfig()
	cfg.Connections = len(kinds)
	tr := New(cfg)
	client := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 40000)
	}
	// The most valuable first, so that it is the least recently used.
	for i := len(kinds) - 1; i >= 0; i-- {
		w := newWire(tr)
		w.client = client(i)
		kinds[i].play(w)
	}
	for i := range kinds {
		if tr.find(client(i), testServer) == nil {
			t.Fatalf("%s: not in the table", kinds[i].name)
		}
		w := newWire(tr)
		w.client = client(100 + i)
		w.login()
		if tr.find(client(i), testServer) != nil {
			t.Errorf("%s: still in the table", kinds[i].name)
		}
		checkBooks(t, tr)
	}
}

// TestMemoryPressure demands that those give way that hold buffers, the one that began
// first ahead of the others, and nobody else.
func TestMemoryPressure(t *testing.T) {
	var l log
	cfg := testConfig()
	cfg.Connections, cfg.Observe = 1<<20, l.observe
	tr := New(cfg)
	honest := newWire(tr)
	honest.login()
	held := func(i int) *conn {
		return tr.find(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4000), testServer)
	}
	l.take()
	n := 0
	for ; tr.stats.Evicted == 0; n++ {
		w := newWire(tr)
		w.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 4000)
		w.handshake()
		if n > 1<<16 {
			t.Fatalf("%d bytes are held, and nobody gives way", tr.buffered)
		}
		if d := w.c(strings.Repeat("x", 3000)); d.Skip {
			t.Error("the one who came last is not read any more")
		}
	}
	if got := l.take(); got[len(got)-1] != "not-ftp evicted" {
		t.Errorf("the last event is %q, want not-ftp evicted", got[len(got)-1])
	}
	if tr.buffered > maxBuffered {
		t.Errorf("%d bytes are held, want at most %d", tr.buffered, maxBuffered)
	}
	for i := range n {
		if unreadable := held(i).state&skipped != 0; unreadable != (i == 0) {
			t.Errorf("client %d of %d: not read any more: %v", i, n, unreadable)
		}
	}
	honest.c("PORT 192,0,2,10,154,208\r\n")
	if diff := cmp.Diff([]string{served}, l.take()); diff != "" {
		t.Errorf("the session that holds nothing: events (-want +got):\n%s", diff)
	}
	checkBooks(t, tr)
}

// TestManyOfOneTuple bounds the control connections that expect the same tuple.
func TestManyOfOneTuple(t *testing.T) {
	var l log
	cfg := testConfig()
	cfg.Observe = l.observe
	tr := New(cfg)
	var last *wire
	for i := range maxSameTuple + 1 {
		w := newWire(tr)
		w.client = netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
		w.login()
		l.take()
		w.c("PORT 192,0,2,10,154,208\r\n")
		want := []string{served}
		if i == maxSameTuple {
			want = []string{"reject PORT 198.51.100.20 > 192.0.2.10:39632 clash"}
		}
		if diff := cmp.Diff(want, l.take()); diff != "" {
			t.Errorf("session %d: events (-want +got):\n%s", i, diff)
		}
		if i == maxSameTuple-1 {
			last = w
		}
	}
	last.c("PORT 192,0,2,10,154,208\r\n")
	want := []string{"withdraw PORT 198.51.100.20 > 192.0.2.10:39632 superseded", served}
	if diff := cmp.Diff(want, l.take()); diff != "" {
		t.Errorf("one of them again: events (-want +got):\n%s", diff)
	}
	checkBooks(t, tr)
}

// TestOpaqueChain ends sessions in TLS between the same hosts in every order.
func TestOpaqueChain(t *testing.T) {
	for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			tr := New(testConfig())
			var wires [3]*wire
			for i := range wires {
				w := newWire(tr)
				w.client = netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
				w.handshake()
				w.s("220 r\r\n")
				w.c("AUTH TLS\r\n")
				w.s("234 go\r\n")
				wires[i] = w
			}
			open := map[int]bool{0: true, 1: true, 2: true}
			for n, i := range order {
				newest := 0
				for j := range open {
					newest = max(newest, j)
				}
				if m, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); !ok || m.Src != wires[newest].client {
					t.Errorf("%d open: master %v, %v, want %v", len(open), m, ok, wires[newest].client)
				}
				d := wires[i].send(wires[i].client, wires[i].server, wires[i].cseq, 0, packet.RST, "")
				if (len(d.TLSEnded) == 1) != (n == 2) {
					t.Errorf("end %d: %+v, want the hosts only at the last", n, d)
				}
				delete(open, i)
				checkBooks(t, tr)
			}
		})
	}
}

// TestControlPortEndpoint refuses endpoints at which control connections come in.
func TestControlPortEndpoint(t *testing.T) {
	serverBehind := Connection{
		Original: Tuple{Src: testClient, Dst: netip.MustParseAddrPort("203.0.113.1:2222")},
		Reply:    Tuple{Src: testServer, Dst: testClient}, State: StateSynRecv,
	}
	tests := []struct {
		name   string
		kernel *Connection
		play   func(w *wire)
		want   string
	}{
		{"PORT", nil, func(w *wire) { w.c("PORT 192,0,2,10,8,73\r\n") }, "reject PORT 198.51.100.20 > 192.0.2.10:2121 control-port"},
		{"EPRT", nil, func(w *wire) { w.c("EPRT |1|192.0.2.10|2121|\r\n") }, "reject EPRT 198.51.100.20 > 192.0.2.10:2121 control-port"},
		{"227", nil, func(w *wire) { w.c("PASV\r\n"); w.s("227 (198,51,100,20,8,73)\r\n") }, "reject 227 192.0.2.10 > 198.51.100.20:2121 control-port"},
		{"229", nil, func(w *wire) { w.c("EPSV\r\n"); w.s("229 (|||2121|)\r\n") }, "reject 229 192.0.2.10 > 198.51.100.20:2121 control-port"},
		{"the port that the client connected to", &serverBehind, func(w *wire) { w.c("EPSV\r\n"); w.s("229 (|||2222|)\r\n") }, "reject 229 192.0.2.10 > 203.0.113.1:2222 control-port"},
		{"the port below", nil, func(w *wire) { w.c("EPSV\r\n"); w.s("229 (|||2120|)\r\n") }, "expect 229 192.0.2.10 > 198.51.100.20:2120"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Ports, cfg.Observe = []uint16{21, 2121}, l.observe
			if tt.kernel != nil {
				cfg.Lookup = func(*packet.Packet, Tuple) (Connection, bool) { return *tt.kernel, true }
			}
			w := newWire(New(cfg))
			w.login()
			l.take()
			tt.play(w)
			if diff := cmp.Diff([]string{tt.want}, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestExpectationShare gives one client a quarter of all expectations, however many
// sessions it spreads them over.
func TestExpectationShare(t *testing.T) {
	const share = maxExpectations / sourceShare
	cfg := testConfig()
	sessions := share/cfg.MaxExpected + 1
	cfg.Connections = sourceShare * sessions
	tr := New(cfg)
	wires := make([]*wire, sessions)
	for i := range wires {
		w := newWire(tr)
		w.client = netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
		w.login()
		wires[i] = w
	}
	for n := range cfg.MaxExpected {
		for i, w := range wires {
			want := min(1, share-tr.expected.n)
			port := 2000 + i*cfg.MaxExpected + n
			d := w.c(fmt.Sprintf("PORT 192,0,2,10,%d,%d\r\n", port>>8, port&0xff))
			if len(d.Expect) != want {
				t.Fatalf("session %d, announcement %d: %d expectations, want %d; there are %d", i, n, len(d.Expect), want, tr.expected.n)
			}
		}
	}
	full := wires[0]
	if d := full.c("PORT 192,0,2,10,200,0\r\n"); len(d.Expect) != 1 || len(d.Withdraw) != 1 {
		t.Errorf("%+v, want one in place of another", d)
	}
	checkBooks(t, tr)
}

// TestKernelShare marks what would take more than a client's share of the kernel's
// table.
func TestKernelShare(t *testing.T) {
	cfg := testConfig()
	cfg.KernelShare = 2
	tr := New(cfg)
	announce := func(w *wire, port int) bool {
		t.Helper()
		d := w.c(fmt.Sprintf("PORT 192,0,2,%d,10,%d\r\n", w.client.Addr().As4()[3], port))
		if len(d.Expect) != 1 {
			t.Fatalf("port %d: %+v, want an expectation", port, d)
		}
		return d.Expect[0].Overflow
	}
	one, same, other := newWire(tr), newWire(tr), newWire(tr)
	same.client = netip.AddrPortFrom(testClient.Addr(), 40001)
	other.client = netip.MustParseAddrPort("192.0.2.11:40000")
	for _, w := range []*wire{one, same, other} {
		w.login()
	}
	steps := []struct {
		name string
		w    *wire
		port int
		want bool
	}{
		{"first", one, 1, false},
		{"second, of another session", same, 2, false},
		{"third", one, 3, true},
		{"another client's", other, 4, false},
	}
	for _, s := range steps {
		if got := announce(s.w, s.port); got != s.want {
			t.Errorf("%s: Overflow %v, want %v", s.name, got, s.want)
		}
	}
	same.send(same.client, same.server, same.cseq, 0, packet.RST, "")
	one.c("NOOP\r\n")
	if d := one.c("PORT 192,0,2,10,10,1\r\n"); len(d.Expect) != 1 || d.Expect[0].Overflow {
		t.Errorf("after the end of a session: %+v, want room again", d)
	}
	checkBooks(t, tr)
}

// TestControlPortsOfNetwork bounds what one IPv6 network, of which a host may take any
// address, has the tracker keep, and holds that none of it is forgotten.
func TestControlPortsOfNetwork(t *testing.T) {
	tr := New(testConfig())
	ends := func(i int) connKey {
		server := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		return keyOf(netip.MustParseAddrPort("[fd07:1::2]:40000"), netip.AddrPortFrom(server, 21))
	}
	for i := range 2 * maxControlPorts {
		tr.noteControlPort(&conn{key: ends(i)}, ftpparse.EPRT, 21)
	}
	if n := len(tr.controlPorts.until); n > maxControlPorts+1 {
		t.Errorf("%d endpoints of one network are kept", n)
	}
	for _, i := range []int{0, 2*maxControlPorts - 1} {
		control := ends(i)
		data := control.reverse()
		data.serverPort = 21
		if !tr.controlPorts.has(&data, 0) {
			t.Errorf("what server %d may open is forgotten", i)
		}
	}
}
