package conntrack

import (
	"time"

	"ftpctd/ftpparse"
)

// EventKind is the kind of an Event, as in the JSON of replay.
type EventKind string

// The kinds of events.
const (
	EventOpen     EventKind = "open"     // a control connection was opened, or picked up (Reason)
	EventClose    EventKind = "close"    // it closed, or was evicted or expired (Reason)
	EventExpect   EventKind = "expect"   // a data connection is expected
	EventReject   EventKind = "reject"   // a line that asked for one was rejected (Reason)
	EventWithdraw EventKind = "withdraw" // an expectation was withdrawn (Reason)
	EventOpaque   EventKind = "opaque"   // the session switched to TLS (Reason; Translated behind NAT)
	EventNotFTP   EventKind = "not-ftp"  // the connection is skipped: not FTP, or see Reason
)

// Event is one event of a control connection, for logs, metrics and replay.
type Event struct {
	Time   time.Time
	Kind   EventKind
	Master Tuple
	// Via and Tuple are set for expect, reject and withdraw. The Tuple of a reject is what
	// the line asked for; its Dst is the zero value if that could not be parsed.
	Via    ftpparse.Via
	Tuple  Tuple
	Reason Reason
}
