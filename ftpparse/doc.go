// Package ftpparse parses FTP control connections.
//
// # The grammar of a line
//
// [ParseCommand] and [ParseReply] read the verb or the code of one line, and
// [Via.Endpoint] reads the endpoint that a PORT, EPRT, LPRT, 227, 228 or 229 names;
// [Via.AppendEndpoint] writes it. They follow RFC 959, RFC 1123, RFC 1639 and RFC 2428,
// and accept what real clients and servers send instead, as long as it can mean one
// endpoint only: two readers of a line must not come to different endpoints.
//
// # Sessions
//
// A [Session] reads both TCP directions of a control connection in sequence space. It
// reassembles lines, pairs replies with commands and reports the data connections that
// they announce, and when an announcement is void, as [Event]s. It follows AUTH TLS and
// CCC (RFC 4217), and stops reading when the connection turns out not to carry FTP.
//
// Either side may try to have an endpoint announced that is not its own. A session
// therefore reads every byte once, ignores the text of multi-line replies, announces
// nothing before both sides have spoken FTP, and pairs no reply with a command from
// before a gap.
//
// # Cost
//
// The package does no I/O, has no clock and starts no goroutine. Reading a segment
// allocates nothing. An idle session has no buffers: those for incomplete lines,
// segments out of order and pipelined commands come from pools that all sessions share,
// and [Session.Release] returns them.
//
// Nothing here is safe for concurrent use, except by different Sessions.
package ftpparse
