package conntrack

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
		// A host that has closed answers so to a segment sent before its FIN arrived. Linux
		// accepts that (tcp_reset_check), and sends no FIN afterwards.
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
			w.state = StateNone // conntrack has seen it close
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
			w.send(w.server, w.client, w.sseq, 0, packet.RST, "") // goes no further than the firewall
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

// TestSkip withholds the payload of skipped connections: their end must be noticed, whatever
// passed unseen.
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

// TestReusedTuple demands NewConn of the packets that open a connection, and not of those
// that only look like it.
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

// TestClientOnControlPort opens a connection from a control port.
func TestClientOnControlPort(t *testing.T) {
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

// TestPacketFullOfLines bounds the work for one packet: its last announcements count, and
// further rejections are only counted.
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
			name: "rejected", line: func(int) string { return "PORT 1\r\n" }, most: 8,
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

// FuzzPackets passes segments to a small table and checks its limits and its consistency
// after each.
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

// allConns returns the connections of all ranks.
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

// checkBooks checks that all tables and counters agree.
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
