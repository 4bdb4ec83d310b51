// Package daemon is the life of ftpctd run: it brings up the lock, the kernel's
// connection tracking, the packet queues and the nftables table, supervises them, and
// takes them down in reverse order.
package daemon
