package bench

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"ftpctd/bench/corpora"
	"ftpctd/bench/dialogue"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

func segment(p *packet.Packet, st dialogue.Step) ftpparse.Segment {
	g := ftpparse.Segment{Seq: p.Seq, Ack: p.Ack, HasAck: true, Payload: p.Payload}
	if st.Server {
		g.Dir = ftpparse.DirReply
	}
	return g
}

// BenchmarkSegment is a session that reads the segments of an exchange.
func BenchmarkSegment(b *testing.B) {
	for _, d := range dialogue.Repeatable {
		b.Run(d.Kind, func(b *testing.B) {
			var session ftpparse.Session
			session.Start(0, 0)
			who := dialogue.Speaker{Client: dialogue.Client, Server: dialogue.Server}
			events := make([]ftpparse.Event, 0, 8)
			play := func(steps []dialogue.Step) {
				for _, st := range steps {
					p := who.Packet(st)
					events = session.Segment(events[:0], segment(&p, st))
				}
			}
			play(dialogue.Login)
			b.ReportAllocs()
			b.SetBytes(dialogue.Size(d.Steps))
			for b.Loop() {
				play(d.Steps)
			}
			sinkEvents = events
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(d.Steps)), "ns/segment")
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
func loggedIn(cfg conntrack.Config) (*conntrack.Tracker, []dialogue.Speaker) {
	t := conntrack.New(cfg)
	now := time.Unix(1000, 0)
	who := make([]dialogue.Speaker, cfg.Connections)
	for i := range who {
		n := i + 1
		addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		who[i] = dialogue.Speaker{Client: netip.AddrPortFrom(addr, 50000), Server: dialogue.Server}
		p := who[i].SYNACK()
		t.Packet(now, &p)
		for _, st := range dialogue.Login {
			p := who[i].Packet(st)
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
			exchange := dialogue.Parse("CNOOP\r\n|S200 ok\r\n")
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				for _, st := range exchange {
					p := who[i].Packet(st)
					t.Packet(now, &p)
				}
				if i++; i == n {
					i = 0
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/segment")
		})
	}
}

// BenchmarkDecode is an IP packet to its TCP segment.
func BenchmarkDecode(b *testing.B) {
	v6 := dialogue.Speaker{Client: netip.MustParseAddrPort("[2001:db8::1]:50000"), Server: netip.MustParseAddrPort("[2001:db8::2]:21")}
	for _, d := range []struct {
		kind string
		who  dialogue.Speaker
	}{{"ipv4", dialogue.Speaker{Client: dialogue.Client, Server: dialogue.Server}}, {"ipv6", v6}} {
		b.Run(d.kind, func(b *testing.B) {
			raw := dialogue.IP(d.who.Packet(dialogue.Parse("CPASV\r\n")[0]))
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
