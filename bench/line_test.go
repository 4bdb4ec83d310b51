package bench

import (
	"bufio"
	"net/netip"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"ftpctd/ftpparse"
)

// lines are the lines to measure, one of each kind, with their CRLF.
var lines = []struct {
	kind   string
	line   string
	server bool
}{
	{"boring-command", "RETR pub/linux/README.txt\r\n", false},
	{"boring-reply", "226 Transfer complete.\r\n", true},
	{"PORT", "PORT 192,168,0,211,154,208\r\n", false},
	{"EPRT-v4", "EPRT |1|192.168.0.211|39632|\r\n", false},
	{"EPRT-v6", "EPRT |2|2001:db8:85a3::8a2e:370:7334|39632|\r\n", false},
	{"227", "227 Entering Passive Mode (192,168,0,201,122,8).\r\n", true},
	{"229", "229 Entering Extended Passive Mode (|||31240|)\r\n", true},
	{"hostile", "227 ,,,,1,2,3,4,5,256 (192,168,0,201,122,8," + strings.Repeat("1,", 200) + ")\r\n", true},
}

// Sinks for results, so that the compiler cannot omit their computation.
var (
	sinkEvents   []ftpparse.Event
	sinkAddrPort netip.AddrPort
)

// BenchmarkLine parses one line: its verb or code, and the endpoint if it announces one.
func BenchmarkLine(b *testing.B) {
	for _, l := range lines {
		line := []byte(strings.TrimRight(l.line, "\r\n"))
		via := announces(line, l.server)
		b.Run(l.kind, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			switch {
			case l.server && via == ftpparse.ViaNone:
				for b.Loop() {
					ftpparse.ParseReply(line)
				}
			case l.server:
				for b.Loop() {
					ftpparse.ParseReply(line)
					sinkAddrPort, _ = via.Endpoint(line)
				}
			case via == ftpparse.ViaNone:
				for b.Loop() {
					ftpparse.ParseCommand(line)
				}
			default:
				for b.Loop() {
					ftpparse.ParseCommand(line)
					sinkAddrPort, _ = via.Endpoint(line)
				}
			}
		})
	}
}

// announces returns how a line of the client or the server announces an endpoint.
func announces(line []byte, server bool) ftpparse.Via {
	if !server {
		return ftpparse.ParseCommand(line).Via()
	}
	code, _ := ftpparse.ParseReply(line)
	return code.Via()
}

// The same grammar as regular expressions.
var (
	commandPattern  = regexp.MustCompile(`(?i)^(PORT|EPRT|PASV|EPSV)(?: (.*))?$`)
	replyPattern    = regexp.MustCompile(`^(227|229) (.*)$`)
	listPattern     = regexp.MustCompile(`(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})`)
	eprtPattern     = regexp.MustCompile(`^\|([12])\|([0-9a-fA-F.:]+)\|(\d{1,5})\|$`)
	extendedPattern = regexp.MustCompile(`\(\|\|\|(\d{1,5})\|\)`)
)

func regexpLine(line string) netip.AddrPort {
	m := commandPattern.FindStringSubmatch(line)
	if m == nil {
		m = replyPattern.FindStringSubmatch(line)
	}
	if m == nil {
		return netip.AddrPort{}
	}
	switch strings.ToUpper(m[1]) {
	case "PORT", "227":
		f := listPattern.FindStringSubmatch(m[2])
		if f == nil {
			return netip.AddrPort{}
		}
		var n [6]byte
		for i := range n {
			v, err := strconv.ParseUint(f[i+1], 10, 8)
			if err != nil {
				return netip.AddrPort{}
			}
			n[i] = byte(v)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:4])), uint16(n[4])<<8|uint16(n[5]))
	case "EPRT":
		f := eprtPattern.FindStringSubmatch(m[2])
		if f == nil {
			return netip.AddrPort{}
		}
		addr, err := netip.ParseAddr(f[2])
		port, err2 := strconv.ParseUint(f[3], 10, 16)
		if err != nil || err2 != nil {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(addr, uint16(port))
	case "229":
		f := extendedPattern.FindStringSubmatch(m[2])
		if f == nil {
			return netip.AddrPort{}
		}
		port, err := strconv.ParseUint(f[1], 10, 16)
		if err != nil {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(netip.Addr{}, uint16(port))
	}
	return netip.AddrPort{}
}

// BenchmarkYardstick parses the same lines with regular expressions, and the server's
// with net/textproto, which only splits off the code.
func BenchmarkYardstick(b *testing.B) {
	for _, l := range lines {
		line := strings.TrimRight(l.line, "\r\n")
		b.Run("regexp/"+l.kind, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				sinkAddrPort = regexpLine(line)
			}
		})
	}
	for _, l := range lines {
		if !l.server {
			continue
		}
		b.Run("textproto/"+l.kind, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(l.line)))
			src := strings.NewReader(l.line)
			buf := bufio.NewReader(src)
			r := textproto.NewReader(buf)
			for b.Loop() {
				src.Reset(l.line)
				buf.Reset(src)
				if _, _, err := r.ReadCodeLine(0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestYardstickReadsTheSame checks that the regular expressions find the same endpoints
// as the grammar.
func TestYardstickReadsTheSame(t *testing.T) {
	for _, l := range lines {
		line := strings.TrimRight(l.line, "\r\n")
		want, _ := announces([]byte(line), l.server).Endpoint([]byte(line))
		if got := regexpLine(line); got != want && l.kind != "hostile" {
			t.Errorf("%s: %v by regular expression, %v by the grammar", l.kind, got, want)
		}
	}
}
