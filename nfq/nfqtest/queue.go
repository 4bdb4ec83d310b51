// Package nfqtest is a queue without a kernel, for tests and benchmarks of handlers.
package nfqtest

import "ftpctd/nfq"

// Queue passes datagrams, as the kernel writes them, through the receive loop of
// nfq.DriverNetlink, and keeps what the loop would write to the socket. It is not
// safe for concurrent use.
type Queue struct {
	receive func(datagram []byte)
	sent    []byte
}

// New returns the queue num, whose packets go to h.
func New(num uint16, h nfq.Handler) *Queue {
	q := &Queue{}
	q.receive = nfq.Detached(num, h, func(datagram []byte) error {
		q.sent = append(q.sent, datagram...)
		return nil
	})
	return q
}

// Receive handles one datagram and returns what is sent for it: messages of the
// handler, and verdicts. It is valid until the next call, and may be empty.
func (q *Queue) Receive(datagram []byte) []byte {
	q.sent = q.sent[:0]
	q.receive(datagram)
	return q.sent
}
