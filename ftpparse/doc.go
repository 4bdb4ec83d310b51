// Package ftpparse reads FTP control connections: from bytes to meaning.
//
// [ParseCommand], [ParseReply] and [Via.Endpoint] are the grammar of one line (RFC 959,
// RFC 1639, RFC 2428, RFC 4217 and what real servers send instead). [Session]
// reads the two TCP directions of a control connection in sequence space, cuts
// them into lines, pairs replies with commands and reports what they announce
// as an [Event].
//
// The package is pure: no I/O, no clock, no goroutine. It knows nothing of
// packets, netlink or firewall policy, and allocates nothing on the hot path.
package ftpparse
