package ftpparse

import (
	"bytes"
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
	VerbEPSV
	// VerbEPSVAll is EPSV ALL (RFC 2428 section 4), which opens nothing.
	VerbEPSVAll
	VerbLPSV
	VerbAUTH
	VerbREIN
	VerbUSER
	VerbPASS
	VerbACCT
	VerbABOR
	VerbQUIT
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

// word packs four letters into an integer, lower case, so that one comparison
// matches a verb in any case.
const (
	wPORT  = 'p'<<24 | 'o'<<16 | 'r'<<8 | 't'
	wEPRT  = 'e'<<24 | 'p'<<16 | 'r'<<8 | 't'
	wLPRT  = 'l'<<24 | 'p'<<16 | 'r'<<8 | 't'
	wPASV  = 'p'<<24 | 'a'<<16 | 's'<<8 | 'v'
	wPATSW = 'p'<<24 | '`'<<16 | 's'<<8 | 'w' // '@'|0x20 is '`'
	wCPSV  = 'c'<<24 | 'p'<<16 | 's'<<8 | 'v'
	wEPSV  = 'e'<<24 | 'p'<<16 | 's'<<8 | 'v'
	wLPSV  = 'l'<<24 | 'p'<<16 | 's'<<8 | 'v'
	wAUTH  = 'a'<<24 | 'u'<<16 | 't'<<8 | 'h'
	wREIN  = 'r'<<24 | 'e'<<16 | 'i'<<8 | 'n'
	wUSER  = 'u'<<24 | 's'<<16 | 'e'<<8 | 'r'
	wPASS  = 'p'<<24 | 'a'<<16 | 's'<<8 | 's'
	wACCT  = 'a'<<24 | 'c'<<16 | 'c'<<8 | 't'
	wABOR  = 'a'<<24 | 'b'<<16 | 'o'<<8 | 'r'
	wQUIT  = 'q'<<24 | 'u'<<16 | 'i'<<8 | 't'
)

// ParseCommand reads one line of the client, without its line end. Upper and
// lower case are alike (RFC 959 section 5.3). Blanks before the verb are not
// FTP; blanks around the argument are allowed.
//
// A PORT, EPRT or LPRT comes with the endpoint that the server shall connect to,
// or with why it has none.
//
// The results are apart and not in a struct because a struct of this size is
// returned through memory, which takes as long as reading a boring line.
func ParseCommand(line []byte) (verb Verb, endpoint netip.AddrPort, why Reason) {
	if len(line) < 4 || len(line) > 4 && line[4] != ' ' {
		return VerbOther, endpoint, ""
	}
	switch uint32(line[0])<<24 | uint32(line[1])<<16 | uint32(line[2])<<8 | uint32(line[3]) | 0x20202020 {
	case wPORT:
		c := cursor{b: argument(line)}
		endpoint, why = c.endpoint(hostPort)
		return VerbPORT, endpoint, why
	case wEPRT:
		c := cursor{b: argument(line)}
		endpoint, why = c.endpoint(extended)
		return VerbEPRT, endpoint, why
	case wLPRT:
		c := cursor{b: argument(line)}
		endpoint, why = c.endpoint(longHostPort)
		return VerbLPRT, endpoint, why
	case wPASV, wCPSV:
		verb = VerbPASV
	case wPATSW:
		if line[1] == '@' {
			verb = VerbPASV
		}
	case wEPSV:
		verb = VerbEPSV
		if a := argument(line); len(a) == 3 && a[0]|0x20 == 'a' && a[1]|0x20 == 'l' && a[2]|0x20 == 'l' {
			verb = VerbEPSVAll
		}
	case wLPSV:
		verb = VerbLPSV
	case wAUTH:
		verb = VerbAUTH
	case wREIN:
		verb = VerbREIN
	case wUSER:
		verb = VerbUSER
	case wPASS:
		verb = VerbPASS
	case wACCT:
		verb = VerbACCT
	case wABOR:
		verb = VerbABOR
	case wQUIT:
		verb = VerbQUIT
	}
	return verb, endpoint, ""
}

// argument is what follows the verb, without the blanks around it.
func argument(line []byte) []byte {
	a := line[4:]
	for len(a) > 0 && a[0] == ' ' {
		a = a[1:]
	}
	for len(a) > 0 && a[len(a)-1] == ' ' {
		a = a[:len(a)-1]
	}
	return a
}

// extended reads <d>net-prt<d>net-addr<d>tcp-port<d> of RFC 2428 section 2.
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
	if !c.accept(d) {
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
		return a, ""
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
