// Package conntrack tracks FTP control connections and decides which data connections are
// expected.
//
// A [Tracker] parses the packets of control connections with [ftpparse.Session], checks
// announced endpoints against a [Policy] and returns a [Decision] for each packet: the
// expectations to add and to withdraw before it may move on. The package has neither
// sockets nor a clock. Its caller passes packets and their time, from a kernel queue or a
// capture file, and makes the changes in the kernel.
package conntrack
