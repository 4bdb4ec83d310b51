package ftpparse

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The slow and obvious reading of the grammar, for FuzzLine.
var (
	oracleCommand = regexp.MustCompile(`(?is)^(PORT|EPRT|LPRT) (.*)$`)
	oracleList    = regexp.MustCompile(`^[0-9]{1,3}( *, *[0-9]{1,3})*$`)
	oraclePort    = regexp.MustCompile(`^[0-9]{1,5}$`)
	oracleReply   = regexp.MustCompile(`(?s)^(227|228|229)(?: (.*))?$`)
	oracleRun     = regexp.MustCompile(`[0-9]+( *, *[0-9]+)*`)
	oracleBefore  = regexp.MustCompile(`[A-Za-z+\-._,]$`)
	oracleBehind  = regexp.MustCompile(`^([A-Za-z+\-_,]|\.[0-9])`)
	oracle229     = regexp.MustCompile(`(?s)^(?:[^(]|\([A-Za-z])*\(([^)A-Za-z][^)]*|)\)`)
)

func oracleNumbers(s string) []int {
	if !oracleList.MatchString(s) {
		return nil
	}
	var out []int
	for f := range strings.SplitSeq(s, ",") {
		n, _ := strconv.Atoi(strings.Trim(f, " "))
		if n > 255 {
			return nil
		}
		out = append(out, n)
	}
	return out
}

func oracleAddrPort(addr string, port int) netip.AddrPort {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" || port < 1 || port > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}

func oracleHostPort(s string) netip.AddrPort {
	n := oracleNumbers(s)
	if len(n) != 6 {
		return netip.AddrPort{}
	}
	return oracleAddrPort(fmt.Sprintf("%d.%d.%d.%d", n[0], n[1], n[2], n[3]), n[4]*256+n[5])
}

func oracleLong(s string) netip.AddrPort {
	n := oracleNumbers(s)
	if len(n) < 3 {
		return netip.AddrPort{}
	}
	hal := n[1]
	known := n[0] == 4 && hal == 4 || n[0] == 6 && hal == 16
	if !known || len(n) != 2+hal+3 || n[2+hal] != 2 {
		return netip.AddrPort{}
	}
	raw := make([]byte, hal)
	for i := range raw {
		raw[i] = byte(n[2+i])
	}
	a, _ := netip.AddrFromSlice(raw)
	return oracleAddrPort(a.String(), n[3+hal]*256+n[4+hal])
}

// oracleNetAddr reads the address of EPRT: IPv4 octets may have leading zeros.
func oracleNetAddr(family, addr string) (netip.Addr, bool) {
	if family == "1" {
		var four [4]byte
		parts := strings.Split(addr, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		for i, p := range parts {
			n := oracleNumbers(p)
			if len(n) != 1 {
				return netip.Addr{}, false
			}
			four[i] = byte(n[0])
		}
		return netip.AddrFrom4(four), true
	}
	a, err := netip.ParseAddr(addr)
	return a.Unmap(), err == nil && family == "2" && a.Is6() && a.Zone() == ""
}

func oracleDelimiter(d string) bool {
	return len(d) == 1 && d[0] >= 33 && d[0] <= 126 && (d[0] < '0' || d[0] > '9')
}

// oracleEPRT cuts the port off the end: the delimiter may be a dot. The last
// delimiter may be missing.
func oracleEPRT(arg string) netip.AddrPort {
	if len(arg) < 4 || !oracleDelimiter(arg[:1]) || arg[2] != arg[0] {
		return netip.AddrPort{}
	}
	rest := strings.TrimSuffix(arg[3:], arg[:1])
	cut := strings.LastIndex(rest, arg[:1])
	if cut < 0 || !oraclePort.MatchString(rest[cut+1:]) || arg[1] == '2' && strings.Contains(rest[:cut], arg[:1]) {
		return netip.AddrPort{}
	}
	a, ok := oracleNetAddr(arg[1:2], rest[:cut])
	n, _ := strconv.Atoi(rest[cut+1:])
	if !ok || n < 1 || n > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(n))
}

func oracleParse(line string) netip.AddrPort {
	if m := oracleCommand.FindStringSubmatch(line); m != nil {
		arg := strings.Trim(m[2], " ")
		switch strings.ToUpper(m[1]) {
		case "PORT":
			return oracleHostPort(arg)
		case "LPRT":
			return oracleLong(arg)
		}
		return oracleEPRT(arg)
	}
	m := oracleReply.FindStringSubmatch(line)
	if m == nil {
		return netip.AddrPort{}
	}
	text := line[3:]
	if m[1] == "229" {
		return oracleExtended(text)
	}
	for _, at := range oracleRun.FindAllStringIndex(text, -1) {
		run := text[at[0]:at[1]]
		if n := strings.Count(run, ",") + 1; n < 6 || m[1] == "228" && n < 9 {
			continue
		}
		if oracleBefore.MatchString(text[:at[0]]) || oracleBehind.MatchString(text[at[1]:]) {
			return netip.AddrPort{}
		}
		if m[1] == "228" {
			return oracleLong(run)
		}
		return oracleHostPort(run)
	}
	return netip.AddrPort{}
}

func oracleExtended(text string) netip.AddrPort {
	m := oracle229.FindStringSubmatch(text)
	if m == nil || m[1] == "" || !oracleDelimiter(m[1][:1]) || m[1][0] == '(' {
		return netip.AddrPort{}
	}
	fields := strings.Split(m[1], m[1][:1])
	var family, addr, portText string
	switch {
	case len(fields) == 5 && fields[4] == "":
		family, addr, portText = fields[1], fields[2], fields[3]
	case len(fields) == 4 && fields[1] == "" && fields[3] == "":
		portText = fields[2]
	case len(fields) == 8 && m[1][0] == '.' && fields[7] == "": // dots within the address
		family, addr, portText = fields[1], strings.Join(fields[2:6], "."), fields[6]
	default:
		return netip.AddrPort{}
	}
	if !oraclePort.MatchString(portText) {
		return netip.AddrPort{}
	}
	n, _ := strconv.Atoi(portText)
	if n < 1 || n > 65535 {
		return netip.AddrPort{}
	}
	if family == "" && addr == "" {
		return netip.AddrPortFrom(netip.Addr{}, uint16(n))
	}
	if family == "" {
		family = "1"
		if strings.Contains(addr, ":") {
			family = "2"
		}
	}
	a, ok := oracleNetAddr(family, addr)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(n))
}

// FuzzLine compares the grammar with the oracle, which reads the same rules
// with regular expressions.
func FuzzLine(f *testing.F) {
	for _, line := range []string{
		"PORT 192,168,0,211,154,208", "port  1,2,3,4,5,6 ", "EPRT |1|132.235.1.2|6275|", "EPRT |2|1080::8:800:200C:417A|5282|",
		"EPRT .1.1.2.3.4.5.", "EPRT |2|::ffff:1.2.3.4|5282|", "LPRT 4,4,132,235,1,2,2,24,131", "LPRT 6,16,16,128,0,0,0,0,0,0,0,8,8,0,32,12,65,122,2,20,162",
		"227 Entering Passive Mode (10,220,50,76,64,155).", "227 =127,0,0,1,4,51", "227 Logout.", "227 a, b (1,2,3,4,5,6)",
		"228 Entering Long Passive Mode (4,4,198,51,100,20,2,19,136)", "229 x (|||6446|)", "229 x (||1.2.3.4|6446|)", "229 (||6446|)", "229 (|2|::1|6446|)",
		"PORT 1, 2 ,3,4,5,6", "EPRT |1|1.2.3.4|6275", "227 (1, 2, 3, 4, 5, 6)", "227 1,024: (1,2,3,4,5,6)", "227 1,,2,3,4,5,6,7", "229 (EPSV) (|||6446|)", "229 (|||64(x|)",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c := readCommand([]byte(line))
		via, got, why := c.Verb.Via(), c.Endpoint, c.Err
		if via == ViaNone {
			if r := readReply([]byte(line)); !r.More {
				via, got, why = r.Code.Via(), r.Endpoint, r.Err
			}
		}
		if want := oracleParse(line); got != want {
			t.Fatalf("%q: got %v (%v %q), the oracle says %v", line, got, via, why, want)
		}
		if via != ViaNone && (got == netip.AddrPort{}) != (why != "") {
			t.Fatalf("%q: endpoint %v with reason %q", line, got, why)
		}
	})
}

// schedule delivers the two streams of a dialogue in segments, as TCP may: cut
// anywhere, repeated, out of order within a window. The segments of one step
// are all delivered before the next step begins, because a peer answers only
// what has reached it.
type schedule struct {
	choices []byte
	i       int
}

func (s *schedule) next(n int) int {
	if len(s.choices) == 0 || n <= 1 {
		return 0
	}
	c := int(s.choices[s.i%len(s.choices)]) + s.i
	s.i++
	return c % n
}

// deliver sends text, which begins at seq, in pieces.
func (s *schedule) deliver(sess *Session, dst []Event, dir Direction, seq, ack uint32, text string) []Event {
	type piece struct{ from, to int }
	var pieces []piece
	for at := 0; at < len(text); {
		n := 1 + s.next(min(len(text)-at, 40))
		if s.next(4) == 0 {
			n = min(len(text)-at, n*20)
		}
		pieces = append(pieces, piece{at, at + n})
		at += n
		if s.next(5) == 0 { // an overlapping copy
			back := s.next(at + 1)
			pieces = append(pieces, piece{at - back, at})
		}
	}
	// Reorder within a window that the reader is bound to hold.
	for block := range slices.Chunk(pieces, 5) {
		for i := range block {
			j := i + s.next(len(block)-i)
			block[i], block[j] = block[j], block[i]
		}
	}
	for _, p := range pieces {
		g := Segment{Dir: dir, Seq: seq + uint32(p.from), Ack: ack, HasAck: true, Payload: []byte(text[p.from:p.to])}
		dst = sess.Segment(dst, g)
		if s.next(6) == 0 {
			dst = sess.Segment(dst, g)
		}
		clear(g.Payload) // it was borrowed
	}
	return dst
}

// FuzzSegmentation demands that a dialogue brings the same events however its
// streams are cut into segments.
func FuzzSegmentation(f *testing.F) {
	f.Add("220 r\r\n\x00USER a\r\n\x00331 p\r\n\x00PASS b\r\n\x00230 ok\r\n\x00PORT 1,2,3,4,5,6\r\n\x00200 ok\r\n", []byte{1, 2, 3}, uint32(0xfffffff8), true)
	f.Add("220-r\r\n220 x\r\n\x00AUTH TLS\r\n\x00234 go\r\n\x00\x16\x03\x01\x01\x02abcd", []byte{9, 200, 31}, uint32(1), true)
	f.Add("\x00PASV\r\n\x00227 ok (1,2,3,4,5,6)\r\n\x00\xff\xf4\xff\xf2ABOR\r\n\x00226 x\r\n", []byte{77}, uint32(5), false)
	f.Add("220 r\r\n\x00AUTH TLS\r\n\x00234 go\r\n\x00\x16\x03\x03\x00\x02ab\x00\x16\x03\x03\x00\x02ab\x00\x15\x03\x03\x00\x02ab\x00\x15\x03\x03\x00\x02ab\x00PASV\r\n\x00227 (1,2,3,4,5,6)\r\n", []byte{5, 3}, uint32(9), true)
	f.Fuzz(func(t *testing.T, dialogue string, choices []byte, isn uint32, fromStart bool) {
		if len(dialogue) > 6000 {
			return // more than a window would be a gap, and rightly so
		}
		var whole, cut Session
		if fromStart {
			whole.Start(isn, ^isn)
			cut.Start(isn, ^isn)
		}
		var want, got []Event
		seq := [2]uint32{isn, ^isn}
		plan := schedule{choices: choices}
		for i, text := range strings.Split(dialogue, "\x00") {
			dir, other := DirReply, DirOriginal
			if i%2 == 1 {
				dir, other = DirOriginal, DirReply
			}
			if text == "" {
				continue
			}
			if next, ok := whole.Next(dir); !ok || next != seq[dir] {
				// The first segment of a pick-up says where the stream is.
				want = whole.Segment(want, Segment{Dir: dir, Seq: seq[dir], Payload: []byte(text)})
				got = cut.Segment(got, Segment{Dir: dir, Seq: seq[dir], Payload: []byte(text)})
			} else {
				want = whole.Segment(want, Segment{Dir: dir, Seq: seq[dir], Ack: seq[other], HasAck: true, Payload: []byte(text)})
				got = plan.deliver(&cut, got, dir, seq[dir], seq[other], text)
			}
			seq[dir] += uint32(len(text))
		}
		if !slices.Equal(want, got) {
			t.Fatalf("events differ from the uncut dialogue (-uncut +cut):\n%s", cmp.Diff(describe(want), describe(got)))
		}
		whole.Release()
		cut.Release()
	})
}

// oracleGreeting finds what may be the begin of a greeting, oracleLogin a reply that
// logs in by itself, and oracleDone any success.
var (
	oracleGreeting = regexp.MustCompile(`(?:^|\n)[124][0-9][0-9](?:[ -]|\r*\n)`)
	oracleLogin    = regexp.MustCompile(`(?:^|\n)23[02]`)
	oracleDone     = regexp.MustCompile(`(?:^|\n)2[0-9][0-9](?: |\r*\n)`)
)

// oraclePassive counts the lines of a server's stream that may announce an endpoint:
// those that begin with 227, 228 or 229 and are no text of a multi-line reply.
func oraclePassive(text string) (n int) {
	var multi Code
	for line := range strings.SplitAfterSeq(text, "\n") {
		if !strings.HasSuffix(line, "\n") {
			return n
		}
		code, more := ParseReply([]byte(strings.TrimRight(line, "\r\n")))
		switch {
		case multi != 0:
			if code != multi || more {
				continue
			}
			multi = 0
		case more:
			multi = code
			continue
		}
		if code.Via() != ViaNone {
			n++
		}
	}
	return n
}

func oracleVerb(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if isVerb([]byte(strings.TrimRight(line, "\r"))) {
			return true
		}
	}
	return false
}

// FuzzClientGaps loses parts of the client's stream, and nothing of the server's. What
// the server says must mean no more than without that.
func FuzzClientGaps(f *testing.F) {
	f.Add("220 r\r\n\x00USER a\r\n\x00331 p\r\n\x00NOOP\r\nPASS b\r\n\x00200 ok\r\n530 no\r\n\x00PORT 1,2,3,4,5,6\r\n\x00200 ok\r\n", []byte{1, 2, 3})
	f.Add("220 r\r\n\x00USER a\r\nSTAT\r\n\x00331 p\r\n213-x\r\n\x00PASV\r\n\x00227 ok (1,2,3,4,5,6)\r\n213 x\r\n", []byte{0, 1, 0, 9})
	f.Add("\x00PASV\r\n\x00227 ok (1,2,3,4,5,6)\r\n\x00PASS x\r\n\x00220 x\r\n230 x\r\n", []byte{4})
	f.Add("220 r\r\n\x00hello\r\nUSER a\r\nEPSV\r\n\x00500 no\r\n230 x\r\n229 (|||5000|)\r\n\x00LIST\r\n\x00226 x\r\n", []byte{1})
	f.Fuzz(func(t *testing.T, dialogue string, choices []byte) {
		// TLS and telnet commands are not the oracle's.
		if len(dialogue) > 4000 || strings.Contains(dialogue, "234") || strings.Contains(dialogue, "\xff") {
			return
		}
		const isn = 0xfffffff0
		var s Session
		s.Start(isn, isn)
		defer s.Release()
		plan := schedule{choices: choices}
		var client, server string // the client's as far as it was not lost
		var sent uint32
		passive, before := 0, -1 // before: of the server's stream, the bytes ahead of the first gap
		for i, text := range strings.Split(dialogue, "\x00") {
			var events []Event
			if i%2 == 0 {
				server += text
				events = s.Segment(nil, Segment{Dir: DirReply, Seq: isn + uint32(len(server)-len(text)), Ack: isn + sent, HasAck: true, Payload: []byte(text)})
			} else {
				for _, line := range strings.SplitAfter(text, "\n") {
					if lost := plan.next(4) == 1; !lost {
						client += line
						events = s.Segment(events, Segment{Seq: isn + sent, Ack: isn + uint32(len(server)), HasAck: true, Payload: []byte(line)})
					}
					sent += uint32(len(line))
				}
			}
			for _, e := range events {
				switch e.Kind {
				case Gap:
					if before < 0 {
						before = len(server) - len(text)
					}
				case Announced:
					if !oracleGreeting.MatchString(server) || !oracleVerb(client) {
						t.Fatalf("%s, and the server has said %q and the client %q", e.describe(), server, client)
					}
					if early := server[:max(before, 0)]; before >= 0 && !e.BeforeLogin && !oracleLogin.MatchString(server) && len(oracleDone.FindAllString(early, 2)) < 2 {
						t.Fatalf("%s, and the server has said no more than %q, %q of it before a gap", e.describe(), server, early)
					}
					if !e.Via.Active() {
						passive++
					}
				case Opaque, Cleared:
					t.Fatalf("%s without TLS", e.describe())
				}
			}
			if n := oraclePassive(server); passive > n {
				t.Fatalf("%d announced, and of the server's lines %d may", passive, n)
			}
		}
	})
}
