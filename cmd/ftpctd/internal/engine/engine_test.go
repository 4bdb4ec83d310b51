package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/advice"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

// fakeKernel is an Admitter whose messages are lines of text. answer, if set,
// is asked for the outcome of each insertion that waits for one.
type fakeKernel struct {
	mu     sync.Mutex
	calls  []string
	answer func(try int) error
	tries  int
}

func (k *fakeKernel) AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) ([]byte, error) {
	return fmt.Appendf(b, "expect#%d %s;", seq, x.Tuple.Dst), nil
}

func (k *fakeKernel) AppendDelete(b []byte, _ uint32, x *conntrack.Expectation) []byte {
	return fmt.Appendf(b, "delete %s;", x.Tuple.Dst)
}

func (k *fakeKernel) Expect(x *conntrack.Expectation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tries++
	if k.answer != nil {
		if err := k.answer(k.tries); err != nil {
			return err
		}
	}
	k.calls = append(k.calls, "expect "+x.Tuple.Dst.String())
	return nil
}

func (k *fakeKernel) Delete(x *conntrack.Expectation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, "delete "+x.Tuple.Dst.String())
	return unix.ENOENT
}

// bench is an engine with a fake kernel and what comes out of it.
type bench struct {
	*Engine
	cfg      Config
	kernel   *fakeKernel
	log      strings.Builder
	level    slog.LevelVar
	accepted []uint32
	sends    []string
	id       uint32
	attrs    []byte // packet.Packet.Conntrack of what announce sends
}

var server = netip.MustParseAddrPort("198.51.100.20:21")

func newBench() *bench {
	b := &bench{kernel: &fakeKernel{}}
	policy := conntrack.Policy{
		MinPort: 1024, Active: true,
		ActivePorts: conntrack.PortRange{Min: 1024, Max: 65535}, PassivePorts: conntrack.PortRange{Min: 1024, Max: 65535},
	}
	log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: &b.level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return advice.Attr(groups, a)
	}}))
	b.cfg = Config{
		Tracker: conntrack.Config{
			Ports: []uint16{21}, Policy: policy, Connections: 16, MaxExpected: 8, Timeout: 30 * time.Second,
		},
		Expect: b.kernel,
		Now:    time.Now,
		Accept: func(id uint32) error {
			b.accepted = append(b.accepted, id)
			return nil
		},
		Send: func(messages []byte) error {
			b.sends = append(b.sends, string(messages))
			return nil
		},
		Log: log,
	}
	b.Engine = New(b.cfg)
	return b
}

// TestConnectionOfPacket has an expectation made of what conntrack knows: from
// the packet, else from a lookup, else from the packet's addresses.
func TestConnectionOfPacket(t *testing.T) {
	client := netip.MustParseAddrPort("192.0.2.10:40000")
	outside := netip.MustParseAddrPort("203.0.113.1:2121")
	asked := 0
	lookup := func(ends conntrack.Tuple) (conntrack.Connection, error) {
		asked++
		if ends != (conntrack.Tuple{Src: client, Dst: server}) {
			return conntrack.Connection{}, unix.ENOENT
		}
		return conntrack.Connection{
			Original: conntrack.Tuple{Src: client, Dst: outside},
			Reply:    conntrack.Tuple{Src: server, Dst: client},
			State:    conntrack.StateSynRecv,
		}, nil
	}
	attrs := conntrackOf(conntrack.Tuple{Src: client, Dst: server}, 7)

	tests := []struct {
		name   string
		attrs  []byte
		lookup func(conntrack.Tuple) (conntrack.Connection, error)
		want   string
		zone   uint16
		asked  int
	}{
		{"neither", nil, nil, "198.51.100.20:5000", 0, 0},
		{"lookup", nil, lookup, "203.0.113.1:5000", 0, 1},
		{"lookup fails: the connection is not read", nil, func(conntrack.Tuple) (conntrack.Connection, error) {
			return conntrack.Connection{}, unix.ENOENT
		}, "", 0, 0},
		{"with the packet", attrs, lookup, "198.51.100.20:5000", 7, 0},
		{"with the packet, unreadable", attrs[:9], lookup, "", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked = 0
			b := newBench()
			b.cfg.Lookup = tt.lookup
			b.Engine = New(b.cfg)
			b.attrs = tt.attrs
			want := ""
			if tt.want != "" {
				want = "expect#3 " + tt.want + ";"
			}
			if got := string(b.announce(client.String()).Before); got != want {
				t.Errorf("verdict %q, want %q", got, want)
			}
			if zone := b.inFlight[firstSeq].x.Zone; zone != tt.zone {
				t.Errorf("zone %d, want %d", zone, tt.zone)
			}
			if asked != tt.asked {
				t.Errorf("the kernel was asked %d times, want %d", asked, tt.asked)
			}
			b.Close()
		})
	}
}

// conntrackOf is what conntrack tells with a packet of the connection between ends
// in a zone, at its handshake: CTA_TUPLE_ORIG and CTA_TUPLE_REPLY, which the message of
// an entry begins with behind the headers, CTA_PROTOINFO and CTA_ZONE.
func conntrackOf(ends conntrack.Tuple, zone uint16) []byte {
	const headers, tuples, ctaProtoInfo, ctaProtoInfoTCP, ctaTCPState, ctaZone = 20, 2 * 52, 4, 1, 1, 18
	attrs := ctnetlink.AppendEntry(nil, 0, ends, ends)[headers:][:tuples]
	for _, nested := range [...]struct{ length, typ uint16 }{{16, ctaProtoInfo}, {12, ctaProtoInfoTCP}, {5, ctaTCPState}} {
		attrs = binary.NativeEndian.AppendUint16(attrs, nested.length)
		attrs = binary.NativeEndian.AppendUint16(attrs, nested.typ)
	}
	attrs = append(attrs, byte(conntrack.StateSynRecv), 0, 0, 0)
	attrs = binary.NativeEndian.AppendUint16(attrs, 6)
	attrs = binary.NativeEndian.AppendUint16(attrs, ctaZone)
	return append(binary.BigEndian.AppendUint16(attrs, zone), 0, 0)
}

// TestSkip marks the connections that are to be skipped, as conntrack has them,
// and takes the mark off where one begins.
func TestSkip(t *testing.T) {
	const bit = 0x100
	client := netip.MustParseAddrPort("192.0.2.10:40000")
	outside := netip.MustParseAddrPort("203.0.113.1:2121")
	segment := func(src, dst netip.AddrPort, seq, ack uint32, flags packet.Flags, payload string) packet.Packet {
		return packet.Packet{Src: src, Dst: dst, Seq: seq, Ack: ack, Flags: flags, Payload: []byte(payload)}
	}
	greeted := []packet.Packet{
		segment(client, server, 1, 0, packet.SYN, ""),
		segment(server, client, 1, 2, packet.SYN|packet.ACK, ""),
		segment(server, client, 2, 2, packet.ACK, "220 r\r\n"),
	}
	web := segment(client, server, 2, 9, packet.ACK, "GET / HTTP/1.1\r\n")
	auth := segment(client, server, 2, 9, packet.ACK, "AUTH TLS\r\n")
	accepted := segment(server, client, 9, 12, packet.ACK, "234 go\r\n")

	toServer := conntrack.Tuple{Src: client, Dst: server}
	toClient := conntrack.Tuple{Src: server, Dst: client}
	lookup := func(conntrack.Tuple) (conntrack.Connection, error) {
		return conntrack.Connection{
			Original: conntrack.Tuple{Src: client, Dst: outside}, Reply: conntrack.Tuple{Src: server, Dst: client},
			State: conntrack.StateSynRecv,
		}, nil
	}
	type message struct {
		zone uint16
		t    conntrack.Tuple
		mark uint32
	}
	tests := []struct {
		name    string
		off     bool
		skipTLS bool
		attrs   []byte
		lookup  func(conntrack.Tuple) (conntrack.Connection, error)
		packets []packet.Packet
		want    []message // of which the first, for the handshake, takes the mark off
	}{
		{"no FTP", false, false, nil, nil, []packet.Packet{web}, []message{{0, toClient, 0}, {0, toServer, bit}}},
		{"no FTP, without a mark", true, false, nil, nil, []packet.Packet{web}, nil},
		{"no FTP, behind NAT", false, false, nil, lookup, []packet.Packet{web}, []message{
			{0, conntrack.Tuple{Src: client, Dst: outside}, 0}, {0, conntrack.Tuple{Src: client, Dst: outside}, bit},
		}},
		{"no FTP, in a zone", false, false, conntrackOf(toServer, 7), lookup, []packet.Packet{web}, []message{
			{7, toServer, 0}, {7, toServer, bit},
		}},
		{"TLS that may return", false, false, nil, nil, []packet.Packet{auth, accepted}, []message{{0, toClient, 0}}},
		{"TLS", false, true, nil, nil, []packet.Packet{auth, accepted}, []message{{0, toClient, 0}, {0, toClient, bit}}},
		{"FTP", false, true, nil, nil, []packet.Packet{auth}, []message{{0, toClient, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			defer b.Close()
			cfg := b.cfg
			cfg.Lookup, cfg.Tracker.SkipOpaque = tt.lookup, tt.skipTLS
			if !tt.off {
				cfg.SkipMark = bit
			}
			b.Engine = New(cfg)
			var got, want []byte
			for _, p := range append(slices.Clone(greeted), tt.packets...) {
				p.Conntrack = tt.attrs
				got = append(got, b.Packet(&p).Before...)
			}
			for i, m := range tt.want {
				seq := uint32(nfq.SeqSilent)
				if i > 0 {
					seq = markSeq
				}
				want = ctnetlink.AppendMark(want, seq, m.zone, m.t, m.mark, bit)
			}
			if diff := cmp.Diff(hex.Dump(want), hex.Dump(got)); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnreadLabel labels a connection that is not read, and takes the label off where
// conntrack uses its entry for another one.
func TestUnreadLabel(t *testing.T) {
	client := netip.MustParseAddrPort("192.0.2.10:40000")
	ends := conntrack.Tuple{Src: client, Dst: server}
	kernel := conntrack.Connection{Original: ends, Reply: conntrack.Tuple{Src: server, Dst: client}, State: conntrack.StateSynRecv}
	b := newBench()
	defer b.Close()
	b.cfg.Lookup = func(conntrack.Tuple) (conntrack.Connection, error) { return kernel, nil }
	b.cfg.Tracker.Reopen = true
	b.Engine = New(b.cfg)
	handshake := func(seq uint32) []byte {
		return b.Packet(&packet.Packet{Src: server, Dst: client, Seq: seq, Ack: 1, Flags: packet.SYN | packet.ACK}).Before
	}
	if got := handshake(100); len(got) != 0 {
		t.Errorf("a new entry: %x", got)
	}
	got := b.Packet(&packet.Packet{Src: client, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("GET / HTTP/1.1\r\n")}).Before
	if want := ctnetlink.AppendUnread(nil, nfq.SeqSilent, 0, ends, true); !bytes.Equal(want, got) {
		t.Errorf("not FTP: %x, want %x", got, want)
	}
	kernel.Assured = true
	got = handshake(200)
	if want := ctnetlink.AppendUnread(nil, nfq.SeqSilent, 0, ends, false); !bytes.Equal(want, got) {
		t.Errorf("the same entry again: %x, want %x", got, want)
	}
}

// TestEntryWithoutNAT holds that no entry is made where the control connection is
// translated.
func TestEntryWithoutNAT(t *testing.T) {
	outside := netip.MustParseAddrPort("203.0.113.1:21")
	clientBehind := func(ends conntrack.Tuple) conntrack.Connection {
		return conntrack.Connection{
			Original: ends, Reply: conntrack.Tuple{Src: ends.Dst, Dst: outside}, State: conntrack.StateSynRecv,
		}
	}
	serverBehind := func(ends conntrack.Tuple) conntrack.Connection {
		return conntrack.Connection{
			Original: conntrack.Tuple{Src: ends.Src, Dst: outside}, Reply: conntrack.Tuple{Src: ends.Dst, Dst: ends.Src},
			State: conntrack.StateSynRecv,
		}
	}
	client := netip.MustParseAddrPort("192.0.2.10:40000")
	play := func(b *bench, c, s string) {
		b.open(client)
		b.Packet(&packet.Packet{Src: client, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte(c)})
		b.Packet(&packet.Packet{Src: server, Dst: client, Seq: 1, Ack: 1 + uint32(len(c)), Flags: packet.ACK, Payload: []byte(s)})
	}
	tests := []struct {
		name   string
		kernel func(ends conntrack.Tuple) conntrack.Connection
		c, s   string
	}{
		{"client behind NAT", clientBehind, "PASV\r\n", "227 (198,51,100,20,19,136)\r\n"},
		{"server behind NAT", serverBehind, "PASV\r\n", "227 (198,51,100,20,19,136)\r\n"},
		{"client behind NAT, to a third host", clientBehind, "PASV\r\n", "227 (203,0,113,99,19,136)\r\n"},
		{"client behind NAT, TLS", clientBehind, "AUTH TLS\r\n", "234 go\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			defer b.Close()
			table := &fakeTable{}
			cfg := b.cfg
			cfg.Tracker.Policy.PassiveAddress = conntrack.AddressReply
			cfg.Entry = admit.NewEntry(table, time.Minute)
			cfg.Expect = nil
			cfg.TLSPorts = conntrack.PortRange{Min: 30000, Max: 30999}
			cfg.Lookup = func(ends conntrack.Tuple) (conntrack.Connection, error) { return tt.kernel(ends), nil }
			b.Engine = New(cfg)
			play(b, tt.c, tt.s)
			b.Flush()
			if !strings.Contains(b.log.String(), "reason=translated") {
				t.Errorf("log lacks the reason:\n%s", &b.log)
			}
			if table.added != nil || b.Stats().Outstanding != 0 {
				t.Errorf("added %q, %d expectations, want none", table.added, b.Stats().Outstanding)
			}
		})
	}
}

// TestEntry has the first packet of a data connection leave with the messages that
// make its entry.
func TestEntry(t *testing.T) {
	const client = "192.0.2.10:40000"
	control := conntrack.Tuple{Src: netip.MustParseAddrPort(client), Dst: server}
	data := conntrack.Tuple{
		Src: netip.MustParseAddrPort("192.0.2.10:40001"), Dst: netip.AddrPortFrom(server.Addr(), 5000),
	}
	open := func() *bench {
		b := newBench()
		cfg := b.cfg
		cfg.Entry = admit.NewEntry(&fakeTable{}, time.Minute)
		cfg.Expect = nil
		cfg.TLSPorts = conntrack.PortRange{Min: 30000, Max: 30999}
		b.Engine = New(cfg)
		return b
	}
	syn := func(b *bench, t conntrack.Tuple) string {
		return hex.Dump(b.Packet(&packet.Packet{Src: t.Src, Dst: t.Dst, Flags: packet.SYN}).Before)
	}
	t.Run("expected", func(t *testing.T) {
		b := open()
		defer b.Close()
		if got := syn(b, data); got != "" {
			t.Errorf("before it is announced:\n%s", got)
		}
		b.announce(client)
		seq := b.seq
		want := ctnetlink.AppendDeleteConnection(nil, nfq.SeqSilent, data) // a leftover
		want = ctnetlink.AppendEntry(want, seq, data, control)
		if diff := cmp.Diff(hex.Dump(want), syn(b, data)); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		if got := syn(b, data); got != "" {
			t.Errorf("sent again:\n%s", got)
		}
		b.Rejected(seq, unix.EEXIST)
		if !strings.Contains(b.log.String(), "file exists") {
			t.Errorf("no word of another connection's entry in its place: %s", &b.log)
		}
		b.Rejected(seq, unix.ENOMEM)
		for _, word := range []string{"src=192.0.2.10:40001", "client=" + client, "the connection table is full"} {
			if !strings.Contains(b.log.String(), word) {
				t.Errorf("log lacks %q:\n%s", word, &b.log)
			}
		}
	})
	t.Run("TLS", func(t *testing.T) {
		b := open()
		defer b.Close()
		b.open(control.Src)
		b.Packet(&packet.Packet{Src: control.Src, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("AUTH TLS\r\n")})
		b.Packet(&packet.Packet{Src: server, Dst: control.Src, Seq: 1, Ack: 11, Flags: packet.ACK, Payload: []byte("234 go\r\n")})
		inside, outside := data, data
		inside.Dst = netip.AddrPortFrom(server.Addr(), 30000)
		outside.Dst = netip.AddrPortFrom(server.Addr(), 31000)
		if got := syn(b, outside); got != "" {
			t.Errorf("to a port that is not named:\n%s", got)
		}
		b.log.Reset()
		for range 2 {
			seq := b.seq
			want := ctnetlink.AppendEntry(nil, seq, inside, control)
			if diff := cmp.Diff(hex.Dump(want), syn(b, inside)); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
			b.Rejected(seq, unix.EEXIST)
		}
		if b.log.String() != "" {
			t.Errorf("log of a first packet sent again:\n%s", &b.log)
		}
	})
}

// open opens a control connection, on which the server greets. Both sides go on with
// the sequence number 1.
func (b *bench) open(c netip.AddrPort) {
	greeting := "220 r\r\n"
	seq := 1 - uint32(len(greeting))
	b.Packet(&packet.Packet{Src: server, Dst: c, Seq: seq - 1, Ack: 1, Flags: packet.SYN | packet.ACK, Conntrack: b.attrs})
	b.Packet(&packet.Packet{Src: server, Dst: c, Seq: seq, Ack: 1, Flags: packet.ACK, Payload: []byte(greeting), Conntrack: b.attrs})
}

// announce lets a client on a new connection announce port 5000 of its server.
func (b *bench) announce(client string) nfq.Verdict {
	c := netip.MustParseAddrPort(client)
	b.open(c)
	b.id++
	b.Packet(&packet.Packet{ID: b.id, Src: c, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("PASV\r\n"), Conntrack: b.attrs})
	b.id++
	return b.Packet(&packet.Packet{ID: b.id, Src: server, Dst: c, Seq: 1, Ack: 7, Flags: packet.ACK, Payload: []byte("227 (198,51,100,20,19,136)\r\n"), Conntrack: b.attrs})
}

func TestPacketLeavesWithItsExpectation(t *testing.T) {
	b := newBench()
	v := b.announce("192.0.2.10:40000")
	if got, want := string(v.Before), "expect#3 198.51.100.20:5000;"; got != want || v.Hold {
		t.Errorf("verdict %q, hold %v, want %q at once", got, v.Hold, want)
	}
	v = b.Packet(&packet.Packet{Src: server, Dst: netip.MustParseAddrPort("192.0.2.10:40000"), Flags: packet.RST, Seq: 29})
	if got, want := string(v.Before), "delete 198.51.100.20:5000;"; got != want {
		t.Errorf("at the end %q, want %q", got, want)
	}
	b.Close()
}

// taken is the answer of a kernel in which somebody else has the place of the
// expectation for the first nine tries.
func taken(try int) error {
	if try < 10 {
		return unix.EEXIST
	}
	return nil
}

func TestConflictingPacketIsHeld(t *testing.T) {
	tests := []struct {
		name   string
		answer func(try int) error
		held   time.Duration
		calls  []string
		log    string
	}{
		{"the place is free", nil, 0, []string{"expect 198.51.100.20:5000"}, ""},
		{"free after a while", taken, 9 * retryEvery, []string{"expect 198.51.100.20:5000"}, ""},
		{"never free", func(int) error { return unix.EBUSY }, holdFor + retryEvery, []string{"delete 198.51.100.20:5000"}, "reason=clash"},
		{"rejected for another reason", func(int) error { return unix.EMFILE }, 0, nil, "reason=table-full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.kernel.answer = tt.answer
				b.announce("192.0.2.10:40000")
				began := time.Now()
				if v := b.announce("192.0.2.10:40001"); !v.Hold || len(v.Before) != 0 {
					t.Errorf("%+v, want it held", v)
				}
				b.tasks.Wait()
				if got := time.Since(began); got != tt.held {
					t.Errorf("held for %v, want %v", got, tt.held)
				}
				if diff := cmp.Diff([]uint32{b.id}, b.accepted); diff != "" {
					t.Errorf("released (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.calls, b.kernel.calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if !strings.Contains(b.log.String(), tt.log) {
					t.Errorf("log lacks %q:\n%s", tt.log, &b.log)
				}
				b.Close()
			})
		})
	}
}

// TestTooManyWait lets a contested expectation leave at once where as many wait as may,
// and leaves what it has replaced in the kernel alone.
func TestTooManyWait(t *testing.T) {
	other := netip.MustParseAddrPort("192.0.2.99:1")
	for _, tt := range []struct {
		name   string
		client netip.AddrPort
		n      int
	}{
		{"of all clients", other, maxWaiting},
		{"of one client", netip.MustParseAddrPort("192.0.2.10:1"), maxWaitingOfClient},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			b.waiting.running = true // nobody is, in this test
			for range tt.n {
				b.waiting.list = append(b.waiting.list, &waiter{x: conntrack.Expectation{Master: conntrack.Tuple{Src: tt.client}}})
			}
			b.announce("192.0.2.10:40000")
			v := b.announce("192.0.2.10:40001")
			if got, want := string(v.Before), "expect#4 198.51.100.20:5000;"; got != want || v.Hold {
				t.Errorf("verdict %q, hold %v, want %q at once", got, v.Hold, want)
			}
			end := func(client string) string {
				return string(b.Packet(&packet.Packet{Src: server, Dst: netip.MustParseAddrPort(client), Flags: packet.RST, Seq: 29}).Before)
			}
			if got := end("192.0.2.10:40000"); got != "" {
				t.Errorf("the end of the first sends %q: the place is the second's", got)
			}
			if got, want := end("192.0.2.10:40001"), "delete 198.51.100.20:5000;"; got != want {
				t.Errorf("the end of the second sends %q, want %q", got, want)
			}
		})
	}
}

func TestCloseReleasesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one = "delete 198.51.100.20:5000" // of each, if it is its own
		b := newBench()
		b.kernel.answer = func(int) error { return unix.EBUSY }
		b.announce("192.0.2.10:40000")
		b.announce("192.0.2.10:40001")
		began := time.Now()
		b.Close()
		if d := time.Since(began); d > retryEvery {
			t.Errorf("Close took %v", d)
		}
		if len(b.accepted) != 1 {
			t.Errorf("released %v, want the one that was held", b.accepted)
		}
		if diff := cmp.Diff([]string{one, one}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// TestAnnouncedAgainWhileHeld lets both packets go with the one expectation that a control
// connection has announced twice.
func TestAnnouncedAgainWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.kernel.answer = taken
		b.announce("192.0.2.10:40000")
		c := netip.MustParseAddrPort("192.0.2.10:40001")
		b.announce(c.String())
		b.Packet(&packet.Packet{Src: c, Dst: server, Seq: 7, Flags: packet.ACK, Payload: []byte("PASV\r\n")})
		b.id++
		v := b.Packet(&packet.Packet{ID: b.id, Src: server, Dst: c, Seq: 29, Ack: 13, Flags: packet.ACK, Payload: []byte("227 (198,51,100,20,19,136)\r\n")})
		b.mu.Lock()
		waiting := len(b.waiting.list)
		b.mu.Unlock()
		if !v.Hold || waiting != 1 {
			t.Errorf("held %v, %d wait; want one that waits for both", v.Hold, waiting)
		}
		b.tasks.Wait()
		if len(b.accepted) != 2 {
			t.Errorf("released %v, want both", b.accepted)
		}
		if n := b.Stats().Outstanding; n != 2 {
			t.Errorf("%d expectations, want that of each control connection", n)
		}
		b.Close()
	})
}

// TestHeldBeyondShare keeps out of the kernel's table what a client announces beyond
// its share, in a packet that is held for another expectation, too.
func TestHeldBeyondShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.cfg.Tracker.KernelShare = 2
		b.Engine = New(b.cfg)
		b.announce("192.0.2.10:40000")
		c := netip.MustParseAddrPort("192.0.2.10:40001")
		b.open(c)
		b.Packet(&packet.Packet{Src: c, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("PASV\r\nPASV\r\n")})
		v := b.Packet(&packet.Packet{
			Src: server, Dst: c, Seq: 1, Ack: 13, Flags: packet.ACK,
			Payload: []byte("227 (198,51,100,20,19,136)\r\n227 (198,51,100,20,23,112)\r\n"),
		})
		if !v.Hold {
			t.Error("not held")
		}
		b.tasks.Wait()
		if diff := cmp.Diff([]string{"expect 198.51.100.20:5000"}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		b.Close()
	})
}

// TestWithdrawnInTheSamePacket lets a packet go that announces what is contested and
// withdraws it: nothing of it is left to wait for.
func TestWithdrawnInTheSamePacket(t *testing.T) {
	const first, second = "227 (198,51,100,20,23,112)\r\n", "227 (198,51,100,20,19,136)\r\n221 bye\r\n"
	for _, tt := range []struct {
		name    string
		waiting bool
	}{{"nothing else waits", false}, {"another one waits", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.kernel.answer = taken
				b.announce("192.0.2.10:40000")
				if tt.waiting {
					b.announce("192.0.2.10:40001")
				}
				c := netip.MustParseAddrPort("192.0.2.10:40002")
				b.open(c)
				b.Packet(&packet.Packet{Src: c, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("PASV\r\nPASV\r\nQUIT\r\n")})
				b.Packet(&packet.Packet{Src: server, Dst: c, Seq: 1, Ack: 19, Flags: packet.ACK, Payload: []byte(first)})
				v := b.Packet(&packet.Packet{Src: server, Dst: c, Seq: 1 + uint32(len(first)), Ack: 19, Flags: packet.ACK, Payload: []byte(second)})
				if want := "delete 198.51.100.20:6000;"; v.Hold || string(v.Before) != want {
					t.Errorf("hold %v, %q, want %q at once", v.Hold, v.Before, want)
				}
				b.Close()
			})
		})
	}
}

// TestWithdrawnWhileHeld has the control connection end while its expectation
// waits for its place.
func TestWithdrawnWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.kernel.answer = taken
		b.announce("192.0.2.10:40000")
		b.announce("192.0.2.10:40001")
		b.Packet(&packet.Packet{Src: server, Dst: netip.MustParseAddrPort("192.0.2.10:40001"), Flags: packet.RST, Seq: 29})
		b.tasks.Wait()
		if diff := cmp.Diff([]string{"expect 198.51.100.20:5000", "delete 198.51.100.20:5000"}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		b.Close()
	})
}

// TestWithdrawnWhileContended has the first control connection end while the
// second waits for its place: what is deleted then must not be the second's.
func TestWithdrawnWhileContended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.kernel.answer = taken
		b.announce("192.0.2.10:40000")
		b.announce("192.0.2.10:40001")
		v := b.Packet(&packet.Packet{Src: server, Dst: netip.MustParseAddrPort("192.0.2.10:40000"), Flags: packet.RST, Seq: 29})
		if len(v.Before) != 0 {
			t.Errorf("%q leaves with the verdict: the second's may stand there by then", v.Before)
		}
		b.tasks.Wait()
		b.Close()
		want := []string{
			"delete 198.51.100.20:5000", // the first's
			"expect 198.51.100.20:5000",
			"delete 198.51.100.20:5000", // at the end
		}
		if diff := cmp.Diff(want, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

func TestRejected(t *testing.T) {
	tests := []struct {
		name    string
		err     error
		retried bool
		log     string
	}{
		{"no helper", unix.EOPNOTSUPP, false, "reason=no-helper"},
		{"master gone", unix.ENOENT, false, "reason=no-master"},
		{"table full", unix.EMFILE, false, "reason=table-full"},
		{"something else", unix.EINVAL, false, "reason=kernel"},
		{"somebody else's", unix.EEXIST, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.announce("192.0.2.10:40000")
				b.Rejected(firstSeq, tt.err)
				b.tasks.Wait()
				if got := b.kernel.tries > 0; got != tt.retried {
					t.Errorf("tried again %v, want %v", got, tt.retried)
				}
				if !strings.Contains(b.log.String(), tt.log) {
					t.Errorf("log lacks %q:\n%s", tt.log, &b.log)
				}
				if got := b.Stats().Outstanding == 1; got != tt.retried {
					t.Errorf("still expected %v, want %v", got, tt.retried)
				}
				b.Close()
			})
		})
	}
	t.Run("the table is gone", func(t *testing.T) {
		b := newBench()
		defer b.Close()
		b.cfg.Entry = admit.NewEntry(&fakeTable{err: &firewall.Error{Op: "add to", Err: unix.ENOENT}}, time.Minute)
		b.cfg.Expect = nil
		b.Engine = New(b.cfg)
		b.announce("192.0.2.10:40000")
		b.Flush()
		if log := b.log.String(); !strings.Contains(log, "reason=kernel") || !strings.Contains(log, "add to table inet ftpctd") {
			t.Errorf("log %s", log)
		}
		if n := b.Stats().Outstanding; n != 0 {
			t.Errorf("%d expectations, want none", n)
		}
	})
	t.Run("a mark", func(t *testing.T) {
		b := newBench()
		b.Rejected(markSeq, unix.ENOENT)
		if !strings.Contains(b.log.String(), "cannot set conntrack mark") {
			t.Errorf("log %s", &b.log)
		}
	})
	t.Run("not ours", func(t *testing.T) {
		b := newBench()
		b.Rejected(77, errors.New("x"))
		if !strings.Contains(b.log.String(), "seq=77") {
			t.Errorf("log %s", &b.log)
		}
	})
}

func TestUnusedExpectationsAreWithdrawn(t *testing.T) {
	for _, tt := range []struct {
		name      string
		clients   int
		datagrams int
	}{
		{"one", 1, 1},
		{"more than a datagram holds", 2000, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.cfg.Tracker.Connections = tt.clients
				b.Engine = New(b.cfg)
				for i := range tt.clients {
					b.announce(fmt.Sprintf("10.0.%d.%d:40000", i>>8, i&255))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 31*time.Second+time.Millisecond)
				defer cancel()
				if err := b.Run(ctx); err != nil {
					t.Error(err)
				}
				if len(b.sends) != tt.datagrams {
					t.Errorf("%d datagrams, want %d", len(b.sends), tt.datagrams)
				}
				const one = "delete 198.51.100.20:5000;"
				if got := strings.Join(b.sends, ""); got != strings.Repeat(one, tt.clients) {
					t.Errorf("sent %d bytes, want %d times %q: %.100s", len(got), tt.clients, one, got)
				}
				if b.kernel.calls != nil {
					t.Errorf("waited for the kernel: %s", b.kernel.calls)
				}
			})
		})
	}
}

// TestExpireWithoutQueue has the queue closed when expectations run out: they are
// withdrawn another way.
func TestExpireWithoutQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.cfg.Send = func([]byte) error { return os.ErrClosed }
		b.Engine = New(b.cfg)
		b.announce("192.0.2.10:40000")
		b.announce("192.0.2.11:40000")
		time.Sleep(31 * time.Second)
		b.Expire()
		const one = "delete 198.51.100.20:5000"
		if diff := cmp.Diff([]string{one, one}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// TestExpireBesidePackets holds that what leaves with a packet is left alone until
// the queue has taken it.
func TestExpireBesidePackets(t *testing.T) {
	b := newBench()
	b.cfg.Tracker.Timeout = time.Millisecond
	b.cfg.Tracker.Connections = 1 << 12
	b.Engine = New(b.cfg)
	done := make(chan struct{})
	var expiring sync.WaitGroup
	expiring.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				b.Expire()
			}
		}
	})
	for i := range 2000 {
		v := b.announce(fmt.Sprintf("10.0.%d.%d:40000", i>>8, i&255))
		if len(v.Before) > 0 && !bytes.HasPrefix(v.Before, []byte("expect#")) {
			t.Errorf("verdict with %.60q", v.Before)
		}
	}
	close(done)
	expiring.Wait()
}

// fakeTable takes everything, unless it has an error, and notes what is added.
type fakeTable struct {
	added []string
	err   error
}

func (f *fakeTable) Apply(changes []firewall.Change) error {
	for _, c := range changes {
		if c.Timeout == 0 {
			continue
		}
		to := c.Dst.String()
		if c.Port != 0 {
			to = netip.AddrPortFrom(c.Dst, c.Port).String()
		}
		f.added = append(f.added, c.Src.String()+" > "+to)
	}
	return f.err
}

// TestTableOnceForABatch collects what several packets announce and withdraw: the last
// change of an element counts, and there is nothing left for the next batch.
func TestTableOnceForABatch(t *testing.T) {
	b := newBench()
	defer b.Close()
	table := &transactions{}
	b.cfg.Entry, b.cfg.Expect = admit.NewEntry(table, time.Minute), nil
	b.Engine = New(b.cfg)
	end := func(client string) {
		b.Packet(&packet.Packet{Src: server, Dst: netip.MustParseAddrPort(client), Flags: packet.RST, Seq: 29})
	}
	b.announce("192.0.2.10:40000")
	b.announce("192.0.2.11:40000")
	end("192.0.2.11:40000")
	b.Flush()
	b.Flush()
	b.announce("192.0.2.11:40001")
	b.Flush()
	want := []string{
		"add 192.0.2.10 > 198.51.100.20:5000, remove 192.0.2.11 > 198.51.100.20:5000",
		"add 192.0.2.11 > 198.51.100.20:5000",
	}
	if diff := cmp.Diff(want, table.seen); diff != "" {
		t.Errorf("transactions (-want +got):\n%s", diff)
	}
}

// transactions notes the changes of each transaction.
type transactions struct{ seen []string }

// Apply implements admit.Table.
func (f *transactions) Apply(changes []firewall.Change) error {
	var words []string
	for _, c := range changes {
		what := "add "
		if c.Timeout == 0 {
			what = "remove "
		}
		words = append(words, what+c.Src.String()+" > "+netip.AddrPortFrom(c.Dst, c.Port).String())
	}
	f.seen = append(f.seen, strings.Join(words, ", "))
	return nil
}

// TestFallback serves through an entry what the kernel has no helper or no room for, and
// a client that has had its share of the kernel's table.
func TestFallback(t *testing.T) {
	const added = "192.0.2.10 > 198.51.100.20:5000"
	for _, tt := range []struct {
		name   string
		err    error // the kernel's answer
		noRule bool  // there are no rules for entries
		added  []string
		log    string
	}{
		{name: "no helper", err: unix.EOPNOTSUPP, added: []string{added}},
		{name: "table full", err: unix.EMFILE, added: []string{added}},
		{name: "master gone", err: unix.ENOENT, log: "reason=no-master"},
		{name: "table full, no rules for entries", err: unix.EMFILE, noRule: true, log: "reason=table-full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			defer b.Close()
			table := &fakeTable{}
			if !tt.noRule {
				b.cfg.Entry = admit.NewEntry(table, time.Minute)
			}
			b.Engine = New(b.cfg)
			b.announce("192.0.2.10:40000")
			b.Rejected(firstSeq, tt.err)
			if diff := cmp.Diff(tt.added, table.added); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if log := b.log.String(); !strings.Contains(log, tt.log) || tt.log == "" && log != "" {
				t.Errorf("log lacks %q:\n%s", tt.log, log)
			}
		})
	}
	t.Run("a client's share is used up, no rules for entries", func(t *testing.T) {
		b := newBench()
		defer b.Close()
		b.cfg.Tracker.KernelShare = 1
		b.Engine = New(b.cfg)
		b.announce("192.0.2.10:40000")
		if v := b.announce("192.0.2.10:40001"); len(v.Before) != 0 || v.Hold {
			t.Errorf("%+v, want nothing for the kernel's table", v)
		}
		b.Flush()
		if !strings.Contains(b.log.String(), "reason=client-limit") || b.Stats().Outstanding != 1 {
			t.Errorf("%d expectations, want the first; log:\n%s", b.Stats().Outstanding, &b.log)
		}
	})
	t.Run("a client's share is used up", func(t *testing.T) {
		b := newBench()
		defer b.Close()
		table := &fakeTable{}
		b.cfg.Entry = admit.NewEntry(table, time.Minute)
		b.cfg.Tracker.KernelShare = 1
		b.Engine = New(b.cfg)
		if v := b.announce("192.0.2.10:40000"); len(v.Before) == 0 {
			t.Error("nothing for the kernel's table")
		}
		if v := b.announce("192.0.2.10:40001"); len(v.Before) != 0 || v.Hold {
			t.Errorf("%+v, want nothing for the kernel's table", v)
		}
		b.Flush()
		if diff := cmp.Diff([]string{added}, table.added); diff != "" {
			t.Errorf("table (-want +got):\n%s", diff)
		}
	})
}

// TestReinstallTLS holds that a table that was made again has the sessions in TLS.
func TestReinstallTLS(t *testing.T) {
	const pair = "192.0.2.10 > 198.51.100.20"
	for _, tt := range []struct {
		name  string
		ports conntrack.PortRange
		want  []string
	}{
		{"tls_ports", conntrack.PortRange{Min: 30000, Max: 30999}, []string{pair}},
		{"no tls_ports", conntrack.PortRange{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			defer b.Close()
			lost, again := &fakeTable{}, &fakeTable{}
			b.tlsPorts, b.entry = tt.ports, admit.NewEntry(lost, time.Minute)
			for i, client := range []string{"192.0.2.10:40000", "192.0.2.10:40001", "192.0.2.11:40000"} {
				c := netip.MustParseAddrPort(client)
				b.open(c)
				b.Packet(&packet.Packet{Src: c, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("AUTH TLS\r\n")})
				if answer := "234 go\r\n"; i < 2 { // the last one has no answer
					b.Packet(&packet.Packet{Src: server, Dst: c, Seq: 1, Ack: 11, Flags: packet.ACK, Payload: []byte(answer)})
				}
				b.Flush()
			}
			// Each of the two sessions begins the time anew.
			if diff := cmp.Diff(append(tt.want, tt.want...), lost.added); diff != "" {
				t.Fatalf("the first table (-want +got):\n%s", diff)
			}
			b.entry = admit.NewEntry(again, time.Minute)
			b.ReinstallTLS()
			if diff := cmp.Diff(tt.want, again.added); diff != "" {
				t.Errorf("the table made again (-want +got):\n%s", diff)
			}
		})
	}
}

// timedTable notes until when the pair of hosts stands in it.
type timedTable struct{ until time.Time }

func (f *timedTable) Apply(changes []firewall.Change) error {
	for _, c := range changes {
		f.until = time.Time{}
		if c.Timeout != 0 {
			f.until = time.Now().Add(c.Timeout)
		}
	}
	return nil
}

// TestOpaqueStands has a session in TLS stay in the table for as long as it lasts,
// and no longer, however its client ended.
func TestOpaqueStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		table := &timedTable{}
		b.entry, b.tlsPorts = admit.NewEntry(table, time.Minute), conntrack.PortRange{Min: 30000, Max: 30999}
		client := netip.MustParseAddrPort("192.0.2.10:40000")
		b.open(client)
		b.Packet(&packet.Packet{Src: client, Dst: server, Seq: 1, Flags: packet.ACK, Payload: []byte("AUTH TLS\r\n")})
		b.Packet(&packet.Packet{Src: server, Dst: client, Seq: 1, Ack: 11, Flags: packet.ACK, Payload: []byte("234 go\r\n")})
		b.Flush()
		ctx, cancel := context.WithTimeout(t.Context(), 3*tlsTimeout)
		defer cancel()
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
		if left := time.Until(table.until); left < tlsTimeout/2 {
			t.Errorf("%v left after %v, want most of %v", left, 3*tlsTimeout, tlsTimeout)
		}
		time.Sleep(7 * 24 * time.Hour) // which is longer than conntrack remembers
		b.Expire()
		if !table.until.IsZero() {
			t.Errorf("stands until %v after the session was forgotten", table.until)
		}
		b.Close()
	})
}
