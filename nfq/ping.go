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

// errStuck is what Ping finds of a receive loop that does not go on.
var errStuck = errors.New("the receive loop does not go on")

// pinger is what Ping and the receive loop share. Its zero value is ready.
type pinger struct {
	mu      sync.Mutex // one ping at a time
	waiting atomic.Pointer[chan error]
}

// answer passes on what the kernel answered, unless nobody waits any more.
func (p *pinger) answer(err error) {
	if waiting := p.waiting.Swap(nil); waiting != nil {
		*waiting <- err
	}
}

// Ping returns nil if the queue works: the kernel has it, bound to this socket,
// and the receive loop goes on, which it does once Run was called. A handler must
// not call Ping. Of a closed queue it fails with os.ErrClosed.
//
// It sends a verdict for a packet that cannot be there and waits until the
// receive loop has read the refusal. A loop that is in a handler does not get to
// that. Where the receive buffer has no room for the refusal, it is enough that
// the loop gets on with packets.
//
// If neither has happened when ctx ends, the error is ctx's as well.
func (q *Queue) Ping(ctx context.Context) error {
	q.ping.mu.Lock()
	defer q.ping.mu.Unlock()
	answer := make(chan error, 1)
	q.ping.waiting.Store(&answer)
	defer q.ping.waiting.Store(nil)
	before := q.packets.Load()
	// Half the circle of IDs away from the newest: no queue is that long.
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
