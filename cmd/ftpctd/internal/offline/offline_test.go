package offline

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/conntrack"
	"ftpctd/nfq/packet"
)

const (
	fin = packet.FIN
	syn = packet.SYN
	rst = packet.RST
	ack = packet.ACK
)

var (
	client = netip.MustParseAddrPort("192.0.2.10:40000")
	server = netip.MustParseAddrPort("198.51.100.20:21")
)

func config() conntrack.Config {
	all := conntrack.PortRange{Min: 1024, Max: 65535}
	return conntrack.Config{
		Ports:       []uint16{21, 2121},
		Policy:      conntrack.Policy{MinPort: 1024, RequireLogin: true, Active: true, ActivePorts: all, PassivePorts: all},
		Connections: 8, MaxExpected: 8, Timeout: 30 * time.Second,
	}
}

// wire plays one connection.
type wire struct {
	d              *Daemon
	client, server netip.AddrPort
	cseq, sseq     uint32
	now            *time.Time
}

// play gives packets to a Daemon, and returns the events.
func play(cfg conntrack.Config, script func(w *wire)) []string {
	var events []string
	cfg.Observe = func(e conntrack.Event) {
		s := string(e.Kind)
		if e.Via.String() != "" {
			s += " " + e.Via.String() + " " + e.Tuple.Dst.String()
		}
		if e.Reason != "" {
			s += " " + string(e.Reason)
		}
		events = append(events, s)
	}
	now := time.Unix(1000, 0)
	script(&wire{d: New(cfg), client: client, server: server, cseq: 0xfffffff0, sseq: 5000, now: &now})
	return events
}

func (w *wire) send(src, dst netip.AddrPort, seq, a uint32, flags packet.Flags, data string) {
	*w.now = w.now.Add(time.Millisecond)
	w.d.Packet(*w.now, &packet.Packet{Src: src, Dst: dst, Seq: seq, Ack: a, Flags: flags, Payload: []byte(data)})
}

// client and server send a segment, and count on.
func (w *wire) c(flags packet.Flags, data string) {
	a := w.sseq
	if flags&ack == 0 {
		a = 0
	}
	p := packet.Packet{Seq: w.cseq, Flags: flags, Payload: []byte(data)}
	w.send(w.client, w.server, w.cseq, a, flags, data)
	w.cseq = end(&p)
}

func (w *wire) s(flags packet.Flags, data string) {
	p := packet.Packet{Seq: w.sseq, Flags: flags, Payload: []byte(data)}
	w.send(w.server, w.client, w.sseq, w.cseq, flags, data)
	w.sseq = end(&p)
}

func (w *wire) handshake() {
	w.c(syn, "")
	w.s(syn|ack, "")
	w.c(ack, "")
}

func (w *wire) login() {
	w.s(ack, "220 r\r\n")
	w.c(ack, "USER a\r\n")
	w.s(ack, "230 ok\r\n")
}

func (w *wire) port() { w.c(ack, "PORT 192,0,2,10,154,208\r\n") }

func (w *wire) pasv() {
	w.c(ack, "PASV\r\n")
	w.s(ack, "227 (198,51,100,20,122,8)\r\n")
}

func (w *wire) wait(d time.Duration) { *w.now = w.now.Add(d) }

// TestPackets holds what the daemon decides on packets that its rules would queue, and
// not on others.
func TestPackets(t *testing.T) {
	const (
		expect  = "expect PORT 192.0.2.10:39632"
		passive = "expect 227 198.51.100.20:31240"
		unseen  = "not-ftp not-seen-from-start"
	)
	data := netip.MustParseAddrPort("198.51.100.20:31240")
	from := netip.AddrPortFrom(client.Addr(), 50000)
	tests := []struct {
		name string
		play func(w *wire)
		want []string
	}{
		{"a session", func(w *wire) {
			w.handshake()
			w.login()
			w.port()
		}, []string{"open", expect}},
		{"SYN sent again", func(w *wire) {
			w.send(w.client, w.server, w.cseq, 0, syn, "")
			w.handshake()
			w.login()
			w.port()
		}, []string{"open", expect}},
		{"SYN/ACK sent again", func(w *wire) {
			w.handshake()
			w.send(w.server, w.client, w.sseq-1, w.cseq, syn|ack, "")
			w.login()
			w.port()
		}, []string{"open", expect}},
		{"SYN/ACK that answers another SYN", func(w *wire) {
			w.c(syn, "")
			w.send(w.server, w.client, w.sseq, w.cseq+5, syn|ack, "")
			w.sseq++
			w.c(ack, "")
			w.login()
			w.port()
		}, []string{unseen}},
		{"SYN/ACK at will in the middle", func(w *wire) {
			w.handshake()
			w.s(ack, "220 r\r\n")
			w.c(ack, "GET / HTTP/1.1\r\n")
			w.send(w.server, w.client, w.sseq-1, w.cseq, syn|ack, "")
			w.login()
			w.port()
		}, []string{"open", "not-ftp not-a-verb"}},
		{"the client comes from a control port", func(w *wire) {
			w.client = netip.AddrPortFrom(client.Addr(), 21)
			w.server = netip.AddrPortFrom(server.Addr(), 80)
			w.handshake()
			w.c(ack, "220 r\r\n")
			w.s(ack, "USER a\r\n")
			w.c(ack, "230 ok\r\n")
			w.s(ack, "PORT 198,51,100,20,154,208\r\n")
		}, nil},
		{"the same, without the client's SYN", func(w *wire) {
			w.client = netip.AddrPortFrom(client.Addr(), 21)
			w.server = netip.AddrPortFrom(server.Addr(), 80)
			w.cseq++
			w.s(syn|ack, "")
			w.c(ack, "230 ok\r\n")
			w.s(ack, "PORT 198,51,100,20,154,208\r\n")
		}, nil},
		{"both from control ports", func(w *wire) {
			w.client = netip.AddrPortFrom(client.Addr(), 2121)
			w.handshake()
			w.login()
			w.port()
		}, []string{"open", expect}},
		{"simultaneous open", func(w *wire) {
			w.c(syn, "")
			w.send(w.server, w.client, w.sseq, 0, syn, "")
			w.sseq++
			w.send(w.client, w.server, w.cseq-1, w.sseq, syn|ack, "")
			w.send(w.server, w.client, w.sseq, w.cseq, ack, "")
			w.login()
			w.port()
		}, []string{unseen}},
		{"the answer to a SYN is no SYN/ACK", func(w *wire) {
			w.c(syn, "")
			w.sseq++
			w.s(ack, "")
			w.login()
			w.port()
		}, []string{unseen}},
		{"SYN with data", func(w *wire) {
			w.c(syn, "USER a\r\n")
			w.s(syn|ack, "")
			w.c(ack, "")
			w.login()
			w.port()
		}, []string{unseen}},
		{"a SANE request", func(w *wire) {
			w.handshake()
			w.login()
			w.c(ack, "\x00\x00\x00\x07\x00\x00\x00\x01")
			w.port()
		}, []string{"open"}}, // the line has NULs in it
		{"flags that no packet has", func(w *wire) {
			w.handshake()
			w.login()
			w.send(w.client, w.server, w.cseq, w.sseq, fin, "")
			w.send(w.client, w.server, w.cseq, w.sseq, syn|rst, "")
			w.port()
		}, []string{"open", expect}},
		{"a RST of the past", func(w *wire) {
			w.handshake()
			w.login()
			w.send(w.server, w.client, w.sseq-2, 0, rst, "")
			w.port()
		}, []string{"open", expect}},
		{"a second session between the same ports", func(w *wire) {
			w.handshake()
			w.login()
			w.c(fin|ack, "")
			w.s(fin|ack, "")
			w.c(ack, "")
			w.cseq, w.sseq = 70000, 90000
			w.handshake()
			w.login()
			w.port()
		}, []string{"open", "close closed", "open", expect}},
		{"a second session after a power failure, of which nobody told the first", func(w *wire) {
			w.handshake()
			w.login()
			w.cseq, w.sseq = 70000, 90000
			w.handshake()
			w.login()
			w.port()
		}, []string{"open", "close closed", "open", expect}},
		{"a connection that conntrack has forgotten", func(w *wire) {
			w.c(syn, "")
			w.wait(3 * time.Minute)
			w.s(syn|ack, "")
			w.c(ack, "")
			w.login()
			w.port()
		}, []string{unseen}},
		{"a connection that was evicted", func(w *wire) {
			w.handshake()
			w.login()
			for i := range 8 {
				other := *w
				other.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 40000)
				other.handshake()
				other.login()
			}
			w.port()
		}, append(slices.Repeat([]string{"open"}, 8), "close evicted", "open")},

		{"picked up, the client speaks first", func(w *wire) {
			w.c(ack, "NOOP\r\n")
			w.s(ack, "200 ok\r\n")
			w.port()
		}, []string{"open picked-up", expect}},
		{"picked up, the server speaks first", func(w *wire) {
			w.s(ack, "200 ok\r\n")
			w.c(ack, "NOOP\r\n")
			w.port()
		}, []string{"open picked-up", expect}},
		{"picked up, after the SYN", func(w *wire) {
			w.cseq++
			w.s(syn|ack, "")
			w.c(ack, "")
			w.login()
			w.port()
		}, []string{"open picked-up", expect}},
		{"picked up, both from control ports", func(w *wire) {
			w.client = netip.AddrPortFrom(client.Addr(), 2121)
			w.c(ack, "NOOP\r\n")
			w.s(ack, "")
			w.port()
		}, []string{"open picked-up", expect}},
		{"not picked up while one side alone is seen", func(w *wire) {
			w.c(ack, "NOOP\r\n")
			w.port()
		}, nil},
		{"not picked up with a SYN in the middle", func(w *wire) {
			w.c(ack, "NOOP\r\n")
			w.send(w.client, w.server, w.cseq, 0, syn, "")
			w.s(ack, "200 ok\r\n")
			w.port()
		}, []string{unseen}},
		{"not picked up a second time", func(w *wire) {
			w.c(ack, "NOOP\r\n")
			w.s(ack, "200 ok\r\n")
			w.c(rst, "")
			w.wait(3 * time.Minute)
			w.c(ack, "NOOP\r\n")
			w.s(ack, "200 ok\r\n")
			w.port()
		}, []string{"open picked-up", "close closed", unseen}},

		{"a data connection from a control port", func(w *wire) {
			w.handshake()
			w.login()
			w.pasv()
			x := *w
			x.client, x.server = netip.AddrPortFrom(client.Addr(), 2121), data
			x.handshake()
			x.c(ack, "220 r\r\n")
			x.s(ack, "USER a\r\n")
			x.c(ack, "230 ok\r\n")
			x.s(ack, "PORT 198,51,100,20,154,208\r\n")
		}, []string{"open", passive}},
		{"a used expectation is not withdrawn", func(w *wire) {
			w.handshake()
			w.login()
			w.pasv()
			w.send(from, data, 1, 0, syn, "")
			w.c(rst|ack, "")
		}, []string{"open", passive, "close closed"}},
		{"a SYN that is sent again uses nothing", func(w *wire) {
			w.handshake()
			w.login()
			w.pasv()
			w.send(from, data, 1, 0, syn, "")
			w.pasv()
			w.send(from, data, 1, 0, syn, "")
			w.c(rst|ack, "")
		}, []string{"open", passive, passive, "withdraw 227 198.51.100.20:31240 closed", "close closed"}},
		{"an expectation runs out ahead of the packet", func(w *wire) {
			w.handshake()
			w.login()
			w.pasv()
			w.wait(32 * time.Second)
			w.send(from, data, 1, 0, syn, "")
		}, []string{"open", passive, "withdraw 227 198.51.100.20:31240 expired"}},
		{"an expectation stands until the second is full", func(w *wire) {
			w.handshake()
			w.login()
			w.wait(500 * time.Millisecond)
			w.pasv()
			w.wait(30*time.Second + 200*time.Millisecond)
			w.send(from, data, 1, 0, syn, "")
			w.wait(time.Second)
			w.c(ack, "")
		}, []string{"open", passive}},
		{"the clock goes back", func(w *wire) {
			w.handshake()
			w.login()
			w.wait(-time.Hour)
			w.pasv()
			w.wait(time.Hour + 20*time.Second)
			w.c(ack, "")
		}, []string{"open", passive}},
		{"the clock is centuries ahead", func(w *wire) {
			w.handshake()
			w.login()
			w.pasv()
			*w.now = time.Unix(1<<40, 0)
			w.c(ack, "")
		}, []string{"open", passive, "withdraw 227 198.51.100.20:31240 expired", "close expired"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, play(config(), tt.play)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOthersLeaveNothing demands that what is of no interest takes no memory.
func TestOthersLeaveNothing(t *testing.T) {
	d := New(config())
	for i := range 1000 {
		src := netip.AddrPortFrom(client.Addr(), uint16(1024+i))
		dst := netip.AddrPortFrom(server.Addr(), 80)
		for _, p := range []packet.Packet{
			{Src: src, Dst: dst, Flags: syn},
			{Src: dst, Dst: src, Flags: syn | ack},
			{Src: src, Dst: dst, Flags: ack, Payload: []byte("GET / HTTP/1.1\r\n")},
		} {
			if d.Packet(time.Unix(1000, 0), &p) {
				t.Fatalf("%+v is queued", p)
			}
		}
	}
	if n := len(d.kernel.connections); n != 0 {
		t.Errorf("%d records, want none", n)
	}
}
