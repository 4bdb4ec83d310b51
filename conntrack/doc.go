// Package conntrack keeps the table of FTP control connections and decides what
// each of their packets brings about: which data connections are expected, and
// which no longer are.
//
// [Tracker] reads packets through [ftpparse.Session], asks the [Policy] and
// answers with a [Decision]. It has no sockets and no clock: the caller gives it
// packets with their time, from a queue of the kernel or from a capture file,
// and carries its decisions to the kernel.
package conntrack
