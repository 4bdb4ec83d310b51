package conntrack

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// log collects events as "kind via dst reason".
type log []string

func (l *log) observe(e Event) {
	s := string(e.Kind)
	if e.Via.String() != "" {
		s += " " + e.Via.String() + " " + e.Tuple.Src.Addr().String() + " > " + e.Tuple.Dst.String()
	}
	if e.Reason != "" {
		s += " " + string(e.Reason)
	}
	*l = append(*l, s)
}

func (l *log) take() []string {
	out := []string(*l)
	*l = nil
	return out
}

func TestPolicy(t *testing.T) {
	const (
		asked227 = "227 ok (%s)\r\n"
		own      = "198,51,100,20,"
		third    = "203,0,113,9,"
	)
	v6 := [2]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::10]:40000"), netip.MustParseAddrPort("[2001:db8::20]:21")}
	tests := []struct {
		name   string
		policy func(*Policy)
		v6     bool
		play   []string // C: and S: after the login
		want   string   // the event
	}{
		{name: "own address", play: []string{"C:PASV", "S:227 (" + own + "122,8)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:31240"},
		{name: "third host, peer", play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:31240"},
		{name: "third host, strict", policy: func(p *Policy) { p.PassiveAddress = AddressStrict }, play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "reject 227 192.0.2.10 > 203.0.113.9:31240 foreign-address"},
		{name: "third host, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "expect 227 192.0.2.10 > 203.0.113.9:31240"},
		{name: "loopback, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (127,0,0,1,122,8)"}, want: "reject 227 192.0.2.10 > 127.0.0.1:31240 foreign-address"},
		{name: "multicast, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (224,0,0,1,122,8)"}, want: "reject 227 192.0.2.10 > 224.0.0.1:31240 foreign-address"},
		{name: "unspecified, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (0,0,0,0,122,8)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:31240"},
		{name: "IPv4 address on IPv6, peer", v6: true, play: []string{"C:PASV", "S:227 (0,0,0,0,122,8)"}, want: "expect 227 2001:db8::10 > [2001:db8::20]:31240"},
		{name: "IPv4 address on IPv6, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, v6: true, play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "reject 227 2001:db8::10 > 203.0.113.9:31240 foreign-address"},
		{name: "EPSV", v6: true, play: []string{"C:EPSV", "S:229 (|||31240|)"}, want: "expect 229 2001:db8::10 > [2001:db8::20]:31240"},
		{name: "229 naming a third host, strict", policy: func(p *Policy) { p.PassiveAddress = AddressStrict }, play: []string{"C:EPSV", "S:229 (|1|203.0.113.9|31240|)"}, want: "reject 229 192.0.2.10 > 203.0.113.9:31240 foreign-address"},
		{name: "privileged port", play: []string{"C:PASV", "S:227 (" + own + "3,255)"}, want: "reject 227 192.0.2.10 > 198.51.100.20:1023 below-min-port"},
		{name: "lowest port", play: []string{"C:PASV", "S:227 (" + own + "4,0)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:1024"},
		{name: "passive range", policy: func(p *Policy) { p.PassivePorts = PortRange{30000, 30999} }, play: []string{"C:PASV", "S:227 (" + own + "121,24)"}, want: "reject 227 192.0.2.10 > 198.51.100.20:31000 port-not-allowed"},
		{name: "end of the passive range", policy: func(p *Policy) { p.PassivePorts = PortRange{30000, 30999} }, play: []string{"C:PASV", "S:227 (" + own + "121,23)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:30999"},
		{name: "PORT", play: []string{"C:PORT 192,0,2,10,154,208"}, want: "expect PORT 198.51.100.20 > 192.0.2.10:39632"},
		{name: "PORT to a third host", play: []string{"C:PORT 203,0,113,9,154,208"}, want: "reject PORT 198.51.100.20 > 203.0.113.9:39632 foreign-address"},
		{name: "PORT to the server itself", play: []string{"C:PORT 198,51,100,20,154,208"}, want: "reject PORT 198.51.100.20 > 198.51.100.20:39632 foreign-address"},
		{name: "PORT to a privileged port", play: []string{"C:PORT 192,0,2,10,0,22"}, want: "reject PORT 198.51.100.20 > 192.0.2.10:22 below-min-port"},
		{name: "EPRT mapped address", play: []string{"C:EPRT |2|::ffff:192.0.2.10|5000|"}, want: "expect EPRT 198.51.100.20 > 192.0.2.10:5000"},
		{name: "EPRT IPv6", v6: true, play: []string{"C:EPRT |2|2001:db8:0:0::10|5000|"}, want: "expect EPRT 2001:db8::20 > [2001:db8::10]:5000"},
		{name: "active range", policy: func(p *Policy) { p.ActivePorts = PortRange{40000, 50000} }, play: []string{"C:PORT 192,0,2,10,154,208"}, want: "reject PORT 198.51.100.20 > 192.0.2.10:39632 port-not-allowed"},
		{name: "active mode off", policy: func(p *Policy) { p.Active = false }, play: []string{"C:PORT 192,0,2,10,154,208"}, want: "reject PORT 198.51.100.20 > 192.0.2.10:39632 active-disabled"},
		{name: "malformed", play: []string{"C:PORT 192,0,2,10,154"}, want: "reject PORT 198.51.100.20 > invalid AddrPort malformed"},
		{name: "unpaired 229", play: []string{"S:229 (|||31240|)"}, want: "reject 229 192.0.2.10 > 198.51.100.20:31240 unpaired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe = l.observe
			if tt.policy != nil {
				tt.policy(&cfg.Policy)
			}
			w := newWire(New(cfg))
			if tt.v6 {
				w.client, w.server = v6[0], v6[1]
			}
			w.login()
			l.take()
			for _, step := range tt.play {
				if text, ok := strings.CutPrefix(step, "C:"); ok {
					w.c(text + "\r\n")
				} else {
					w.s(step[2:] + "\r\n")
				}
			}
			if diff := cmp.Diff([]string{tt.want}, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequireLogin(t *testing.T) {
	for _, require := range []bool{true, false} {
		cfg := testConfig()
		cfg.Policy.RequireLogin = require
		tr := New(cfg)
		w := newWire(tr)
		w.handshake()
		w.s("220 r\r\n")
		w.c("PORT 192,0,2,10,154,208\r\n")
		if got := len(standing(tr)) == 0; got != require {
			t.Errorf("RequireLogin %v: refused %v", require, got)
		}
	}
}

func TestConnectionLife(t *testing.T) {
	const pasv, answer = "PASV\r\n", "227 (198,51,100,20,122,8)\r\n"
	expect := "expect 227 192.0.2.10 > 198.51.100.20:31240"
	withdraw := "withdraw 227 192.0.2.10 > 198.51.100.20:31240 "
	tests := []struct {
		name string
		play func(w *wire)
		want []string // events after open
	}{
		{"FIN both ways", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.send(w.client, w.server, w.cseq, w.sseq, packet.FIN|packet.ACK, "")
			w.send(w.server, w.client, w.sseq, w.cseq+1, packet.FIN|packet.ACK, "")
		}, []string{expect, withdraw + "closed", "close closed"}},
		{"FIN one way leaves the connection open", func(w *wire) {
			w.login()
			w.c(pasv)
			w.send(w.client, w.server, w.cseq, w.sseq, packet.FIN|packet.ACK, "")
			w.cseq++
			w.s(answer)
		}, []string{expect}},
		{"RST", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
		}, []string{expect, withdraw + "closed", "close closed"}},
		{"RST out of place", func(w *wire) {
			w.login()
			w.send(w.server, w.client, w.sseq+1<<20, 0, packet.RST, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"RST close to its place", func(w *wire) { // RFC 5961: the receiver keeps the connection
			w.login()
			w.send(w.client, w.server, w.cseq+1, 0, packet.RST, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		// What a host answers that has closed, to what was sent before its FIN had
		// come. Linux takes it (tcp_reset_check), and sends no FIN any more.
		{"RST in the place of the FIN before it", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.send(w.server, w.client, w.sseq, w.cseq, packet.FIN|packet.ACK, "")
			w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
		}, []string{expect, withdraw + "closed", "close closed"}},
		{"RST close to its place after a FIN that is out of place", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq+100, w.sseq, packet.FIN|packet.ACK, "")
			w.send(w.client, w.server, w.cseq-1, 0, packet.RST, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"RST close to its place after a FIN in the place of what was read", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq-1, w.sseq, packet.FIN|packet.ACK, "")
			w.send(w.client, w.server, w.cseq-1, 0, packet.RST, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"RST ahead of the place of the FIN before it", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.send(w.server, w.client, w.sseq, w.cseq, packet.FIN|packet.ACK, "")
			w.send(w.server, w.client, w.sseq-1, 0, packet.RST, "")
		}, []string{expect}},
		{"text that is echoed begins a segment after a RST that its receiver ignored", func(w *wire) {
			w.login()
			w.c("XXXX " + answer)
			w.s("500 unknown: XXXX ")
			w.send(w.client, w.server, w.cseq+1, 0, packet.RST, "")
			w.now = w.now.Add(2 * closedTimeout)
			w.t.Expire(w.now)
			w.c(pasv)
			w.s(answer)
		}, nil},
		{"FIN ahead of the bytes before it", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq+uint32(len(pasv)), w.sseq, packet.FIN|packet.ACK, "")
			w.c(pasv)
			w.cseq++
			w.s(answer)
		}, []string{expect}},
		{"nothing is read after the end", func(w *wire) {
			w.login()
			w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
			w.c(pasv)
			w.s(answer)
		}, []string{"close closed"}},
		{"the 5-tuple again", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.cseq, w.sseq = 5, 6
			w.state = StateNone // conntrack has seen it end
			w.login()
			w.s(answer) // not the answer to the PASV of before
			w.c(pasv)
			w.s(answer)
		}, []string{expect, withdraw + "closed", "close closed", "open", "reject 227 192.0.2.10 > 198.51.100.20:31240 unpaired", expect}},
		{"a SYN alone changes nothing", func(w *wire) {
			w.login()
			w.send(w.client, w.server, 99, 0, packet.SYN, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"a SYN/ACK that nobody asked for changes nothing", func(w *wire) {
			w.login()
			w.send(w.server, w.client, 99, 1, packet.SYN|packet.ACK, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"a SYN of the server changes nothing", func(w *wire) {
			w.login()
			w.send(w.server, w.client, w.cseq-1, 0, packet.SYN, "")
			w.send(w.server, w.client, 99, 1, packet.SYN|packet.ACK, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"a SYN/ACK of the client changes nothing", func(w *wire) {
			w.login()
			w.send(w.client, w.server, 99, 0, packet.SYN, "")
			w.send(w.client, w.server, w.cseq, w.sseq, packet.SYN|packet.ACK, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"a second SYN/ACK would have the client begin behind its first line", func(w *wire) {
			const post = "POST / HTTP/1.1\r\n"
			w.handshake()
			w.send(w.server, w.client, w.sseq-1, w.cseq+uint32(len(post)), packet.SYN|packet.ACK, "")
			w.s("220 r\r\n")
			w.c(post)
			w.c("USER a\r\n")
			w.s("230 ok\r\n")
			w.c("PORT 192,0,2,10,154,208\r\n")
		}, []string{"close closed", "open", "not-ftp no-greeting"}},
		{"a second SYN/ACK would have the client begin ahead of its first line", func(w *wire) {
			w.handshake()
			w.send(w.server, w.client, w.sseq-1, w.cseq-100, packet.SYN|packet.ACK, "")
			w.s("220 r\r\n")
			w.c("POST / HTTP/1.1\r\nHost: a\r\n\r\n")
			w.s("230 ok\r\n")
			w.c("USER a\r\n")
			w.s("230 ok\r\n")
			w.c("PORT 192,0,2,10,154,208\r\n")
		}, []string{"close closed", "open", "not-ftp no-greeting"}},
		{"a keep-alive before the client has spoken", func(w *wire) {
			w.handshake()
			w.s("220 r\r\n")
			w.send(w.client, w.server, w.cseq-1, w.sseq, packet.ACK, "x")
			w.c("USER a\r\n")
		}, nil},
		{"SYN/ACK repeated", func(w *wire) {
			w.handshake()
			w.send(w.client, w.server, w.cseq-1, 0, packet.SYN, "")
			w.send(w.server, w.client, w.sseq-1, w.cseq, packet.SYN|packet.ACK, "")
			w.s("220 r\r\n")
			w.c("USER a\r\n")
		}, nil},
		{"no FTP: what was expected is withdrawn with the connection's claim", func(w *wire) {
			w.handshake()
			w.s("220 r\r\n")
			w.c("GET / HTTP/1.1\r\n")
			w.c("PORT 192,0,2,10,154,208\r\n")
		}, []string{"not-ftp not-a-verb"}},
		{"no FTP for good: the server cannot have it forgotten", func(w *wire) {
			w.handshake()
			w.s("220 r\r\n")
			w.c("POST / HTTP/1.1\r\n")
			w.send(w.server, w.client, w.sseq, 0, packet.RST, "") // goes no further than here
			w.send(w.server, w.client, w.sseq-1, w.cseq, packet.SYN|packet.ACK, "")
			w.now = w.now.Add(2 * closedTimeout)
			w.t.Expire(w.now)
			w.s("220 r\r\n")
			w.c("USER a\r\n")
			w.s("230 ok\r\n")
			w.c("PORT 192,0,2,10,154,208\r\n")
		}, []string{"not-ftp not-a-verb", "close closed", "not-ftp not-seen-from-start"}},
		{"a FIN out of its place does not end", func(w *wire) {
			w.login()
			w.send(w.client, w.server, w.cseq+100, w.sseq, packet.FIN|packet.ACK, "")
			w.send(w.server, w.client, w.sseq-4, w.cseq, packet.FIN|packet.ACK, "")
			w.c(pasv)
			w.s(answer)
		}, []string{expect}},
		{"unused for the timeout", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.t.Expire(w.now.Add(29 * time.Second))
			if d := w.t.Expire(w.now.Add(30 * time.Second)); len(d.Withdraw) != 1 {
				panic("no withdrawal")
			}
		}, []string{expect, withdraw + "expired"}},
		{"the same endpoint again", func(w *wire) {
			w.login()
			w.c(pasv)
			w.s(answer)
			w.c(pasv)
			if d := w.s(answer); len(d.Withdraw) != 1 || len(d.Expect) != 1 || d.Conflict {
				panic(fmt.Sprintf("%+v", d))
			}
		}, []string{expect, withdraw + "superseded", expect}},
		{"announced and withdrawn in one packet", func(w *wire) {
			w.login()
			w.c(pasv + "QUIT\r\n")
			if d := w.s(answer + "221 bye\r\n"); !d.Idle() {
				panic(fmt.Sprintf("%+v", d))
			}
		}, []string{expect, withdraw + "quit"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe = l.observe
			w := newWire(nil)
			cfg.Lookup = w.lookup
			w.t = New(cfg)
			tr := w.t
			tt.play(w)
			if diff := cmp.Diff(append([]string{"open"}, tt.want...), l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			tr.Close(time.Unix(2000, 0))
			if left := standing(tr); left != nil {
				t.Errorf("after Close: %v", left)
			}
		})
	}
}

// TestConflict has two control connections of one client expect the same
// endpoint of one server.
func TestConflict(t *testing.T) {
	tr := New(testConfig())
	first, second := newWire(tr), newWire(tr)
	second.client = netip.MustParseAddrPort("192.0.2.10:40001")
	announce := func(w *wire) Decision {
		w.c("PASV\r\n")
		return w.s("227 (198,51,100,20,122,8)\r\n")
	}
	first.login()
	second.login()
	if d := announce(first); d.Conflict {
		t.Error("the first conflicts")
	}
	d := announce(second)
	if !d.Conflict || len(d.Expect) != 1 || len(d.Withdraw) != 0 {
		t.Fatalf("the second: %+v, want a conflict", d)
	}
	x := d.Expect[0]

	t.Run("the first goes before the kernel has the second", func(t *testing.T) {
		d := first.send(first.server, first.client, first.sseq, 0, packet.RST, "")
		if len(d.Withdraw) != 1 {
			t.Errorf("%+v, want a withdrawal: the place is the first's", d)
		}
		if !tr.Confirm(&x) {
			t.Error("the second is gone")
		}
		if d := second.send(second.server, second.client, second.sseq, 0, packet.RST, ""); len(d.Withdraw) != 1 {
			t.Errorf("%+v, want the second's withdrawal", d)
		}
		if tr.Confirm(&x) {
			t.Error("withdrawn, and yet wanted")
		}
	})

	tr = New(testConfig())
	first, second = newWire(tr), newWire(tr)
	second.client = netip.MustParseAddrPort("192.0.2.10:40001")
	first.login()
	second.login()
	announce(first)
	announce(second)
	t.Run("the first goes after the kernel has the second", func(t *testing.T) {
		if !tr.Confirm(&x) {
			t.Fatal("the second is gone")
		}
		if d := first.send(first.server, first.client, first.sseq, 0, packet.RST, ""); len(d.Withdraw) != 0 {
			t.Errorf("%+v, want nothing: the place is the second's", d)
		}
	})
	t.Run("refused", func(t *testing.T) {
		tr.Reject(time.Unix(1001, 0), &x, Clash)
		if left := standing(tr); left != nil {
			t.Errorf("%v left", left)
		}
	})
}

// TestSharedTuple has two control connections share an endpoint: what stands for it goes
// with the last one that has not used it.
func TestSharedTuple(t *testing.T) {
	src, dst := netip.MustParseAddrPort("192.0.2.10:50000"), netip.MustParseAddrPort("198.51.100.20:31240")
	end := func(w *wire) Decision { return w.send(w.server, w.client, w.sseq, 0, packet.RST, "") }
	again := func(w *wire) Decision {
		w.c("PASV\r\n")
		return w.s("227 (198,51,100,20,122,8)\r\n")
	}
	use := func(w *wire) Decision {
		if _, ok := w.t.Consume(src, dst); !ok {
			panic("nothing to use")
		}
		return Decision{}
	}
	type step struct {
		who       int
		play      func(w *wire) Decision
		withdrawn int
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the first ends first", []step{{0, end, 0}, {1, end, 1}}},
		{"the second ends first", []step{{1, end, 0}, {0, end, 1}}},
		{"the first is used", []step{{0, use, 0}, {0, end, 0}, {1, end, 1}}},
		{"the first is used, and the second ends first", []step{{0, use, 0}, {1, end, 1}, {0, end, 0}}},
		{"the first announces it again", []step{{0, again, 0}, {1, end, 0}, {0, end, 1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Shared = true
			tr := New(cfg)
			wires := [2]*wire{newWire(tr), newWire(tr)}
			wires[1].client = netip.MustParseAddrPort("192.0.2.10:40001")
			for i, w := range wires {
				w.login()
				if d := again(w); d.Conflict || len(d.Expect) != 1 || len(d.Withdraw) != 0 {
					t.Errorf("announced by %d: %+v, want an expectation that nobody contests", i, d)
				}
			}
			for i, s := range tt.steps {
				if d := s.play(wires[s.who]); len(d.Withdraw) != s.withdrawn {
					t.Errorf("step %d: withdrawn %+v, want %d", i, d.Withdraw, s.withdrawn)
				}
				checkBooks(t, tr)
			}
		})
	}
}

func TestConsumeExpectation(t *testing.T) {
	tr := New(testConfig())
	w := newWire(tr)
	w.login()
	w.c("PASV\r\n")
	w.s("227 (198,51,100,20,122,8)\r\n")
	src, dst := netip.MustParseAddrPort("192.0.2.10:50000"), netip.MustParseAddrPort("198.51.100.20:31240")
	for _, other := range [][2]string{
		{"192.0.2.11:50000", "198.51.100.20:31240"}, // another client
		{"192.0.2.10:50000", "198.51.100.21:31240"}, // another server
		{"192.0.2.10:50000", "198.51.100.20:31241"}, // another port
		{"198.51.100.20:31240", "192.0.2.10:50000"}, // the other way
	} {
		if _, ok := tr.Consume(netip.MustParseAddrPort(other[0]), netip.MustParseAddrPort(other[1])); ok {
			t.Errorf("%v is admitted", other)
		}
	}
	if x, ok := tr.Consume(src, dst); !ok || x.Master.Src != testClient {
		t.Errorf("Use = %+v, %v", x, ok)
	}
	if _, ok := tr.Consume(src, dst); ok {
		t.Error("an expectation serves two connections")
	}
}

func TestOpaqueHosts(t *testing.T) {
	tr := New(testConfig())
	hosts := []HostPair{{Client: testClient.Addr(), Server: testServer.Addr()}}
	auth := func(w *wire) Decision {
		w.handshake()
		w.s("220 r\r\n")
		w.c("AUTH TLS\r\n")
		return w.s("234 go\r\n")
	}
	first, second := newWire(tr), newWire(tr)
	second.client = netip.MustParseAddrPort("192.0.2.10:40001")

	if _, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); ok {
		t.Error("opaque before AUTH")
	}
	if d := auth(first); !slices.Equal(d.TLSStarted, hosts) {
		t.Errorf("first: %+v", d)
	}
	if d := auth(second); !slices.Equal(d.TLSStarted, hosts) {
		t.Errorf("second: %+v, want the hosts again, to restart their time", d)
	}
	if m, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); !ok || m.Src != second.client {
		t.Errorf("master %v, %v, want the newest", m, ok)
	}
	if _, ok := tr.OpaqueMaster(netip.MustParseAddr("192.0.2.11"), testServer.Addr()); ok {
		t.Error("another client has a master")
	}
	if got := slices.Collect(tr.OpaqueHosts()); !slices.Equal(got, hosts) {
		t.Errorf("opaque hosts %v, want %v", got, hosts)
	}
	if d := first.send(first.server, first.client, first.sseq, 0, packet.RST, ""); !d.Idle() {
		t.Errorf("end of the first: %+v, want nothing: the second is open", d)
	}
	for _, w := range []struct {
		typ      byte
		toServer bool
	}{{22, true}, {22, false}, {21, true}, {21, false}} {
		record := string([]byte{w.typ, 3, 3, 0, 1, 'x'})
		if w.toServer {
			second.c(record)
		} else {
			second.s(record)
		}
	}
	second.c("NOOP\r\n")
	if d := second.s("200 ok\r\n"); !slices.Equal(d.TLSEnded, hosts) {
		t.Errorf("after CCC: %+v", d)
	}
	if _, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); ok {
		t.Error("opaque after CCC")
	}
	if got := slices.Collect(tr.OpaqueHosts()); len(got) != 0 {
		t.Errorf("after CCC the opaque hosts are %v, want none", got)
	}
	if d := second.send(second.server, second.client, second.sseq, 0, packet.RST, ""); !d.Idle() {
		t.Errorf("end of the second: %+v", d)
	}
}

// TestSkip withholds the payload of what the tracker need not read: the end is noticed
// all the same, whatever went by unseen.
func TestSkip(t *testing.T) {
	const unseen = 12345
	tests := []struct {
		name       string
		skipOpaque bool
		play       func(w *wire) Decision // up to the packet that may be the last
		skip       bool
	}{
		{"FTP", true, func(w *wire) Decision {
			w.login()
			return w.s("200 ok\r\n")
		}, false},
		{"no FTP", false, func(w *wire) Decision {
			w.handshake()
			w.s("220 r\r\n")
			return w.c("GET / HTTP/1.1\r\n")
		}, true},
		{"TLS refused", true, func(w *wire) Decision {
			w.handshake()
			w.s("220 r\r\n")
			w.c("AUTH TLS\r\n")
			return w.s("530 no\r\n")
		}, false},
		{"TLS that may return", false, func(w *wire) Decision {
			w.handshake()
			w.s("220 r\r\n")
			w.c("AUTH TLS\r\n")
			return w.s("234 go\r\n")
		}, false},
		{"TLS", true, func(w *wire) Decision {
			w.handshake()
			w.s("220 r\r\n")
			w.c("AUTH TLS\r\n")
			return w.s("234 go\r\n")
		}, true},
	}
	ends := []struct {
		name string
		play func(w *wire)
	}{
		{"FIN", func(w *wire) {
			w.send(w.client, w.server, w.cseq+unseen, w.sseq, packet.FIN|packet.ACK, "last")
			w.send(w.server, w.client, w.sseq+unseen, w.cseq, packet.FIN|packet.ACK, "")
		}},
		{"RST", func(w *wire) { w.send(w.client, w.server, w.cseq+unseen, 0, packet.RST, "") }},
	}
	for _, tt := range tests {
		for _, end := range ends {
			t.Run(tt.name+" "+end.name, func(t *testing.T) {
				var l log
				cfg := testConfig()
				cfg.Observe, cfg.SkipOpaque = l.observe, tt.skipOpaque
				tr := New(cfg)
				w := newWire(tr)
				if got := tt.play(w).Skip; got != tt.skip {
					t.Fatalf("skip %v, want %v", got, tt.skip)
				}
				if w.s("200 ok\r\n").Skip {
					t.Error("skipped a second time")
				}
				if !tt.skip {
					return
				}
				l.take()
				end.play(w)
				if diff := cmp.Diff([]string{"close closed"}, l.take()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if _, ok := tr.OpaqueMaster(w.client.Addr(), w.server.Addr()); ok {
					t.Error("opaque after the end")
				}
				w.cseq, w.sseq = 5, 6
				w.login()
				w.c("PASV\r\n")
				if d := w.s("227 (198,51,100,20,122,8)\r\n"); len(d.Expect) != 1 {
					t.Errorf("the next session: %+v, want an expectation", d)
				}
			})
		}
	}
}

// TestReusedTuple tells the packets that begin a connection from those that look like it.
func TestReusedTuple(t *testing.T) {
	w := newWire(nil)
	cfg := testConfig()
	cfg.Lookup = w.lookup
	w.t = New(cfg)
	syn := func() bool { return w.send(w.client, w.server, w.cseq, 0, packet.SYN, "").NewConn }
	synAck := func() bool { return w.send(w.server, w.client, w.sseq, w.cseq+1, packet.SYN|packet.ACK, "").NewConn }
	if syn() {
		t.Error("a SYN alone begins a connection")
	}
	if !synAck() {
		t.Error("the first handshake does not begin a connection")
	}
	if w.s("220 r\r\n").NewConn {
		t.Error("a greeting begins a connection")
	}
	w.send(w.client, w.server, w.cseq+1, w.sseq+1, packet.ACK, "")
	w.sseq++
	if synAck() {
		t.Error("a SYN/ACK that nobody asked for begins a connection")
	}
	w.send(w.client, w.server, w.cseq+1, 0, packet.RST, "")
	w.cseq, w.sseq = 5, 6
	syn()
	if !synAck() {
		t.Error("the second handshake does not begin a connection")
	}
	syn()
	if synAck() {
		t.Error("a SYN/ACK sent again begins a connection")
	}
}

func TestLimits(t *testing.T) {
	t.Run("expectations of a connection", func(t *testing.T) {
		cfg := testConfig()
		cfg.MaxExpected = 2
		tr := New(cfg)
		w := newWire(tr)
		w.login()
		for i := range 3 {
			w.c(fmt.Sprintf("PORT 192,0,2,10,10,%d\r\n", i))
		}
		if diff := cmp.Diff([]string{"S->192.0.2.10:2561", "S->192.0.2.10:2562"}, standing(tr)); diff != "" {
			t.Errorf("the oldest should give way (-want +got):\n%s", diff)
		}
	})
	t.Run("expectations of a connection, more than a byte counts", func(t *testing.T) {
		cfg := testConfig()
		cfg.MaxExpected = 300
		tr := New(cfg)
		w := newWire(tr)
		w.login()
		for i := range 700 {
			w.c(fmt.Sprintf("PORT 192,0,2,10,%d,%d\r\n", 10+i/256, i%256))
		}
		if n := len(standing(tr)); n != 300 {
			t.Errorf("%d expectations, want 300", n)
		}
	})
	t.Run("connections", func(t *testing.T) {
		var l log
		cfg := testConfig()
		cfg.Connections = 2
		cfg.Observe = l.observe
		tr := New(cfg)
		wires := make([]*wire, 3)
		for i := range wires {
			wires[i] = newWire(tr)
			wires[i].client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), 50000)
		}
		wires[0].login()
		wires[0].c("PORT 192,0,2,10,10,1\r\n")
		wires[1].login()
		wires[0].c("NOOP\r\n") // now the second is the least recently used
		l.take()
		wires[2].login()
		if diff := cmp.Diff([]string{"close evicted", "open"}, l.take()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if s := tr.Stats(); s.Connections != 2 || s.Evicted != 1 || s.Outstanding != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("a flood of SYNs", func(t *testing.T) {
		tr := New(testConfig())
		w := newWire(tr)
		w.login()
		for i := range 1000 {
			w.send(netip.AddrPortFrom(testClient.Addr(), uint16(i+1)), testServer, 1, 0, packet.SYN, "")
		}
		if n := tr.Stats().Connections; n != 1 {
			t.Errorf("%d connections, want the one that was answered", n)
		}
	})
	for _, flood := range []struct {
		name string
		play func(w *wire)
	}{
		{"SYNs with data", func(w *wire) { w.send(w.client, w.server, 1, 0, packet.SYN, "x") }},
		{"SYNs that are answered", func(w *wire) { w.handshake() }},
		{"stray commands", func(w *wire) { w.c("NOOP\r\n") }},
		{"stray replies", func(w *wire) { w.s("200 ok\r\n") }},
		{"sessions that have ended", func(w *wire) {
			w.login()
			w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
		}},
	} {
		t.Run("a flood of "+flood.name+" empties the table of no session", func(t *testing.T) {
			tr := New(testConfig())
			session := newWire(tr)
			session.login()
			session.c("PORT 192,0,2,10,10,1\r\n")
			for i := range 1000 {
				w := newWire(tr)
				w.client = netip.AddrPortFrom(testClient.Addr(), uint16(i+1))
				flood.play(w)
				checkBooks(t, tr)
			}
			if diff := cmp.Diff([]string{"S->192.0.2.10:2561"}, standing(tr)); diff != "" {
				t.Errorf("expectations (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("bytes held", func(t *testing.T) {
		cfg := testConfig()
		cfg.Connections = 1 << 20
		tr := New(cfg)
		w := newWire(tr)
		for i := range 40000 { // 40,000 incomplete lines of 4 KiB would be 160 MB
			w.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4000)
			w.cseq, w.sseq = 1, 1
			w.handshake()
			w.c(strings.Repeat("x", 3000))
		}
		if tr.buffered > maxBuffered || tr.Stats().Evicted == 0 {
			t.Errorf("%d bytes buffered, %d evicted", tr.buffered, tr.Stats().Evicted)
		}
	})
	t.Run("an idle connection keeps none that have ended", func(t *testing.T) {
		tr := New(testConfig())
		w := newWire(tr)
		w.login()
		w.client = netip.AddrPortFrom(testClient.Addr(), 1)
		w.login()
		w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
		tr.Expire(w.now.Add(3 * time.Minute))
		if n := tr.Stats().Connections; n != 1 {
			t.Errorf("%d connections, want the idle one", n)
		}
	})
	t.Run("ended connections go", func(t *testing.T) {
		tr := New(testConfig())
		w := newWire(tr)
		w.login()
		w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
		tr.Expire(w.now.Add(time.Minute))
		if n := tr.Stats().Connections; n != 1 {
			t.Errorf("%d connections a minute after the end, want 1", n)
		}
		tr.Expire(w.now.Add(3 * time.Minute))
		if n := tr.Stats().Connections; n != 0 {
			t.Errorf("%d connections three minutes after the end, want 0", n)
		}
	})
}

// TestIdleConnections has hosts vanish in the middle of a session: their
// connections are forgotten when conntrack has forgotten them.
func TestIdleConnections(t *testing.T) {
	hosts := []HostPair{{Client: testClient.Addr(), Server: testServer.Addr()}}
	auth := func(w *wire) {
		w.handshake()
		w.s("220 r\r\n")
		w.c("AUTH TLS\r\n")
		w.s("234 go\r\n")
	}
	tests := []struct {
		name     string
		play     func(w *wire)
		readable []HostPair
		events   []string // when it is forgotten
	}{
		{"session", func(w *wire) { w.login() }, nil, []string{"close expired"}},
		{"handshake", func(w *wire) { w.handshake() }, nil, []string{"close expired"}},
		{"TLS", auth, hosts, []string{"close expired"}},
		{"no FTP", func(w *wire) {
			w.handshake()
			w.s("220 r\r\n")
			w.c("GET / HTTP/1.1\r\n")
		}, nil, []string{"close expired"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe = l.observe
			tr := New(cfg)
			w := newWire(tr)
			tt.play(w)
			l.take()
			if d := tr.Expire(w.now.Add(idleTimeout - time.Second)); !d.Idle() || tr.Stats().Connections != 1 {
				t.Errorf("forgotten too early: %+v, %+v", d, tr.Stats())
			}
			d := tr.Expire(w.now.Add(idleTimeout + time.Second))
			if n := tr.Stats().Connections; n != 0 {
				t.Errorf("%d connections, want none", n)
			}
			if !slices.Equal(d.TLSEnded, tt.readable) {
				t.Errorf("readable %v, want %v", d.TLSEnded, tt.readable)
			}
			if diff := cmp.Diff(tt.events, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkBooks(t, tr)
		})
	}
	t.Run("TLS, whose data connections come", func(t *testing.T) {
		tr := New(testConfig())
		w := newWire(tr)
		auth(w)
		day := 24 * time.Hour
		for at := w.now.Add(day); at.Before(w.now.Add(3 * idleTimeout)); at = at.Add(day) {
			tr.Expire(at)
			if _, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); !ok {
				t.Fatalf("forgotten after %v", at.Sub(w.now))
			}
		}
	})
}

// TestBothPortsAreControlPorts has a client whose own port is a control port.
func TestBothPortsAreControlPorts(t *testing.T) {
	tr := New(testConfig())
	w := newWire(tr)
	w.client = netip.MustParseAddrPort("192.0.2.10:21")
	w.login()
	w.c("PORT 192,0,2,10,10,1\r\n")
	w.c("PASV\r\n")
	w.s("200 ok\r\n227 (198,51,100,20,122,8)\r\n")
	if diff := cmp.Diff([]string{"S->192.0.2.10:2561", "C->198.51.100.20:31240"}, standing(tr)); diff != "" {
		t.Errorf("expectations (-want +got):\n%s", diff)
	}
}

func TestManyConnections(t *testing.T) {
	const n = 100_000
	cfg := testConfig()
	cfg.Connections = n
	tr := New(cfg)
	w := newWire(tr)
	for i := range n {
		w.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
		w.cseq, w.sseq = 1, 1
		w.login()
	}
	if s := tr.Stats(); s.Connections != n || s.Evicted != 0 {
		t.Fatalf("%+v, want %d connections", s, n)
	}
	if tr.buffered != 0 {
		t.Errorf("%d bytes buffered by idle connections", tr.buffered)
	}
	for i := range n {
		w.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
		w.send(w.server, w.client, w.sseq, 0, packet.RST, "")
	}
	tr.Expire(w.now.Add(time.Hour))
	if s := tr.Stats(); s.Connections != 0 || s.Outstanding != 0 {
		t.Errorf("%+v after all have ended", s)
	}
}

func TestConnSize(t *testing.T) {
	if n := unsafe.Sizeof(conn{}) - unsafe.Sizeof(ftpparse.Session{}); n > 120 {
		t.Errorf("a connection takes %d bytes beside its session, want at most 120", n)
	}
}

// TestPacketFullOfLines bounds the work that one packet makes: what it announces last
// counts, and refusals are counted.
func TestPacketFullOfLines(t *testing.T) {
	const lines = 100
	port := func(i int) string { return fmt.Sprintf("PORT 192,0,2,10,39,%d\r\n", i) }
	for _, tt := range []struct {
		name     string
		line     func(i int) string
		most     int // MaxExpected
		expected uint64
		rejected uint64
		events   int
		last     string
	}{
		{
			name: "refused", line: func(int) string { return "PORT 1\r\n" }, most: 8,
			rejected: lines, events: maxLines, last: "reject PORT 198.51.100.20 > invalid AddrPort malformed",
		},
		{
			name: "announced", line: port, most: 8,
			expected: maxLines, events: 2*maxLines - 8, last: "expect PORT 198.51.100.20 > 192.0.2.10:10083",
		},
		{
			name: "announced, of which many may stand", line: port, most: 50,
			expected: 50, events: 50, last: "expect PORT 198.51.100.20 > 192.0.2.10:10083",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe, cfg.MaxExpected = l.observe, tt.most
			w := newWire(New(cfg))
			w.login()
			l.take()
			var all strings.Builder
			for i := range lines {
				all.WriteString(tt.line(i))
			}
			w.c(all.String())
			s := w.t.Stats()
			if s.Expected != tt.expected || s.Rejected != tt.rejected {
				t.Errorf("%d expected and %d rejected, want %d and %d", s.Expected, s.Rejected, tt.expected, tt.rejected)
			}
			if got := l.take(); len(got) != tt.events || got[len(got)-1] != tt.last {
				t.Errorf("%d events, want %d, the last %q:\n%s", len(got), tt.events, tt.last, strings.Join(got, "\n"))
			}
			checkBooks(t, w.t)
		})
	}
}

func TestPacketAllocatesNothing(t *testing.T) {
	cfg := testConfig()
	tr := New(cfg)
	w := newWire(tr)
	w.login()
	lines := [][]byte{[]byte("PASV\r\n"), []byte("227 (198,51,100,20,122,8)\r\n"), []byte("NOOP\r\n"), []byte("200 ok\r\n")}
	p := &packet.Packet{}
	cycle := func() {
		for i, line := range lines {
			*p = packet.Packet{Src: w.client, Dst: w.server, Seq: w.cseq, Ack: w.sseq, Flags: packet.ACK, Payload: line}
			if i%2 == 1 {
				*p = packet.Packet{Src: w.server, Dst: w.client, Seq: w.sseq, Ack: w.cseq, Flags: packet.ACK, Payload: line}
				w.sseq += uint32(len(line))
			} else {
				w.cseq += uint32(len(line))
			}
			tr.Packet(w.now, p)
		}
	}
	cycle()
	if n := testing.AllocsPerRun(100, cycle); n != 0 {
		t.Errorf("%v allocations a cycle, want 0", n)
	}
}

// FuzzPackets feeds raw segments to a small table and checks its bounds and its
// books after each.
func FuzzPackets(f *testing.F) {
	f.Add(uint64(1), []byte("220 r\r\nUSER a\r\n230 ok\r\nPASV\r\n227 (198,51,100,20,122,8)\r\nPORT 192,0,2,10,1,2\r\n"))
	f.Add(uint64(7), []byte("\xff\xf4\x00\r\r\n234 x\r\nAUTH TLS\r\n\x16\x03\x01\x00\x05hello"))
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		cfg := testConfig()
		cfg.Connections, cfg.MaxExpected = 3, 2
		cfg.Policy.RequireLogin = rnd.IntN(2) == 0
		cfg.Shared = rnd.IntN(2) == 0
		tr := New(cfg)
		now := time.Unix(1000, 0)
		lines := strings.SplitAfter(string(data), "\n")
		var seq [5][2]uint32
		for range min(len(data), 64) {
			i := rnd.IntN(5)
			client := netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
			dir := rnd.IntN(2)
			p := &packet.Packet{Src: client, Dst: testServer, Seq: seq[i][dir], Ack: seq[i][1-dir], Flags: packet.ACK}
			if dir == 1 {
				p.Src, p.Dst = p.Dst, p.Src
			}
			switch rnd.IntN(16) {
			case 0:
				p.Flags = packet.Flags(rnd.IntN(32))
			case 1:
				p.Seq += uint32(rnd.IntN(9000)) - 4000
			case 2:
				p.Ack += uint32(rnd.IntN(9000)) - 4000
			}
			p.Payload = []byte(lines[rnd.IntN(len(lines))])
			if p.Flags&packet.SYN != 0 || rnd.IntN(8) == 0 {
				p.Payload = nil
			}
			seq[i][dir] = p.Seq + uint32(len(p.Payload))
			if p.Flags&(packet.SYN|packet.FIN) != 0 {
				seq[i][dir]++
			}
			now = now.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			d := tr.Packet(now, p)
			for _, x := range d.Expect {
				if x.Tuple.Dst.Port() < cfg.Policy.MinPort || x.Master.Src.Addr() != testClient.Addr() || x.Master.Dst != testServer {
					t.Fatalf("expected %+v", x)
				}
				want := [2]netip.Addr{testClient.Addr(), testServer.Addr()}
				if x.Via.Active() {
					want[0], want[1] = want[1], want[0]
				}
				if x.Tuple.Src.Addr() != want[0] || x.Tuple.Dst.Addr() != want[1] {
					t.Fatalf("expected %+v between other hosts", x)
				}
			}
			checkBooks(t, tr)
			if rnd.IntN(20) == 0 {
				if rnd.IntN(4) == 0 {
					now = now.Add(idleTimeout)
				}
				tr.Expire(now)
				checkBooks(t, tr)
			}
		}
		tr.Close(now)
		checkBooks(t, tr)
		if tr.expected.n != 0 || len(tr.expected.byTuple) != 0 {
			t.Fatalf("%d expectations left, %d tuples", tr.expected.n, len(tr.expected.byTuple))
		}
	})
}

// allConns are the connections of all ranks.
func allConns(tr *Tracker) iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for r := range tr.conns.lru {
			for c := tr.conns.lru[r].next; c != &tr.conns.lru[r]; c = c.next {
				if c.rank != rank(r) || !yield(c) {
					return
				}
			}
		}
	}
}

// checkBooks compares what the tables say with what is in them.
func checkBooks(t *testing.T, tr *Tracker) {
	t.Helper()
	conns, buffered, expected, holders := 0, 0, 0, 0
	sources := make(map[*source]source)
	for c := range allConns(tr) {
		conns++
		if c.state&closed != 0 && c.rank != rankClosed && c.state&synData == 0 || c.rank == rankClosed && c.state&closed == 0 {
			t.Fatalf("a connection in state %v has rank %v", c.state, c.rank)
		}
		if held := c.session.Buffered(); held != 0 || c.links != nil && c.links.next != nil {
			if c.links == nil || c.links.conn != c || c.links.buffered != held || held == 0 {
				t.Fatalf("a connection that buffers %d bytes is listed as %+v", held, c.links)
			}
			buffered += held
			holders++
		}
		if s := c.source; s != nil {
			if s.key != c.key.source() || tr.sources[s.key] != s {
				t.Fatalf("a connection of %v counts as one of %v", c.key.master().Src, s.key)
			}
			want := sources[s]
			want.connections++
			want.expectations += c.count
			sources[s] = want
		}
		n := int32(0)
		for x := c.newest; x != nil; x = x.older {
			n++
			if x.owner != c {
				t.Fatal("an expectation of another connection")
			}
		}
		if n != c.count || int(n) > tr.cfg.MaxExpected {
			t.Fatalf("%d expectations, counted %d, at most %d", n, c.count, tr.cfg.MaxExpected)
		}
		expected += int(n)
	}
	if conns != tr.conns.n || conns > tr.cfg.Connections {
		t.Fatalf("%d connections in order, %d by tuple, at most %d", conns, tr.conns.n, tr.cfg.Connections)
	}
	for s, want := range sources {
		if s.connections != want.connections || s.expectations != want.expectations {
			t.Fatalf("a client has %d connections and %d expectations, counted %d and %d", want.connections, want.expectations, s.connections, s.expectations)
		}
		if most := max(tr.cfg.Connections/sourceShare, 1); int(s.connections) > most {
			t.Fatalf("a client has %d connections, at most %d", s.connections, most)
		}
	}
	if len(sources) != len(tr.sources) {
		t.Fatalf("%d clients, %d listed", len(sources), len(tr.sources))
	}
	for h := tr.holders.next; h != &tr.holders; h = h.next {
		holders--
	}
	if holders != 0 {
		t.Fatalf("%d more connections that buffer than are listed", holders)
	}
	opaques := 0
	for h, c := range tr.opaque {
		for ; c != nil; c = c.links.older {
			opaques++
			if c.state&(opaque|closed) != opaque || c.hosts() != h {
				t.Fatalf("a connection of %v in state %v is listed as opaque between %v", c.hosts(), c.state, h)
			}
		}
	}
	for c := range allConns(tr) {
		if c.state&opaque != 0 {
			opaques--
		}
	}
	if opaques != 0 {
		t.Fatalf("%d more opaque connections listed than there are", opaques)
	}
	if buffered != tr.buffered {
		t.Fatalf("%d bytes buffered, counted %d", buffered, tr.buffered)
	}
	if expected != tr.expected.n || expected != len(standing(tr)) {
		t.Fatalf("%d expectations by connection, %d counted, %d by age", expected, tr.expected.n, len(standing(tr)))
	}
}
