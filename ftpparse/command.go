package ftpparse

import (
	"bytes"
	"encoding/binary"
)

// Verb is a command of the client, as far as it matters to data connections.
type Verb uint8

// The verbs that the session tells apart.
const (
	// verbOther is every other line: commands that open nothing, and what is
	// no command.
	verbOther Verb = iota
	verbPORT
	verbEPRT
	verbLPRT
	// verbPASV stands for P@SW and CPSV too: their answer is the same 227.
	verbPASV
	// verbEPSV is EPSV ALL (RFC 2428 section 4) too, which opens nothing.
	verbEPSV
	verbLPSV
	verbAUTH
	verbREIN
	verbUSER
	verbPASS
	verbACCT
	verbABOR
	verbQUIT
	// verbTransfer stands for the commands that use the data connection: RETR, STOR,
	// STOU, APPE, LIST, NLST and MLSD.
	verbTransfer
	// verbText stands for STAT, HELP and SITE, whose multi-line replies hold text of
	// others' choice, such as file names.
	verbText

	verbEPSVAll // what the session makes of verbEPSV
)

// Via is the announcing line that a command with verb v is, ViaNone for all others.
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

// ParseCommand reads the verb of one line of the client, which comes without its
// line end. Upper and lower case are alike (RFC 959 section 5.3). Blanks before the
// verb are not FTP. Where it announces an endpoint, [Verb.Via] and [Via.Endpoint]
// read on.
func ParseCommand(line []byte) Verb {
	if len(line) < 4 || len(line) > 4 && line[4] != ' ' {
		return verbOther
	}
	w := wordOf(line)
	if v := &vocabulary[w.slot()]; v.word == w && line[1] != '`' { // P`SW is none
		return v.verb
	}
	return verbOther
}

// word is the four letters of a verb, lower case, so that one comparison matches it
// in any case. An @ and a grave accent are alike then.
type word uint32

func wordOf(line []byte) word { return word(binary.BigEndian.Uint32(line) | 0x20202020) }

// slot is where in the vocabulary the word would be: a hash that gives each verb a
// slot of its own. The factor was found by trying.
func (w word) slot() word { return w * 0xf7e43b >> 26 }

// vocabulary has the verbs that the session tells apart, each in its slot. Most
// lines have another verb, and one look says so.
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

// argument is what follows the verb, without the blanks around it.
func argument(line []byte) []byte {
	a := line[4:]
	a = a[skipBlanks(a, 0):]
	for len(a) > 0 && a[len(a)-1] == ' ' {
		a = a[:len(a)-1]
	}
	return a
}

// isVerb reports whether the first word of line is an FTP command: the registry
// of RFC 5797 and the extensions that clients are known to send. It is asked of
// a connection's first line only, where GET, POST or a TLS hello give away that
// this is not FTP. Blanks before it are somebody's slip: servers pass over them, or
// answer 5xx.
func isVerb(line []byte) bool {
	word := firstWord(line)
	for _, v := range verbs {
		if len(v) == len(word) && bytes.EqualFold(word, []byte(v)) {
			return true
		}
	}
	return false
}

// isForeign reports whether line is the request of a protocol that ends it with its
// name and version, whatever it begins with: a web page may choose the method of
// a request.
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

// mayBeSlip reports whether line, which begins with no FTP command, may still come
// from somebody who speaks FTP: an unknown extension, or a slip of the keyboard. It
// is printable, begins with letters alone, and is no command of another protocol.
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

// firstWord is what stands between the blanks before it and the first blank behind.
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

// versions are what ends the requests of HTTP and its kin.
var versions = [...]string{"HTTP/", "RTSP/", "SIP/", "ICAP/"}

// foreignVerbs are first words of other protocols that clients can be made to speak to
// a port of somebody's choice.
var foreignVerbs = [...]string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI",
	"HELO", "EHLO", "LHLO", "PROXY", "NICK",
}
