package conntrack

import (
	"time"

	"ftpctd/ftpparse"
)

// EventKind is what happened to a control connection, in the words of replay's
// JSON.
type EventKind string

// The kinds of events.
const (
	EventOpen     EventKind = "open"     // a control connection was first seen
	EventClose    EventKind = "close"    // it ended, had to make room, or was forgotten (Reason)
	EventExpect   EventKind = "expect"   // a data connection is expected
	EventReject   EventKind = "reject"   // a line asked for one and was refused (Reason)
	EventWithdraw EventKind = "withdraw" // an expectation is void (Reason)
	EventOpaque   EventKind = "opaque"   // the session cannot be read any more: TLS (Reason: Translated behind NAT)
	EventNotFTP   EventKind = "not-ftp"  // the connection is not read, or not any more: no FTP session, or see Reason
)

// Event is one thing that happened, for logs, metrics and replay.
type Event struct {
	Time   time.Time
	Kind   EventKind
	Master Tuple
	// Via and Tuple are set for expect, reject and withdraw. A reject's Tuple is
	// what the line asked for; its Dst is the zero value if that was unreadable.
	Via    ftpparse.Via
	Tuple  Tuple
	Reason Reason
}
