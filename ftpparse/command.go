package ftpparse

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Verb is a command of the client, as far as it matters to data connections.
type Verb uint8

// The verbs that the session tells apart.
const (
	// VerbOther is every other line: commands that open nothing, and what is
	// no command.
	VerbOther Verb = iota
	VerbPORT
	VerbEPRT
	VerbLPRT
	// VerbPASV stands for P@SW and CPSV too: their answer is the same 227.
	VerbPASV
	// VerbEPSV is EPSV ALL (RFC 2428 section 4) too, which opens nothing.
	VerbEPSV
	VerbLPSV
	VerbAUTH
	VerbREIN
	VerbUSER
	VerbPASS
	VerbACCT
	VerbABOR
	VerbQUIT

	verbEPSVAll // what the session makes of VerbEPSV
)

// Via is the announcing line that a command with verb v is, ViaNone for all others.
func (v Verb) Via() Via {
	switch v {
	case VerbPORT:
		return PORT
	case VerbEPRT:
		return EPRT
	case VerbLPRT:
		return LPRT
	default:
		return ViaNone
	}
}

// ParseCommand reads the verb of one line of the client, which comes without its
// line end. Upper and lower case are alike (RFC 959 section 5.3). Blanks before the
// verb are not FTP. Where it announces an endpoint, [Verb.Via] and [Via.Endpoint]
// read on.
func ParseCommand(line []byte) Verb {
	if len(line) < 4 || len(line) > 4 && line[4] != ' ' {
		return VerbOther
	}
	w := wordOf(line)
	if v := &vocabulary[w.slot()]; v.word == w && line[1] != '`' { // P`SW is none
		return v.verb
	}
	return VerbOther
}

// word is the four letters of a verb, lower case, so that one comparison matches it
// in any case. An @ and a grave accent are alike then.
type word uint32

func wordOf(line []byte) word { return word(binary.BigEndian.Uint32(line) | 0x20202020) }

// slot is where in the vocabulary the word would be: a hash that gives each verb a
// slot of its own. The factor was found by trying.
func (w word) slot() word { return w * 0x311c4f >> 28 }

// vocabulary has the verbs that the session tells apart, each in its slot. Most
// lines have another verb, and one look says so.
var vocabulary = func() (slots [16]struct {
	word word
	verb Verb
},
) {
	for name, verb := range map[string]Verb{
		"PORT": VerbPORT, "EPRT": VerbEPRT, "LPRT": VerbLPRT, "PASV": VerbPASV, "P@SW": VerbPASV, "CPSV": VerbPASV,
		"EPSV": VerbEPSV, "LPSV": VerbLPSV, "AUTH": VerbAUTH, "REIN": VerbREIN, "USER": VerbUSER, "PASS": VerbPASS,
		"ACCT": VerbACCT, "ABOR": VerbABOR, "QUIT": VerbQUIT,
	} {
		w := wordOf([]byte(name))
		slots[w.slot()].word, slots[w.slot()].verb = w, verb
	}
	return slots
}()

// isAll reports whether the argument of an EPSV is ALL.
func isAll(line []byte) bool {
	return bytes.EqualFold(argument(line), []byte("ALL"))
}

// argument is what follows the verb, without the blanks around it.
func argument(line []byte) []byte {
	a := line[4:]
	a = a[skipBlanks(a, 0):]
	for len(a) > 0 && a[len(a)-1] == ' ' {
		a = a[:len(a)-1]
	}
	return a
}

// extended reads <d>net-prt<d>net-addr<d>tcp-port<d> of RFC 2428 section 2. Some
// clients leave out the last delimiter. A client whose socket serves both families
// spells its IPv4 address as an IPv4-mapped one: that is the IPv4 address (RFC 4291
// section 2.5.5.2), and on an IPv6 connection another host's.
func (c *cursor) extended() (netip.AddrPort, Reason) {
	d, ok := c.delimiter()
	if !ok {
		return netip.AddrPort{}, Malformed
	}
	family, ok := c.number(1)
	if !ok || !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	addr, r := c.netAddr(family, d)
	if r != "" {
		return netip.AddrPort{}, r
	}
	if !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	port, r := c.port()
	if r != "" {
		return netip.AddrPort{}, r
	}
	if !c.done() && !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	return netip.AddrPortFrom(addr, port), ""
}

// delimiter reads RFC 2428's <d>: any of ASCII 33 to 126. A digit would make
// the fields ambiguous and is refused, as the kernel's helper does.
func (c *cursor) delimiter() (byte, bool) {
	if c.done() || c.b[c.i] < 33 || c.b[c.i] > 126 || isDigit(c.b[c.i]) {
		return 0, false
	}
	c.i++
	return c.b[c.i-1], true
}

// netAddr reads the address of a family (1 IPv4, 2 IPv6) up to the delimiter.
func (c *cursor) netAddr(family uint32, d byte) (netip.Addr, Reason) {
	switch family {
	case 1:
		var a [4]byte
		if r := c.octets(a[:], '.', BadAddress); r != "" {
			return netip.Addr{}, r
		}
		return netip.AddrFrom4(a), ""
	case 2:
		start := c.i
		for !c.done() && c.b[c.i] != d {
			c.i++
		}
		a, ok := parseIPv6(c.b[start:c.i])
		if !ok {
			return netip.Addr{}, BadAddress
		}
		return a.Unmap(), ""
	default:
		return netip.Addr{}, BadFamily
	}
}

// isVerb reports whether the first word of line is an FTP command: the registry
// of RFC 5797 and the extensions that clients are known to send. It is asked of
// a connection's first line only, where GET, POST or a TLS hello give away that
// this is not FTP.
func isVerb(line []byte) bool {
	n := bytes.IndexByte(line, ' ')
	if n < 0 {
		n = len(line)
	}
	for _, v := range verbs {
		if len(v) == n && bytes.EqualFold(line[:n], []byte(v)) {
			return true
		}
	}
	return false
}

var verbs = [...]string{
	"ABOR", "ACCT", "ADAT", "ALLO", "APPE", "AUTH", "AVBL", "CCC", "CDUP", "CLNT", "CONF", "CPSV", "CSID",
	"CWD", "DELE", "ENC", "EPRT", "EPSV", "FEAT", "HELP", "HOST", "LANG", "LIST", "LPRT", "LPSV", "MDTM",
	"MFCT", "MFMT", "MIC", "MKD", "MLSD", "MLST", "MODE", "NLST", "NOOP", "OPTS", "P@SW", "PASS", "PASV",
	"PBSZ", "PORT", "PRET", "PROT", "PWD", "QUIT", "REIN", "REST", "RETR", "RMD", "RNFR", "RNTO", "SITE",
	"SIZE", "SMNT", "SSCN", "STAT", "STOR", "STOU", "STRU", "SYST", "TYPE", "USER", "XCRC", "XCUP", "XCWD",
	"XMKD", "XPWD", "XRMD",
}
