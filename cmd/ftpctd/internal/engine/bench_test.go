package engine

import (
	"encoding/binary"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/dialogue"
	"ftpctd/bench/lab/labtest"
	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/nfq/nfqtest"
	"ftpctd/nfq/packet"
)

// The attributes ahead of the payload in an NFQNL_MSG_PACKET that Debian's Linux 6.12 gave
// for a forwarded packet of a control connection, with what conntrack knows of it
// (CONFIG_NETFILTER_NETLINK_GLUE_CT); the ends of the connection are those of the
// dialogues. NFQA_MARK, NFQA_TIMESTAMP, NFQA_CAP_LEN and NFQA_SKB_INFO come only with a
// mark, a time stamp, a packet that is cut, and a checksum that was not looked at
// (nfqnl_build_packet_message of net/netfilter/nfnetlink_queue.c).
const (
	packetAttributes = `
	0b00 0100  00000003 0800 02 00         # NFQA_PACKET_HDR: ID 3, IPv4, NF_INET_FORWARD
	0800 0500  00000003                    # NFQA_IFINDEX_INDEV
	0800 0600  00000002                    # NFQA_IFINDEX_OUTDEV
	1000 0900  0006 0000 5eb0d57b7a56 0000 # NFQA_HWADDR`
	conntrackAttributes = `
	cc00 0b80                              # NFQA_CT
	  3400 0180                            #   CTA_TUPLE_ORIG
	    1400 0180  0800 0100 0a000001  0800 0200 c0a800c9
	    1c00 0280  0500 0100 06 000000  0600 0200 c350 0000  0600 0300 0015 0000
	  3400 0280                            #   CTA_TUPLE_REPLY
	    1400 0180  0800 0100 c0a800c9  0800 0200 0a000001
	    1c00 0280  0500 0100 06 000000  0600 0200 0015 0000  0600 0300 c350 0000
	  0800 0c00  03dc4d3e                  #   CTA_ID
	  0800 0300  0000200e                  #   CTA_STATUS
	  0800 0700  0000012c                  #   CTA_TIMEOUT
	  3000 0480  2c00 0180                 #   CTA_PROTOINFO, CTA_PROTOINFO_TCP
	    0500 0100 03 000000  0500 0200 07 000000  0500 0300 07 000000
	    0600 0400 2300 0000  0600 0500 3300 0000
	  1000 0580  0900 0100 73616e6500 000000 # CTA_HELP: "sane"
	  0800 0800  00000000                  #   CTA_MARK
	0800 0c00  00000003                    # NFQA_CT_INFO: IP_CT_ESTABLISHED_REPLY`
)

// handshakeAttributes are conntrackAttributes of the server's SYN/ACK: the connection is not
// ASSURED, and in the state SYN_RECV.
var handshakeAttributes = strings.NewReplacer(
	"0000200e ", "0000200a ", "0500 0100 03 000000", "0500 0100 02 000000",
).Replace(conntrackAttributes)

// message is an NFQNL_MSG_PACKET as the kernel gives it for a forwarded packet.
type message struct {
	bytes    []byte
	sequence []byte // the TCP sequence number in bytes, and the acknowledgment number
	server   bool
	length   uint32 // of the payload
}

// newMessage makes the message of p.
func newMessage(tb testing.TB, p packet.Packet, attributes string) message {
	tb.Helper()
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		tb.Skip("the attributes are of a little-endian host")
	}
	raw := dialogue.IP(p)
	b := make([]byte, 16, 512)
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_QUEUE<<8) // NFQNL_MSG_PACKET
	b = append(b, unix.AF_INET, 0, 0, 21)
	b = append(b, labtest.ParseHex(tb, attributes)...)
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(raw)))
	b = binary.NativeEndian.AppendUint16(b, 10) // NFQA_PAYLOAD, the last, which is not padded
	tcp := len(b) + 20
	b = append(b, raw...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return message{bytes: b, sequence: b[tcp+4 : tcp+12], server: p.Src == dialogue.Server, length: uint32(len(p.Payload))}
}

// countingTable counts the elements that are added.
type countingTable struct{ added int }

// Apply implements admit.Table.
func (c *countingTable) Apply(changes []firewall.Change) error {
	for i := range changes {
		if changes[i].Timeout > 0 {
			c.added++
		}
	}
	return nil
}

// path is a queue without a kernel, with the engine behind it and a session that has logged
// in.
type path struct {
	queue *nfqtest.Queue
	table *countingTable // nil in the mode "expect"
	who   dialogue.Speaker
}

func newPath(tb testing.TB, mode string) *path {
	tb.Helper()
	all := conntrack.PortRange{Min: 1024, Max: 65535}
	cfg := Config{
		Tracker: conntrack.Config{
			Ports:       []uint16{21},
			Policy:      conntrack.Policy{MinPort: 1024, RequireLogin: true, Active: true, ActivePorts: all, PassivePorts: all},
			Connections: 1, MaxExpected: 8, Timeout: 30 * time.Second,
		},
		Now: time.Now, Accept: func(uint32) error { return nil }, Send: func([]byte) error { return nil },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	w := &path{who: dialogue.Speaker{Client: dialogue.Client, Server: dialogue.Server}}
	if mode == "entry" {
		w.table = &countingTable{}
		cfg.Entry = admit.NewEntry(w.table, time.Minute)
	} else {
		cfg.Expect = admit.NewExpect(nil) // nothing here waits for the kernel
	}
	w.queue = nfqtest.New(21, New(cfg))
	w.queue.Receive(newMessage(tb, w.who.SYNACK(), packetAttributes+handshakeAttributes).bytes)
	for _, st := range dialogue.Login {
		w.queue.Receive(newMessage(tb, w.who.Packet(st), packetAttributes+conntrackAttributes).bytes)
	}
	return w
}

// player prepares the messages of a dialogue and, in the mode "entry", of the first packet
// of its data connection. play may be called any number of times.
func (w *path) player(tb testing.TB, d dialogue.Dialogue) (play func(answered func([]byte)), packets int, size int64) {
	tb.Helper()
	var messages, all []message
	who := w.who
	for _, st := range d.Steps {
		messages = append(messages, newMessage(tb, who.Packet(st), packetAttributes+conntrackAttributes))
	}
	all = messages
	if w.table != nil && d.Dst.IsValid() {
		all = append(all, newMessage(tb, packet.Packet{Src: d.Src, Dst: d.Dst, Flags: packet.SYN}, packetAttributes))
	}
	for i := range all {
		size += int64(len(all[i].bytes))
	}
	return func(answered func([]byte)) {
		for i := range all {
			m := &all[i]
			if i < len(messages) {
				from, to := &w.who.Seq[0], &w.who.Seq[1]
				if m.server {
					from, to = to, from
				}
				binary.BigEndian.PutUint32(m.sequence, *from)
				binary.BigEndian.PutUint32(m.sequence[4:], *to)
				*from += m.length
			}
			answered(w.queue.Receive(m.bytes))
		}
	}, len(all), size
}

// modes are those whose paths differ: in the mode "helper" it is that of "expect".
var modes = []string{"expect", "entry"}

// BenchmarkPath is all that the daemon does in user space with a packet that is alone in its
// batch: from the kernel's message to the answer.
func BenchmarkPath(b *testing.B) {
	for _, mode := range modes {
		for _, d := range dialogue.Repeatable {
			b.Run(mode+"/"+d.Kind, func(b *testing.B) {
				play, packets, size := newPath(b, mode).player(b, d)
				answered := func([]byte) {}
				b.ReportAllocs()
				b.SetBytes(size)
				for b.Loop() {
					play(answered)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*packets), "ns/packet")
			})
		}
	}
}

// TestPath makes sure that the path that is measured does its work, and allocates nothing.
func TestPath(t *testing.T) {
	expectations := map[string]int{"boring": 0, "announcing-227": 1, "announcing-PORT": 1, "split": 1}
	for _, mode := range modes {
		for _, d := range dialogue.Repeatable {
			t.Run(mode+"/"+d.Kind, func(t *testing.T) {
				w := newPath(t, mode)
				play, packets, _ := w.player(t, d)
				sent := make(map[uint16]int)
				play(func(b []byte) {
					for len(b) > 0 {
						sent[binary.NativeEndian.Uint16(b[4:])]++
						b = b[binary.NativeEndian.Uint32(b):]
					}
				})
				const (
					verdict     = unix.NFNL_SUBSYS_QUEUE<<8 | 1 // NFQNL_MSG_VERDICT
					expectation = unix.NFNL_SUBSYS_CTNETLINK_EXP << 8
					entry       = unix.NFNL_SUBSYS_CTNETLINK << 8
				)
				if n := sent[verdict]; n != packets {
					t.Errorf("%d verdicts for %d packets", n, packets)
				}
				want, expected := expectations[d.Kind], sent[expectation]
				if w.table != nil {
					if expected != 0 || w.table.added != want {
						t.Errorf("%d expectations for the kernel's table and %d for the daemon's, want 0 and %d", expected, w.table.added, want)
					}
					expected = sent[entry]
				}
				if expected != want {
					t.Errorf("%d data connections are admitted, want %d", expected, want)
				}
				if n := testing.AllocsPerRun(100, func() { play(func([]byte) {}) }); n != 0 {
					t.Errorf("%v allocations a dialogue, want 0", n)
				}
			})
		}
	}
}
