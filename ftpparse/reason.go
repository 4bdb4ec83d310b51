package ftpparse

// Reason is why an announcement was rejected or withdrawn, or a session given up. The
// whole program shares one vocabulary: the same kebab-case word is the metric label, the
// attribute of the log line and the "reason" in replay's JSON.
//
// A Reason is an error, so that rejecting a line allocates nothing.
type Reason string

// Error implements error.
func (r Reason) Error() string { return string(r) }

// Reasons of the grammar: the line does not follow the rules of its first word.
const (
	Malformed   Reason = "malformed"    // not the syntax of the command or reply
	BadAddress  Reason = "bad-address"  // an octet over 255, an invalid IPv6 address, a zone identifier
	BadPort     Reason = "bad-port"     // port 0 or over 65535
	BadFamily   Reason = "bad-family"   // an unknown address family (EPRT's net-prt, LPRT's af)
	ControlChar Reason = "control-char" // NUL or a bare CR in the line, or over 4096 bytes: two readers would not agree on it
)

// Reasons of the session: the line is well formed, but does not count at this point.
const (
	Unpaired      Reason = "unpaired"       // a 227, 228 or 229 without a pending command that it answers
	EPSVAll       Reason = "epsv-all"       // anything but EPSV after an accepted EPSV ALL (RFC 2428 section 4)
	NoGreeting    Reason = "no-greeting"    // the server did not greet, or the client spoke first and not in FTP
	NotAVerb      Reason = "not-a-verb"     // the client's first line is not an FTP command
	TooMany       Reason = "too-many"       // more unanswered commands than any client sends
	ServerRefused Reason = "refused"        // the server answered the command with 4xx or 5xx
	Quit          Reason = "quit"           // the session ended with QUIT
	TransferEnded Reason = "transfer-ended" // the transfer has its final reply
	Reinitialized Reason = "reinitialized"  // REIN, accepted
	PickedUp      Reason = "picked-up"      // TLS was under way when the connection was first seen
	AuthAccepted  Reason = "auth"           // AUTH, accepted: transfer parameters are reset (RFC 4217 section 13)
)
