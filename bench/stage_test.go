package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ftpctd/bench/corpora"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

var (
	client = netip.MustParseAddrPort("10.0.0.1:50000")
	server = netip.MustParseAddrPort("192.168.0.201:21")
)

const login = "S220 ready\r\n|CUSER a\r\n|S331 p\r\n|CPASS b\r\n|S230 ok\r\n"

// dialogues are exchanges that can be repeated without end on one connection.
var dialogues = []struct{ kind, steps string }{
	{"boring", "CNOOP\r\n|S200 ok\r\n"},
	{"announcing-227", "CPASV\r\n|S227 Entering Passive Mode (192,168,0,201,122,8).\r\n"},
	{"announcing-PORT", "CPORT 10,0,0,1,154,208\r\n|S200 ok\r\n"},
	{"split", "CPA|CSV\r\n|S227 Entering Passive Mode |S(192,168,0,201,122,8).\r\n"},
}

// step is a segment of a dialogue.
type step struct {
	server  bool
	payload []byte
}

func steps(s string) []step {
	var out []step
	for part := range strings.SplitSeq(s, "|") {
		out = append(out, step{part[0] == 'S', []byte(part[1:])})
	}
	return out
}

func size(steps []step) (n int64) {
	for _, s := range steps {
		n += int64(len(s.payload))
	}
	return n
}

// speaker numbers the segments of a dialogue.
type speaker struct {
	client, server netip.AddrPort
	seq            [2]uint32
}

func (s *speaker) packet(st step) packet.Packet {
	p := packet.Packet{Src: s.client, Dst: s.server, Seq: s.seq[0], Ack: s.seq[1], Flags: packet.ACK, Payload: st.payload}
	if st.server {
		p = packet.Packet{Src: s.server, Dst: s.client, Seq: s.seq[1], Ack: s.seq[0], Flags: packet.ACK, Payload: st.payload}
		s.seq[1] += uint32(len(st.payload))
	} else {
		s.seq[0] += uint32(len(st.payload))
	}
	return p
}

func segment(p *packet.Packet, st step) ftpparse.Segment {
	g := ftpparse.Segment{Seq: p.Seq, Ack: p.Ack, HasAck: true, Payload: p.Payload}
	if st.server {
		g.Dir = ftpparse.DirReply
	}
	return g
}

// BenchmarkSegment is a session that reads the segments of an exchange.
func BenchmarkSegment(b *testing.B) {
	for _, d := range dialogues {
		b.Run(d.kind, func(b *testing.B) {
			var session ftpparse.Session
			session.Start(0, 0)
			who := speaker{client: client, server: server}
			events := make([]ftpparse.Event, 0, 8)
			play := func(list []step) {
				for _, st := range list {
					p := who.packet(st)
					events = session.Segment(events[:0], segment(&p, st))
				}
			}
			play(steps(login))
			list := steps(d.steps)
			b.ReportAllocs()
			b.SetBytes(size(list))
			for b.Loop() {
				play(list)
			}
			sinkEvents = events
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(list)), "ns/segment")
		})
	}
}

func trackerConfig(connections int) conntrack.Config {
	all := conntrack.PortRange{Min: 1024, Max: 65535}
	return conntrack.Config{
		Ports:       []uint16{21},
		Policy:      conntrack.Policy{MinPort: 1024, RequireLogin: true, Active: true, ActivePorts: all, PassivePorts: all},
		Connections: connections, MaxExpected: 8, Timeout: 30 * time.Second,
	}
}

// loggedIn makes a tracker with as many connections as it may have, which have
// logged in.
func loggedIn(cfg conntrack.Config) (*conntrack.Tracker, []speaker) {
	t := conntrack.New(cfg)
	now := time.Unix(1000, 0)
	who := make([]speaker, cfg.Connections)
	greet := steps(login)
	for i := range who {
		n := i + 1
		addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		who[i] = speaker{client: netip.AddrPortFrom(addr, 50000), server: server}
		t.Packet(now, &packet.Packet{Src: who[i].server, Dst: who[i].client, Flags: packet.SYN | packet.ACK, Seq: who[i].seq[1], Ack: who[i].seq[0] + 1})
		who[i].seq[0]++
		who[i].seq[1]++
		for _, st := range greet {
			p := who[i].packet(st)
			t.Packet(now, &p)
		}
	}
	return t, who
}

// BenchmarkTracker is a segment through a table of so many connections, each of
// which speaks in its turn.
func BenchmarkTracker(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t, who := loggedIn(trackerConfig(n))
			now := time.Unix(1001, 0)
			noop, ok := steps("CNOOP\r\n")[0], steps("S200 ok\r\n")[0]
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p := who[i].packet(noop)
				t.Packet(now, &p)
				p = who[i].packet(ok)
				t.Packet(now, &p)
				if i++; i == n {
					i = 0
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/segment")
		})
	}
}

// rawPacket builds the IP packet of a segment.
func rawPacket(p packet.Packet) []byte {
	tcp := make([]byte, 32)
	binary.BigEndian.PutUint16(tcp[0:], p.Src.Port())
	binary.BigEndian.PutUint16(tcp[2:], p.Dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], p.Seq)
	binary.BigEndian.PutUint32(tcp[8:], p.Ack)
	tcp[12], tcp[13] = 8<<4, byte(p.Flags)
	copy(tcp[20:], []byte{1, 1, 8, 10}) // NOP, NOP, time stamps
	tcp = append(tcp, p.Payload...)
	if p.Src.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		copy(ip[12:], p.Src.Addr().AsSlice())
		copy(ip[16:], p.Dst.Addr().AsSlice())
		return append(ip, tcp...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, 6, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], p.Src.Addr().AsSlice())
	copy(ip[24:], p.Dst.Addr().AsSlice())
	return append(ip, tcp...)
}

// BenchmarkDecode is an IP packet to its TCP segment.
func BenchmarkDecode(b *testing.B) {
	v6 := speaker{client: netip.MustParseAddrPort("[2001:db8::1]:50000"), server: netip.MustParseAddrPort("[2001:db8::2]:21")}
	for _, d := range []struct {
		kind string
		who  speaker
	}{{"ipv4", speaker{client: client, server: server}}, {"ipv6", v6}} {
		b.Run(d.kind, func(b *testing.B) {
			raw := rawPacket(d.who.packet(steps("CPASV\r\n")[0]))
			var decoder packet.Decoder
			var p packet.Packet
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if err := decoder.Decode(raw, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncode is an expectation to the message that inserts it.
func BenchmarkEncode(b *testing.B) {
	for _, d := range []struct {
		kind, src, dst, peer string
	}{
		{"ipv4", "192.168.0.211:50000", "192.168.0.201:21", "192.168.0.201:31240"},
		{"ipv6", "[2001:db8::1]:50000", "[2001:db8::2]:21", "[2001:db8::2]:31240"},
	} {
		b.Run(d.kind, func(b *testing.B) {
			master := conntrack.Tuple{Src: netip.MustParseAddrPort(d.src), Dst: netip.MustParseAddrPort(d.dst)}
			x := conntrack.Expectation{Master: master, Tuple: conntrack.Tuple{
				Src: netip.AddrPortFrom(master.Src.Addr(), 0), Dst: netip.MustParseAddrPort(d.peer),
			}}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = ctnetlink.AppendExpect(buf[:0], 2, &x)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

// BenchmarkReplay reads real captures: how much of a control connection's
// traffic one core reads.
func BenchmarkReplay(b *testing.B) {
	dir := corpora.Path(b, "corpora", "zeek", "Traces", "ftp")
	for _, name := range []string{"cwd-navigation.pcap", "ipv4.pcap"} {
		b.Run(name, func(b *testing.B) {
			segments := readCapture(b, filepath.Join(dir, name))
			var bytes int64
			for _, s := range segments {
				bytes += int64(len(s))
			}
			var decoder packet.Decoder
			var p packet.Packet
			now := time.Unix(1000, 0)
			b.ReportAllocs()
			b.SetBytes(bytes)
			for b.Loop() {
				t := conntrack.New(trackerConfig(16))
				for _, raw := range segments {
					if decoder.Decode(raw, &p) == nil {
						t.Packet(now, &p)
					}
				}
			}
			b.ReportMetric(float64(b.N*len(segments))/b.Elapsed().Seconds(), "packets/s")
		})
	}
}
