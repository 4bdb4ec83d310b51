package ftpparse

import (
	"bytes"
	"encoding/binary"
)

// Verb is a command of the client, as far as data connections depend on it.
type Verb uint8

// The verbs that the session distinguishes.
const (
	// verbOther is any other line: a command without a data connection, or not a
	// command.
	verbOther Verb = iota
	verbPORT
	verbEPRT
	verbLPRT
	// verbPASV stands for P@SW and CPSV too, which are answered by the same 227.
	verbPASV
	// verbEPSV is EPSV ALL too, which opens nothing (RFC 2428 section 4).
	verbEPSV
	verbLPSV
	verbAUTH
	verbREIN
	verbUSER
	verbPASS
	verbACCT
	verbABOR
	verbQUIT
	// verbTransfer stands for the commands that use a data connection: RETR, STOR, STOU,
	// APPE, LIST, NLST and MLSD.
	verbTransfer
	// verbText stands for STAT, HELP and SITE: others may choose text of their
	// multi-line replies, such as file names.
	verbText

	verbEPSVAll // EPSV ALL, set by the session
)

// Via returns the kind of announcement that a command with verb v is, ViaNone if it is
// none.
func (v Verb) Via() Via {
	switch v {
	case verbPORT:
		return PORT
	case verbEPRT:
		return EPRT
	case verbLPRT:
		return LPRT
	default:
		return ViaNone
	}
}

// ParseCommand reads the verb of one line of the client, without its line end. Case does
// not matter (RFC 959 section 5.3). A line with blanks before its verb is not a command.
// If the line names an endpoint, [Verb.Via] and [Via.Endpoint] read the rest.
func ParseCommand(line []byte) Verb {
	if len(line) < 4 || len(line) > 4 && line[4] != ' ' {
		return verbOther
	}
	w := wordOf(line)
	if v := &vocabulary[w.slot()]; v.word == w && line[1] != '`' { // not P`SW
		return v.verb
	}
	return verbOther
}

// word is the four letters of a verb in lower case, so that one comparison matches it in
// any case. It does not distinguish an @ from a grave accent.
type word uint32

func wordOf(line []byte) word { return word(binary.BigEndian.Uint32(line) | 0x20202020) }

// slot is a perfect hash of the word into vocabulary. The multiplier was found by
// search.
func (w word) slot() word { return w * 0xf7e43b >> 26 }

// vocabulary has the verbs that the session distinguishes, each in its slot. Most lines
// have another verb, which one comparison shows.
var vocabulary = func() (slots [64]struct {
	word word
	verb Verb
},
) {
	for name, verb := range map[string]Verb{
		"PORT": verbPORT, "EPRT": verbEPRT, "LPRT": verbLPRT, "PASV": verbPASV, "P@SW": verbPASV, "CPSV": verbPASV,
		"EPSV": verbEPSV, "LPSV": verbLPSV, "AUTH": verbAUTH, "REIN": verbREIN, "USER": verbUSER, "PASS": verbPASS,
		"ACCT": verbACCT, "ABOR": verbABOR, "QUIT": verbQUIT,
		"RETR": verbTransfer, "STOR": verbTransfer, "STOU": verbTransfer, "APPE": verbTransfer, "LIST": verbTransfer,
		"NLST": verbTransfer, "MLSD": verbTransfer, "STAT": verbText, "HELP": verbText, "SITE": verbText,
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

// argument returns the text behind a verb of four letters, without blanks around it.
func argument(line []byte) []byte {
	a := line[4:]
	a = a[skipBlanks(a, 0):]
	for len(a) > 0 && a[len(a)-1] == ' ' {
		a = a[:len(a)-1]
	}
	return a
}

// isVerb reports whether the first word of line is an FTP command: one of the registry
// of RFC 5797, or an extension that clients are known to send. It is asked of a
// connection's first line only, where GET, POST or a TLS hello show that this is not
// FTP. Blanks before the word are allowed, because servers skip them or answer 5xx.
func isVerb(line []byte) bool {
	word := firstWord(line)
	for _, v := range verbs {
		if len(v) == len(word) && bytes.EqualFold(word, []byte(v)) {
			return true
		}
	}
	return false
}

// isForeign reports whether line is a request that ends with the name and version of
// another protocol, whatever its first word is: a web page may choose the method of a
// request.
func isForeign(line []byte) bool {
	line = bytes.TrimRight(line, " ")
	word := line[bytes.LastIndexByte(line, ' ')+1:]
	for _, v := range versions {
		if len(word) > len(v) && bytes.EqualFold(word[:len(v)], []byte(v)) {
			return true
		}
	}
	return false
}

// mayBeSlip reports whether line, whose first word is not an FTP command, may still come
// from an FTP client: an unknown extension, or a typing error. It is printable, begins
// with a word of letters, and is not a known command of another protocol.
func mayBeSlip(line []byte) bool {
	for _, ch := range line {
		if ch < ' ' || ch > '~' {
			return false
		}
	}
	word := firstWord(line)
	for _, ch := range word {
		if !isLetter(ch) {
			return false
		}
	}
	for _, v := range foreignVerbs {
		if bytes.EqualFold(word, []byte(v)) {
			return false
		}
	}
	return len(word) > 0
}

// firstWord returns the text between leading blanks and the next blank.
func firstWord(line []byte) []byte {
	line = line[skipBlanks(line, 0):]
	if n := bytes.IndexByte(line, ' '); n >= 0 {
		line = line[:n]
	}
	return line
}

var verbs = [...]string{
	"ABOR", "ACCT", "ADAT", "ALLO", "APPE", "AUTH", "AVBL", "CCC", "CDUP", "CLNT", "CONF", "CPSV", "CSID",
	"CWD", "DELE", "ENC", "EPRT", "EPSV", "FEAT", "HELP", "HOST", "LANG", "LIST", "LPRT", "LPSV", "MACB", "MDTM",
	"MFCT", "MFMT", "MIC", "MKD", "MLSD", "MLST", "MODE", "NLST", "NOOP", "OPEN", "OPTS", "P@SW", "PASS", "PASV",
	"PBSZ", "PORT", "PRET", "PROT", "PWD", "QUIT", "REIN", "REST", "RETR", "RMD", "RNFR", "RNTO", "SITE",
	"SIZE", "SMNT", "SSCN", "STAT", "STOR", "STOU", "STRU", "SYST", "TYPE", "USER", "XCRC", "XCUP", "XCWD",
	"XAUT", "XMKD", "XPWD", "XRMD",
}

// versions are the ends of requests in HTTP and similar protocols.
var versions = [...]string{"HTTP/", "RTSP/", "SIP/", "ICAP/"}

// foreignVerbs are first words of other protocols whose clients can be made to connect
// to any port.
var foreignVerbs = [...]string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI",
	"HELO", "EHLO", "LHLO", "PROXY", "NICK",
}
