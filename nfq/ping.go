package nfq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// errStuck is Ping's error if the receive loop makes no progress.
var errStuck = errors.New("receive loop is stuck")

// pinger is what Ping and the receive loop share. Its zero value is ready.
type pinger struct {
	mu      sync.Mutex // one ping at a time
	waiting atomic.Pointer[chan error]
}

// answer passes the kernel's reply to Ping, if it still waits.
func (p *pinger) answer(err error) {
	if waiting := p.waiting.Swap(nil); waiting != nil {
		*waiting <- err
	}
}

// Ping returns nil if the queue works: the kernel has it bound to this socket, and the
// receive loop, which Run starts, makes progress. A handler must not call Ping. After
// Close it fails with os.ErrClosed.
//
// It sends a verdict for a packet that cannot exist and waits until the receive loop
// reads the kernel's error. A loop that is stuck in a handler does not read it. If the
// receive buffer has no room for the error, it is enough that the loop handles packets.
//
// If ctx ends before either, the error is also ctx's.
func (q *Queue) Ping(ctx context.Context) error {
	q.ping.mu.Lock()
	defer q.ping.mu.Unlock()
	answer := make(chan error, 1)
	q.ping.waiting.Store(&answer)
	defer q.ping.waiting.Store(nil)
	before := q.packets.Load()
	// Half the range of IDs away from the newest: no queue is that long.
	if err := q.send(appendPing(nil, q.num, q.lastID.Load()+1<<31)); err != nil {
		return newError("ping", q.num, err)
	}
	select {
	case err := <-answer:
		if !errors.Is(err, unix.ENOENT) {
			return newError("ping", q.num, err)
		}
	case <-q.closed:
		return newError("ping", q.num, os.ErrClosed)
	case <-ctx.Done():
		if q.packets.Load() == before {
			return newError("ping", q.num, fmt.Errorf("%w: %w", errStuck, ctx.Err()))
		}
	}
	return nil
}
