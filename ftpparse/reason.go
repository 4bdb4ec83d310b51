package ftpparse

// Reason says why something was refused or undone. One vocabulary serves the
// whole program: the same kebab-case word is the metric label, the attribute of
// the log line and the "reason" of replay's JSON.
//
// A Reason is an error, so that a rejection costs no allocation.
type Reason string

// Error implements error.
func (r Reason) Error() string { return string(r) }

// Reasons of the grammar: the line cannot be what its first word promises.
const (
	Malformed   Reason = "malformed"    // the argument does not follow the grammar of its command or reply
	BadAddress  Reason = "bad-address"  // an octet over 255, an IPv6 address that is none, a zone identifier
	BadPort     Reason = "bad-port"     // port 0 or over 65535
	BadFamily   Reason = "bad-family"   // a family this protocol does not know (EPRT's net-prt, LPRT's af)
	ControlChar Reason = "control-char" // NUL or a bare CR in the line: two readers would not agree on it
)

// Reasons of the session: the line is well formed, but does not count here.
const (
	Unpaired      Reason = "unpaired"       // a 227, 228 or 229 that answers no pending command
	EPSVAll       Reason = "epsv-all"       // anything but EPSV after an accepted EPSV ALL (RFC 2428 section 4)
	NoGreeting    Reason = "no-greeting"    // the server did not greet, or the client spoke first, and not in FTP
	NotAVerb      Reason = "not-a-verb"     // the client's first line is no FTP command
	TooMany       Reason = "too-many"       // more commands without a reply than any client sends
	ServerRefused Reason = "refused"        // the server answered the command with 4xx or 5xx
	Quit          Reason = "quit"           // the session ended with QUIT
	TransferEnded Reason = "transfer-ended" // the transfer command that followed has its final reply
	Reinitialized Reason = "reinitialized"  // REIN, accepted
	PickedUp      Reason = "picked-up"      // TLS was under way when the connection was first seen
	AuthAccepted  Reason = "auth"           // AUTH, accepted: transfer parameters are reset (RFC 4217 section 13)
)
