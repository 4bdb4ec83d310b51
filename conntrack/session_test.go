package conntrack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/corpora"
	"ftpctd/nfq/packet"
)

var (
	testClient = netip.MustParseAddrPort("192.0.2.10:40000")
	testServer = netip.MustParseAddrPort("198.51.100.20:21")
)

// testConfig is the default of the daemon.
func testConfig() Config {
	return Config{
		Ports: []uint16{21},
		Policy: Policy{
			MinPort: 1024, RequireLogin: true, Active: true,
			ActivePorts: PortRange{1024, 65535}, PassivePorts: PortRange{1024, 65535},
		},
		Connections: 64, MaxExpected: 8, Timeout: 30 * time.Second,
	}
}

// wire plays a control connection to a Tracker, with sequence numbers close to
// their wrap.
type wire struct {
	t              *Tracker
	client, server netip.AddrPort
	zone           uint16
	cseq, sseq     uint32
	now            time.Time
	state          TCPState // in conntrack
}

func newWire(t *Tracker) *wire {
	return &wire{t: t, client: testClient, server: testServer, cseq: 0xffffffe0, sseq: 0xfffffff0, now: time.Unix(1000, 0)}
}

func (w *wire) handshake() {
	w.send(w.client, w.server, w.cseq, 0, packet.SYN, "")
	w.cseq++
	w.send(w.server, w.client, w.sseq, w.cseq, packet.SYN|packet.ACK, "")
	w.sseq++
}

func (w *wire) send(src, dst netip.AddrPort, seq, ack uint32, flags packet.Flags, data string) Decision {
	w.now = w.now.Add(time.Millisecond)
	w.track(src, flags)
	return *w.t.Packet(w.now, &packet.Packet{Src: src, Dst: dst, Zone: w.zone, Seq: seq, Ack: ack, Flags: flags, Payload: []byte(data)})
}

func (w *wire) c(data string) Decision {
	d := w.send(w.client, w.server, w.cseq, w.sseq, packet.ACK, data)
	w.cseq += uint32(len(data))
	return d
}

func (w *wire) s(data string) Decision {
	d := w.send(w.server, w.client, w.sseq, w.cseq, packet.ACK, data)
	w.sseq += uint32(len(data))
	return d
}

func (w *wire) login() {
	w.handshake()
	w.s("220 ready\r\n")
	w.c("USER a\r\n")
	w.s("331 p\r\n")
	w.c("PASS b\r\n")
	w.s("230 ok\r\n")
}

// standing lists the current expectations, the oldest first.
func standing(t *Tracker) []string {
	var out []string
	for x := t.expected.ring.next; x != &t.expected.ring; x = x.next {
		side := "C->"
		if x.Via.Active() {
			side = "S->"
		}
		out = append(out, side+x.Tuple.Dst.String())
	}
	return out
}

type attackVector struct {
	ID, Cls, Expect, Note string
	Segments              []struct{ Dir, Data string }
}

// TestAttackVectors runs whole sessions whose outcome was defined independently of this
// program.
func TestAttackVectors(t *testing.T) {
	f, err := os.Open(corpora.Path(t, "vectors", "attack_vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The outcomes that the file leaves to the policy, with the default one.
	decided := map[string]string{
		"B07": "C->198.51.100.20:5000", // 229 answers PASV, as real servers do
		"F03": "S->192.0.2.10:5000",    // a bare LF ends a line
		"F07": "none",                  // blanks before the verb are not FTP
		"F16": "C->198.51.100.20:5000", // address = "peer"
		"G01": "C->198.51.100.20:5000", // address = "peer"
		"G03": "C->198.51.100.20:5000", // address = "peer"
		"I05": "C->198.51.100.20:5000", // RFC 1639
	}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var v attackVector
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		t.Run(v.ID+"-"+v.Cls, func(t *testing.T) {
			tr := New(testConfig())
			w := newWire(tr)
			if v.ID == "F12" {
				w.client = netip.MustParseAddrPort("[2001:db8::10]:40000")
				w.server = netip.MustParseAddrPort("[2001:db8::20]:21")
			}
			w.handshake()
			if !playByHand(w, v.ID) {
				for _, seg := range v.Segments {
					if seg.Dir == "c" {
						w.c(latin1(seg.Data))
					} else {
						w.s(latin1(seg.Data))
					}
				}
			}
			want := v.Expect
			if d, ok := decided[v.ID]; ok {
				want = d
			}
			got := strings.Join(standing(tr), " ")
			switch {
			case v.ID == "E03":
				if n := len(standing(tr)); n > 8 {
					t.Errorf("%d expectations stand, want at most 8", n)
				}
			case want == "none":
				if got != "" {
					t.Errorf("%s: got %s, want none", v.Note, got)
				}
			case got != want:
				t.Errorf("%s: got %q, want %q", v.Note, got, want)
			}
		})
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}

type honestSession struct {
	attackVector
	Wish bool
}

// TestHonestSessions plays honest sessions of real clients and servers. Each must have
// exactly the expectations that it lists, and still have them when its data connections
// open.
func TestHonestSessions(t *testing.T) {
	f, err := os.Open(corpora.Path(t, "attacks", "honest.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var v honestSession
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		t.Run(v.ID+"-"+v.Cls, func(t *testing.T) {
			if v.Wish {
				t.Skip("a wish: served only if no rule gets weaker")
			}
			cfg := testConfig()
			cfg.Timeout = 5 * time.Minute
			p := honestPlayer{t: t, wire: newWire(New(cfg)), want: strings.Fields(v.Expect)}
			p.handshake()
			for _, seg := range v.Segments {
				p.step(seg.Dir == "c", seg.Data)
			}
			if !p.data {
				for _, want := range p.want {
					p.begins(want)
				}
			}
			slices.Sort(p.want)
			slices.Sort(p.got)
			if diff := cmp.Diff(p.want, p.got); diff != "" {
				t.Errorf("%s: expectations (-want +got):\n%s", v.Note, diff)
			}
		})
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}

// honestPlayer plays the segments of an honest session, stage directions included.
type honestPlayer struct {
	*wire
	t    *testing.T
	want []string
	got  []string // the expectations, in the words of the vectors
	data bool     // a data connection was opened
}

func (p *honestPlayer) step(client bool, data string) {
	src, dst, seq, ack := p.server, p.client, &p.sseq, p.cseq
	if client {
		src, dst, seq, ack = p.client, p.server, &p.cseq, p.sseq
	}
	verb, argument, _ := strings.Cut(data, " ")
	n, _ := strconv.Atoi(argument)
	switch verb {
	case "@open":
		p.cseq, p.sseq = p.cseq+700000, p.sseq+800000
		p.handshake()
	case "@fin":
		p.send(src, dst, *seq, ack, packet.FIN|packet.ACK, "")
		*seq++
	case "@fin-ahead":
		p.send(src, dst, *seq+uint32(n), ack, packet.FIN|packet.ACK, "")
	case "@wait":
		p.now = p.now.Add(time.Duration(n) * time.Second)
		p.wire.t.Expire(p.now)
	case "@data":
		p.data = true
		side := "C->"
		if !client {
			side = "S->"
		}
		p.begins(side + netip.AddrPortFrom(dst.Addr(), uint16(n)).String())
	default:
		d := p.send(src, dst, *seq, ack, packet.ACK, latin1(data))
		*seq += uint32(len(latin1(data)))
		for _, x := range d.Expect {
			side := "C->"
			if x.Via.Active() {
				side = "S->"
			}
			p.got = append(p.got, side+x.Tuple.Dst.String())
		}
	}
}

// begins checks that a data connection that opens now is expected.
func (p *honestPlayer) begins(endpoint string) {
	if s := standing(p.wire.t); !slices.Contains(s, endpoint) {
		p.t.Errorf("%s begins, and what stands is %q", endpoint, s)
	}
}

// latin1 converts the code points of the vectors into bytes: \u00ff is IAC.
func latin1(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// playByHand plays the vectors that have stage directions in their segments.
func playByHand(w *wire, id string) bool {
	login := func() {
		w.s("220 ready\r\n")
		w.c("USER a\r\n")
		w.s("331 p\r\n")
		w.c("PASS b\r\n")
		w.s("230 ok\r\n")
	}
	record := func(typ byte, n int) string {
		return string([]byte{typ, 3, 3, byte(n >> 8), byte(n)}) + strings.Repeat("\n", n)
	}
	switch id {
	case "D07": // 30 bytes lost
		login()
		w.c("PASV\r\n")
		w.sseq += 30
		w.s("227 ok (198,51,100,20,19,136)\r\n")
		w.c("NOOP\r\n") // acknowledges the bytes that were never seen
	case "D08": // conntrack calls it INVALID and the rules do not queue it
		login()
	case "E01":
		login()
		w.c("RETR " + strings.Repeat("A", 5000))
		w.c("\r\nPORT 192,0,2,10,19,136\r\n")
		w.s("550 x\r\n200 ok\r\n")
	case "E03":
		login()
		var b strings.Builder
		for i := range 500 {
			fmt.Fprintf(&b, "PORT 192,0,2,10,%d,%d\r\n", 4+i/256, i%256)
		}
		w.c(b.String())
	case "E04":
		login()
		w.c("PORT 192,0,2,10,19,136")
	case "E05":
		login()
		for range 1000 {
			w.c(strings.Repeat("NOOP\r\n", 100))
		}
	case "H04":
		w.s("220 r\r\n")
		w.c("AUTH TLS\r\n")
		w.s("234 go\r\n")
		w.c(record(22, 200))
		w.s(record(22, 90) + record(20, 1))
		w.c(record(20, 1) + record(23, 32))
		w.s(record(23, 32))
		w.c(record(21, 24))
		w.s(record(21, 24))
		w.c("PASV\r\n")
		w.s("227 Entering Passive Mode (198,51,100,20,19,136).\r\n")
	default:
		return false
	}
	return true
}

// find returns the connection between client and server, nil if there is none.
func (t *Tracker) find(client, server netip.AddrPort) *conn {
	key := keyOf(client, server)
	return t.conns.find(&key)
}
