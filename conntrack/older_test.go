package conntrack

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/nfq/packet"
)

// TestOlder picks up connections that conntrack had at the start: once, and as long as they
// are the same.
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
