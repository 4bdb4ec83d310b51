package conntrack

import (
	"encoding/binary"
	"fmt"
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

// TestEvictionOrder fills the table: connections are evicted in the order of their rank.
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

// TestMemoryPressure demands that only connections with buffers are skipped, the oldest
// first.
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

// TestIdleConnections lets hosts vanish in the middle of a session: their connections are
// forgotten after conntrack's timeout.
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

// TestChosenKeys adds connections whose addresses and ports a sender of forged packets may
// have chosen to make them share a chain of the table.
func TestChosenKeys(t *testing.T) {
	const n = 1 << 12
	tests := []struct {
		name string
		vary func(k *connKey, i uint16)
	}{
		{"client port", func(k *connKey, i uint16) { k.clientPort = i }},
		{"client host", func(k *connKey, i uint16) { binary.BigEndian.PutUint16(k.client[14:], i) }},
		{"client network", func(k *connKey, i uint16) { binary.BigEndian.PutUint16(k.client[6:], i) }},
		{"server host", func(k *connKey, i uint16) { binary.BigEndian.PutUint16(k.server[14:], i) }},
		{"client port, and the server's network with it", func(k *connKey, i uint16) {
			k.clientPort = i
			binary.LittleEndian.PutUint16(k.server[:], i)
		}},
		{"server host, in a network that equals the ports", func(k *connKey, i uint16) {
			k.clientPort = 0x0120
			k.server = [16]byte{0x20, 0x01, 21, 0, 6}
			binary.BigEndian.PutUint16(k.server[14:], i)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var table connTable
			table.init(n)
			longest := 0
			for i := range uint16(n) {
				key := keyOf(netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[2001:db8:1::2]:21"))
				tt.vary(&key, i)
				table.add(&key, rankSilent, 0)
				length := 0
				for c := *table.chain(&key); c != nil; c = c.chain {
					length++
				}
				longest = max(longest, length)
			}
			if longest > 32 { // of as many chains as connections; chance makes it about 7
				t.Errorf("%d of %d connections share a chain", longest, n)
			}
		})
	}
}

func TestConnSize(t *testing.T) {
	if n := unsafe.Sizeof(conn{}) - unsafe.Sizeof(ftpparse.Session{}); n > 120 {
		t.Errorf("a connection takes %d bytes beside its session, want at most 120", n)
	}
}
