// Package lab builds a small network to run FTP through: a client, a router
// and a server, each in a network namespace of its own, joined by veth pairs.
//
//	client eth0 ─── client router server ─── eth0 server
//
// Both families are routed and every address works as soon as New returns.
// A firewall can be put on any of the three hosts, so that one topology serves
// for a daemon on a router between (forward), on the server (input) and on the
// client (output).
//
// The namespaces have no names. They are held by threads and file descriptors
// of this process and end with it, however it ends; labs never collide, and
// nothing appears in the host's own namespace.
//
// The package needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and no program
// besides. All its methods are safe for concurrent use.
package lab
