package bench

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

// path does with a packet what the daemon's engine does, which cannot be imported
// here, in the admission mode "expect". It leaves out what no dialogue here comes to:
// data connections, marks, sessions in TLS, and packets that are held because two
// control connections announce the same endpoint.
type path struct {
	mu      sync.Mutex // guards tracker, which others read
	tracker *conntrack.Tracker
	ports   []uint16
	buf     []byte
	seq     uint32
	sent    [256]sent // the last expectations that left with a verdict
	log     *slog.Logger
}

// sent is what the engine remembers of a message: to which expectation, or to which
// data connection and its master, the kernel's refusal would belong.
type sent struct {
	seq          uint32
	x            conntrack.Expectation
	data, master conntrack.Tuple
	expected     bool
}

// Packet implements nfq.Handler.
func (h *path) Packet(p *packet.Packet) nfq.Verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.ports, p.Dst.Port()) && !slices.Contains(h.ports, p.Src.Port()) {
		return nfq.Verdict{}
	}
	p.Zone = ctnetlink.Zone(p.Conntrack)
	d := h.tracker.Packet(time.Now(), p)
	if d.Idle() {
		return nfq.Verdict{}
	}
	b := h.buf[:0]
	for i := range d.Withdraw {
		if x := &d.Withdraw[i]; !h.tracker.Contended(x) {
			b = ctnetlink.AppendDelete(b, nfq.SeqSilent, x)
		}
	}
	for i := range d.Expect {
		x := &d.Expect[i]
		b = ctnetlink.AppendExpect(b, h.seq, x)
		h.sent[h.seq%uint32(len(h.sent))] = sent{seq: h.seq, x: *x}
		h.seq++
	}
	h.buf = b
	return nfq.Verdict{Before: b}
}

// observe is conntrack.Config's. The log takes no event of a transfer unless it is
// to take everything.
func (h *path) observe(conntrack.Event) { h.log.Enabled(context.Background(), slog.LevelDebug) }

// Flush implements nfq.Handler.
func (*path) Flush() {}

// Refused implements nfq.Handler.
func (h *path) Refused(uint32, error) {}

// attributes are those ahead of the payload in an NFQNL_MSG_PACKET that Debian's
// Linux 6.12 gave for a forwarded packet of a control connection, with what conntrack
// knows of it (CONFIG_NETFILTER_NETLINK_GLUE_CT); the ends of the connection are those
// of the dialogues. NFQA_MARK, NFQA_TIMESTAMP, NFQA_CAP_LEN and NFQA_SKB_INFO come
// only with a mark, a time stamp, a packet that is cut, and a checksum that was not
// looked at (nfqnl_build_packet_message of net/netfilter/nfnetlink_queue.c).
const attributes = `
	0b00 0100  00000003 0800 02 00         # NFQA_PACKET_HDR: ID 3, IPv4, NF_INET_FORWARD
	0800 0500  00000003                    # NFQA_IFINDEX_INDEV
	0800 0600  00000002                    # NFQA_IFINDEX_OUTDEV
	1000 0900  0006 0000 5eb0d57b7a56 0000 # NFQA_HWADDR
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

// message is an NFQNL_MSG_PACKET as the kernel gives it for a forwarded packet.
type message struct {
	bytes    []byte
	sequence []byte // the TCP sequence number in bytes, and the acknowledgment number
	server   bool
	length   uint32 // of the payload
}

// newMessage makes the message of a packet between client and server.
func newMessage(tb testing.TB, p packet.Packet, server bool) message {
	tb.Helper()
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		tb.Skip("the attributes are of a little-endian host")
	}
	raw := rawPacket(p)
	b := make([]byte, 16, 512)
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_QUEUE<<8) // NFQNL_MSG_PACKET
	b = append(b, unix.AF_INET, 0, 0, 21)
	b = append(b, labtest.ParseHex(tb, attributes)...)
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(raw)))
	b = binary.NativeEndian.AppendUint16(b, 10) // NFQA_PAYLOAD, the last, which is not padded
	tcp := len(b) + 20
	b = append(b, raw...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return message{bytes: b, sequence: b[tcp+4 : tcp+12], server: server, length: uint32(len(p.Payload))}
}

// pathOf is a session that has logged in, and the messages of a dialogue on it.
func pathOf(tb testing.TB, kind string) (play func(func(answer []byte)), packets int, size int64) {
	tb.Helper()
	h := &path{ports: []uint16{21}, seq: nfq.SeqSilent + 1, log: slog.New(slog.NewTextHandler(tb.Output(), nil))}
	cfg := trackerConfig(1)
	cfg.Observe = h.observe
	// Conntrack is asked at the handshake, and no more: that is in none of the dialogues.
	cfg.Lookup = func(_ *packet.Packet, ends conntrack.Tuple) (conntrack.Connection, bool) {
		reply := conntrack.Tuple{Src: ends.Dst, Dst: ends.Src}
		return conntrack.Connection{Original: ends, Reply: reply, State: conntrack.StateSynRecv}, true
	}
	tracker, who := loggedIn(cfg)
	h.tracker = tracker
	queue := nfq.NewOffline(21, h)
	var messages []message
	for _, d := range dialogues {
		if d.kind != kind {
			continue
		}
		for _, st := range steps(d.steps) {
			speaker := who[0]
			m := newMessage(tb, speaker.packet(st), st.server)
			messages = append(messages, m)
			size += int64(len(m.bytes))
		}
	}
	seq := who[0].seq
	return func(answered func([]byte)) {
		for i := range messages {
			m := &messages[i]
			from, to := &seq[0], &seq[1]
			if m.server {
				from, to = to, from
			}
			binary.BigEndian.PutUint32(m.sequence, *from)
			binary.BigEndian.PutUint32(m.sequence[4:], *to)
			*from += m.length
			answered(queue.Receive(m.bytes))
		}
	}, len(messages), size
}

// BenchmarkPath is all that the daemon does in user space with a packet that is
// alone in its batch: from the message of the kernel's to the answer.
func BenchmarkPath(b *testing.B) {
	for _, d := range dialogues {
		b.Run(d.kind, func(b *testing.B) {
			play, packets, size := pathOf(b, d.kind)
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

// TestPath holds that the path that is measured does its work, and allocates
// nothing.
func TestPath(t *testing.T) {
	expectations := map[string]int{"boring": 0, "announcing-227": 1, "announcing-PORT": 1, "split": 1}
	for _, d := range dialogues {
		t.Run(d.kind, func(t *testing.T) {
			play, packets, _ := pathOf(t, d.kind)
			verdicts, expected := 0, 0
			count := func(b []byte) {
				for len(b) > 0 {
					switch binary.NativeEndian.Uint16(b[4:]) {
					case unix.NFNL_SUBSYS_QUEUE<<8 | 1: // NFQNL_MSG_VERDICT
						verdicts++
					case unix.NFNL_SUBSYS_CTNETLINK_EXP << 8: // IPCTNL_MSG_EXP_NEW
						expected++
					}
					b = b[binary.NativeEndian.Uint32(b):]
				}
			}
			play(count)
			if want := expectations[d.kind]; verdicts != packets || expected != want {
				t.Errorf("%d verdicts and %d expectations for %d packets, want %d", verdicts, expected, packets, want)
			}
			if n := testing.AllocsPerRun(100, func() { play(func([]byte) {}) }); n != 0 {
				t.Errorf("%v allocations a dialogue, want 0", n)
			}
		})
	}
}
