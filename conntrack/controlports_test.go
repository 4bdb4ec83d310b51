package conntrack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// TestDataToControlPort demands that data connections to a control port, which the firewall
// may accept as control connections, are skipped.
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

// TestControlPortEndpoint demands that announcements of control ports are rejected.
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

// TestControlPortsOfNetwork announces control ports from many addresses of one IPv6 network:
// the number of entries is bounded, and none is forgotten.
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
