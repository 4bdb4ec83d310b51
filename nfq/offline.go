package nfq

// Offline is a queue without a kernel, for benchmarks and for tests of handlers:
// it takes datagrams as the kernel writes them through the same steps as
// [DriverNetlink] does, and keeps what would be sent. It is not safe for
// concurrent use.
type Offline struct {
	q      *Queue
	socket socket
	sent   []byte
}

// NewOffline makes an Offline of the queue num.
func NewOffline(num uint16, h Handler) *Offline {
	o := &Offline{q: newQueue(Config{Num: num})}
	o.q.handler = h
	o.q.driver = o
	o.socket.q = o.q
	return o
}

// Receive takes one datagram and returns the one that answers it, which is valid
// until the next call. It is empty if there is no answer.
func (o *Offline) Receive(datagram []byte) []byte {
	o.sent = o.sent[:0]
	o.q.begin()
	o.socket.datagram(datagram)
	o.q.end()
	return o.sent
}

// send implements driver.
func (o *Offline) send(b []byte) error {
	o.sent = append(o.sent, b...)
	return nil
}

// close implements driver.
func (o *Offline) close() error { return nil }
