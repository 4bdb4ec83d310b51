// Package lab builds a small network to run FTP through: a client, a router
// and a server in network namespaces, joined by veth pairs.
//
//	client eth0 ─── client router server ─── eth0 server
//
// IPv4 and IPv6 are routed, and every address is usable as soon as New returns.
// Each of the three hosts can have a firewall, so that one topology serves for
// a daemon on the router (forward), on the server (input) and on the client
// (output).
//
// The namespaces have no names. Threads and file descriptors of this process
// hold them, so they disappear with it, however it ends. Labs never collide,
// and nothing appears in the machine's own namespace.
//
// The package needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) but no external
// programs. All methods are safe for concurrent use.
package lab
