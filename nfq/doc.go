// Package nfq reads a netfilter queue: it receives the packets that rules send there,
// decodes their IP and TCP headers, calls a [Handler], and accepts every packet.
//
// It never drops a packet. The verdict is always NF_ACCEPT, and every failure (a full
// queue, an overflow of the receive buffer, a malformed packet) lets packets pass
// without inspection: the queue fails open. [Queue.Stats] counts them.
package nfq
