package nfqtest

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"ftpctd/nfq"
	"ftpctd/nfq/nfnetlink"
	"ftpctd/nfq/packet"
)

// recorder is a handler that keeps what it is called with.
type recorder struct {
	ports    []uint16
	rejected []uint32
	flushes  int
	before   []byte
}

func (r *recorder) Packet(p *packet.Packet) nfq.Verdict {
	r.ports = append(r.ports, p.Dst.Port())
	return nfq.Verdict{Before: r.before}
}

func (r *recorder) Flush() { r.flushes++ }

func (r *recorder) Rejected(seq uint32, _ error) { r.rejected = append(r.rejected, seq) }

// appendPacket appends an NFQNL_MSG_PACKET message with a SYN to port 21.
func appendPacket(b []byte) []byte {
	syn := []byte{
		0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2, // IPv4
		0x9c, 0x41, 0, 21, 0, 0, 3, 232, 0, 0, 0, 0, 5 << 4, 0b10, 0xff, 0xff, 0, 0, 0, 0, // TCP
	}
	start := len(b)
	b = nfnetlink.AppendHeader(b, nfnetlink.Header{Type: unix.NFNL_SUBSYS_QUEUE << 8, ResID: 7})
	b = nfnetlink.AppendBytes(b, 1, []byte{0, 0, 0, 1, 8, 0, 1}) // NFQA_PACKET_HDR
	b = nfnetlink.AppendBytes(b, 10, syn)                        // NFQA_PAYLOAD
	return nfnetlink.EndMessage(b, start)
}

// TestReceive holds that a datagram passes through the handler and is answered by
// its messages and verdicts, and that nothing is left for the next one.
func TestReceive(t *testing.T) {
	h := &recorder{before: nfnetlink.EndMessage(nfnetlink.AppendHeader(nil, nfnetlink.Header{Type: 99, Seq: 5}), 0)}
	q := New(7, h)
	for range 2 {
		var types []uint16
		for sent := q.Receive(appendPacket(appendPacket(nil))); len(sent) > 0; {
			m, rest, ok := nfnetlink.NextMessage(sent)
			if !ok {
				t.Fatalf("no message: %x", sent)
			}
			types, sent = append(types, m.Type), rest
		}
		const verdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
		if len(types) != 4 || types[0] != 99 || types[1] != verdict || types[2] != 99 || types[3] != verdict {
			t.Errorf("sent messages of types %#x, want twice 99 and %#x", types, verdict)
		}
	}
	rejection := nfnetlink.AppendHeader(nil, nfnetlink.Header{Type: unix.NLMSG_ERROR, Seq: 5})[:unix.NLMSG_HDRLEN]
	rejection = nfnetlink.EndMessage(binary.NativeEndian.AppendUint32(rejection, 1<<32-2), 0) // -ENOENT
	if sent := q.Receive(rejection); len(sent) > 0 {
		t.Errorf("sent %x for a rejected message", sent)
	}
	if len(h.ports) != 4 || h.ports[0] != 21 || h.flushes != 3 || len(h.rejected) != 1 || h.rejected[0] != 5 {
		t.Errorf("handler called with %+v", h)
	}
}
