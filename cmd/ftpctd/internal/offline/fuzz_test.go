package offline

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ftpctd/conntrack"
	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// ends are those that datagrams of the fuzz target travel between: three hosts.
var ends = []netip.AddrPort{
	netip.MustParseAddrPort("192.0.2.1:40000"),
	netip.MustParseAddrPort("192.0.2.1:21"),
	netip.MustParseAddrPort("192.0.2.2:21"),
	netip.MustParseAddrPort("192.0.2.2:2121"),
	netip.MustParseAddrPort("192.0.2.2:31240"),
	netip.MustParseAddrPort("192.0.2.3:21"),
	netip.MustParseAddrPort("192.0.2.3:80"),
}

// words are what they may say, besides bytes of the fuzzer's own.
var words = []string{
	"220 r\r\n", "USER a\r\n", "331 p\r\n", "PASS b\r\n", "230 ok\r\n", "200 ok\r\n", "500 no\r\n", "226 done\r\n",
	"PASV\r\n", "227 ok (192,0,2,2,122,8)\r\n", "227 ok (192,0,2,3,122,8)\r\n", "227 ok (192,0,2,2,8,73)\r\n", "227 ok (192,0,2,2,0,22)\r\n",
	"EPSV\r\n", "229 (|||31240|)\r\n", "229 (|||2121|)\r\n",
	"PORT 192,0,2,1,154,208\r\n", "PORT 192,0,2,2,154,208\r\n", "PORT 192,0,2,3,154,208\r\n", "PORT 192,0,2,1,0,80\r\n", "PORT 192,0,2,1,8,73\r\n",
	"EPRT |1|192.0.2.1|5000|\r\n", "RETR a\r\n", "150 go\r\n", "QUIT\r\n", "REIN\r\n", "AUTH TLS\r\n", "234 go\r\n",
	"\x15\x03\x03\x00\x01x", "213-\r\n", "213 end\r\n", "PO", "RT 192,0,2,1,154,208\r\n", "POST / HTTP/1.1\r\n", "\r\n", "\xff\xf4",
	"\x00\x00\x00\x07\x00\x00\x00\x00", "NOOP",
}

// path is what one end sends to another.
type path struct{ src, dst netip.AddrPort }

func (p path) turned() path { return path{p.dst, p.src} }

// witness sees all datagrams, and what is decided on them, and knows by itself what
// must not be.
type witness struct {
	t       *testing.T
	minPort uint16
	ports   []uint16

	asked    map[path]uint32 // what answers the last SYN
	answered map[path]bool   // a SYN/ACK has: the client's path
	begun    map[path]bool   // a SYN was seen, of either side
	sent     map[path]bool
	pickedUp map[path]bool
	open     map[path]bool

	expected, withdrawn int
}

// see takes note of a datagram before anything is decided on it.
func (w *witness) see(p *packet.Packet) {
	on := path{p.Src, p.Dst}
	w.sent[on] = true
	switch p.Flags {
	case packet.SYN:
		w.begun[on], w.begun[on.turned()] = true, true
		if len(p.Payload) == 0 {
			w.asked[on] = p.Seq + 1
		}
	case packet.SYN | packet.ACK:
		if ack, ok := w.asked[on.turned()]; ok && ack == p.Ack {
			w.answered[on.turned()] = true
		}
	}
}

func (w *witness) observe(e conntrack.Event) {
	w.t.Helper()
	on := path{e.Master.Src, e.Master.Dst}
	switch e.Kind {
	case conntrack.EventOpen:
		switch {
		case !slices.Contains(w.ports, on.dst.Port()):
			w.t.Fatalf("%v is no control connection", on)
		case w.open[on.turned()]:
			w.t.Fatalf("%v is open in both directions", on)
		case e.Reason == "" && !w.answered[on]:
			w.t.Fatalf("%v is open without a handshake", on)
		case e.Reason == ftpparse.PickedUp && (w.begun[on] || w.pickedUp[on] || !w.sent[on] || !w.sent[on.turned()]):
			w.t.Fatalf("%v is picked up: SYN seen %v, picked up before %v, seen both ways %v", on, w.begun[on], w.pickedUp[on], w.sent[on] && w.sent[on.turned()])
		}
		w.open[on] = true
		w.pickedUp[on] = w.pickedUp[on] || e.Reason == ftpparse.PickedUp
	case conntrack.EventClose, conntrack.EventNotFTP:
		w.open[on] = false
	case conntrack.EventExpect:
		w.expected++
		from, to := on.src.Addr(), on.dst.Addr()
		if e.Via.Active() {
			from, to = to, from
		}
		port := e.Tuple.Dst.Port()
		if !w.open[on] || e.Tuple.Src != netip.AddrPortFrom(from, 0) || e.Tuple.Dst.Addr() != to || port < w.minPort || slices.Contains(w.ports, port) {
			w.t.Fatalf("expected %v of %v, which is open: %v", e.Tuple, on, w.open[on])
		}
	case conntrack.EventWithdraw:
		w.withdrawn++
	}
}

// FuzzDatagrams gives arbitrary datagrams among a few hosts, two control ports among
// theirs, to the daemon's packet path. Whatever comes, every expectation is
// between the two hosts of a connection that had a handshake in the client's direction,
// or that was there before the first datagram, and to a port that is allowed.
func FuzzDatagrams(f *testing.F) {
	step := func(src, dst, what byte, word string) string {
		return string([]byte{src + dst*byte(len(ends)), what, byte(slices.Index(words, word))})
	}
	const (
		syn, synAck, rst, wait, say, handshake, login = 0, 1, 4, 7, 8, 13, 14
		nothing, port                                 = "220 r\r\n", "PORT 192,0,2,1,154,208\r\n"
	)
	opened := step(0, 2, handshake, nothing) + step(0, 2, login, nothing)
	for _, word := range words {
		f.Add([]byte("\x00" + opened + step(0, 2, say, word)))
		f.Add([]byte("\x00" + opened + step(0, 2, say, "PASV\r\n") + step(2, 0, say, word)))
	}
	for _, mode := range []string{"\x00", "\x04"} { // expect, entry
		f.Add([]byte(mode + opened + step(0, 2, say, "PASV\r\n") + step(2, 0, say, "227 ok (192,0,2,2,122,8)\r\n") + step(0, 4, syn, nothing)))
	}
	f.Add([]byte("\x00" + step(0, 2, say, "NOOP") + step(2, 0, say, "200 ok\r\n") + step(0, 2, say, port)))
	f.Add([]byte("\x00" + step(0, 2, syn, nothing) + step(2, 0, syn, nothing) + step(0, 2, synAck, nothing) + step(2, 0, login, nothing) + step(0, 2, say, port)))
	// A server that sends a SYN of its own, and a SYN/ACK that answers nothing.
	f.Add([]byte("\x00" + step(0, 2, syn, nothing) + step(2, 0, syn, nothing) + step(0, 2, synAck, nothing) + step(2, 0, synAck, nothing)))
	f.Add([]byte("\x00" + step(0, 2, handshake, nothing) + step(0, 2, say, "POST / HTTP/1.1\r\n") + step(2, 0, rst, nothing) +
		step(0, 2, wait, "NOOP") + step(0, 2, login, nothing) + step(0, 2, say, port)))
	f.Add([]byte("\x00" + step(1, 3, handshake, nothing) + step(1, 3, login, nothing) + step(3, 1, handshake, nothing) + step(3, 1, login, nothing) +
		step(1, 3, say, port) + step(3, 1, say, "PORT 192,0,2,2,154,208\r\n")))
	f.Add([]byte("\x00" + step(1, 6, handshake, nothing) + step(1, 6, login, nothing) + step(6, 1, say, port)))
	f.Fuzz(func(t *testing.T, data []byte) { streams(t, data) })
}

func streams(t *testing.T, data []byte) {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return b
	}
	options := next()
	cfg := config()
	cfg.Connections, cfg.MaxExpected = 8, 2
	cfg.Policy.RequireLogin = options&1 == 0
	all := conntrack.PortRange{Max: 65535} // MinPort alone stands before the others
	cfg.Policy.ActivePorts, cfg.Policy.PassivePorts = all, all
	cfg.SkipOpaque, cfg.Shared = options&2 != 0, options&4 != 0
	if options&8 != 0 {
		cfg.Policy.PassiveAddress = conntrack.AddressStrict
	}
	if options&16 != 0 {
		cfg.Connections = 2
	}
	w := &witness{
		t: t, minPort: cfg.Policy.MinPort, ports: cfg.Ports, asked: make(map[path]uint32),
		answered: make(map[path]bool), begun: make(map[path]bool), sent: make(map[path]bool),
		pickedUp: make(map[path]bool), open: make(map[path]bool),
	}
	cfg.Observe = w.observe
	d := New(cfg)
	now := time.Unix(1000, 0)
	seq := make(map[path]uint32)

	send := func(on path, flags packet.Flags, off int32, payload string) {
		p := &packet.Packet{Src: on.src, Dst: on.dst, Seq: seq[on] + uint32(off), Flags: flags, Payload: []byte(payload)}
		if flags&packet.ACK != 0 {
			p.Ack = seq[on.turned()]
		}
		if off == 0 {
			seq[on] = end(p)
		}
		now = now.Add(time.Millisecond)
		w.see(p)
		outstanding, expected, withdrawn := d.Stats().Outstanding, w.expected, w.withdrawn
		d.Packet(now, p)
		stats := d.Stats()
		used := outstanding + w.expected - expected - (w.withdrawn - withdrawn) - stats.Outstanding
		if used != 0 && (used != 1 || p.Flags != packet.SYN) {
			t.Fatalf("%d expectations are used by %+v", used, p)
		}
		if stats.Connections > cfg.Connections || stats.Outstanding > cfg.MaxExpected*stats.Connections || stats.Expected != uint64(w.expected) {
			t.Fatalf("%+v", stats)
		}
	}
	for range 64 {
		if len(data) == 0 {
			break
		}
		who, what, word := next(), next(), next()
		on := path{ends[int(who)%len(ends)], ends[int(who)/len(ends)%len(ends)]}
		if on.src.Addr() == on.dst.Addr() {
			continue
		}
		payload := words[int(word)%len(words)]
		if word >= 200 {
			n := min(int(word-200), len(data))
			payload, data = string(data[:n]), data[n:]
		}
		off := [16]int32{12: -1, 13: 1, 14: 100, 15: -int32(len(payload))}[what>>4]
		switch what & 15 {
		case 0:
			seq[on] += 1000
			send(on, packet.SYN, off, "")
		case 1:
			send(on, packet.SYN|packet.ACK, off, "")
		case 2:
			send(on, packet.ACK, off, "")
		case 3:
			send(on, packet.FIN|packet.ACK, off, "")
		case 4:
			send(on, packet.RST, off, "")
		case 5:
			send(on, packet.Flags(word)&(packet.FIN|packet.SYN|packet.RST|packet.ACK), off, payload)
		case 6:
			seq[on] += 1000
			send(on, packet.SYN, off, payload)
		case 7:
			now = now.Add(time.Duration(word) * time.Second)
		case 8, 9, 10, 11, 12:
			send(on, packet.ACK, off, payload)
		case 13:
			seq[on] += 1000
			send(on, packet.SYN, 0, "")
			send(on.turned(), packet.SYN|packet.ACK, 0, "")
			send(on, packet.ACK, 0, "")
		default:
			for i, line := range strings.SplitAfter("220 r\r\nUSER a\r\n230 ok\r\n", "\n")[:3] {
				if i == 1 {
					send(on, packet.ACK, 0, line)
				} else {
					send(on.turned(), packet.ACK, 0, line)
				}
			}
		}
	}
	d.Close()
	if n := d.Stats().Outstanding; n != 0 {
		t.Fatalf("%d expectations are left", n)
	}
}
