package bench

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// path is what the daemon does with a packet, without what it does when
// something goes wrong.
type path struct {
	tracker *conntrack.Tracker
	buf     []byte
	packet  conntrack.Packet
	seq     uint32
}

func (h *path) Packet(p *nfq.Packet) nfq.Verdict {
	h.packet = conntrack.Packet{
		Src: p.Src, Dst: p.Dst, Seq: p.Seq, Ack: p.Ack,
		Flags: conntrack.Flags(p.Flags), Payload: p.Payload,
	}
	d := h.tracker.Packet(time.Now(), &h.packet)
	b := h.buf[:0]
	for i := range d.Withdraw {
		b = ctnetlink.AppendDelete(b, nfq.SeqSilent, &d.Withdraw[i])
	}
	for i := range d.Expect {
		h.seq++
		b = ctnetlink.AppendExpect(b, h.seq, &d.Expect[i])
	}
	h.buf = b
	return nfq.Verdict{Before: b}
}

func (h *path) Refused(uint32, error) {}

// message is an NFQNL_MSG_PACKET with the attributes that the kernel gives for a
// forwarded packet.
type message struct {
	bytes    []byte
	sequence []byte // the TCP sequence number in bytes, and the acknowledgment number
	server   bool
	length   uint32 // of the payload
}

func newMessage(p conntrack.Packet, server bool) message {
	attr := func(b []byte, typ uint16, value []byte) []byte {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = append(b, value...)
		return append(b, make([]byte, -len(value)&3)...)
	}
	raw := rawPacket(p)
	b := make([]byte, 16, 256)
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_QUEUE<<8) // NFQNL_MSG_PACKET
	b = append(b, unix.AF_INET, 0, 0, 21)
	b = attr(b, 1, []byte{0, 0, 0, 7, 8, 0, 2})      // NFQA_PACKET_HDR
	b = attr(b, 5, []byte{0, 0, 0, 2})               // NFQA_IFINDEX_INDEV
	b = attr(b, 6, []byte{0, 0, 0, 3})               // NFQA_IFINDEX_OUTDEV
	b = attr(b, 15, []byte{8, 0})                    // NFQA_L2HDR and the like
	b = attr(b, 9, make([]byte, 12))                 // NFQA_HWADDR
	b = attr(b, 4, make([]byte, 16))                 // NFQA_TIMESTAMP
	b = attr(b, 13, []byte{0, 0, 0, byte(len(raw))}) // NFQA_CAP_LEN
	b = attr(b, 10, raw)                             // NFQA_PAYLOAD
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	tcp := len(b) - (len(raw)+3)&^3 + 20
	return message{bytes: b, sequence: b[tcp+4 : tcp+12], server: server, length: uint32(len(p.Payload))}
}

// pathOf is a session that has logged in, and the messages of a dialogue on it.
func pathOf(kind string) (play func(func(answer []byte)), packets int, size int64) {
	tracker, who := loggedIn(1)
	queue := nfq.NewOffline(21, &path{tracker: tracker, seq: nfq.SeqSilent})
	var messages []message
	for _, d := range dialogues {
		if d.kind != kind {
			continue
		}
		for _, st := range steps(d.steps) {
			speaker := who[0]
			m := newMessage(speaker.packet(st), st.server)
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
			play, packets, size := pathOf(d.kind)
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
			play, packets, _ := pathOf(d.kind)
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
