package engine

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
)

// waiting are the expectations whose place in the kernel's table another control
// connection has, and may not have used yet. One goroutine tries them, of each place
// the one that came first, and holds no lock while the kernel works.
type waiting struct {
	list []*waiter
	// withdrawn are expectations that stood where another one waits. They are deleted
	// by the goroutine that also inserts, so that neither takes one for the other.
	withdrawn []conntrack.Expectation
	served    bool // the goroutine runs
}

// waiter is an expectation that waits, and with it the packet that announced it.
type waiter struct {
	x        conntrack.Expectation
	deadline time.Time
	packet   *heldPacket // nil: it has moved on
}

// heldPacket is a packet that is released when the last of its expectations is settled.
type heldPacket struct {
	id   uint32
	left int
}

// hold keeps a packet back until the kernel has taken its expectations, one of
// which another control connection may hold the place of. It reports false if
// too many wait already.
func (e *Engine) hold(id uint32, expect []conntrack.Expectation) bool {
	if !e.hasRoom(expect[0].Master, len(expect)) {
		return false
	}
	packet := &heldPacket{id: id, left: len(expect)}
	for i := range expect {
		e.wait(&expect[i], packet)
	}
	return true
}

// wait lets x wait for its place for as long as a packet may be held. It reports false
// if too many wait already.
func (e *Engine) wait(x *conntrack.Expectation, packet *heldPacket) bool {
	if packet == nil && !e.hasRoom(x.Master, 1) {
		return false
	}
	e.waiting.list = append(e.waiting.list, &waiter{x: *x, deadline: time.Now().Add(holdFor), packet: packet})
	e.serve()
	return true
}

// hasRoom reports whether n more expectations of a client may wait.
func (e *Engine) hasRoom(master conntrack.Tuple, n int) bool {
	ofClient := n
	for _, w := range e.waiting.list {
		if w.x.Master.Src.Addr() == master.Src.Addr() {
			ofClient++
		}
	}
	return len(e.waiting.list)+n <= maxWaiting && ofClient <= maxWaitingOfClient
}

// serve starts the goroutine that tries what waits, if it does not run.
func (e *Engine) serve() {
	if !e.waiting.served {
		e.waiting.served = true
		e.tasks.Go(e.serveWaiting)
	}
}

// serveWaiting goes on until nothing waits any more.
func (e *Engine) serveWaiting() {
	for {
		withdrawn, turn := e.turn()
		for i := range withdrawn {
			e.withdraw(&withdrawn[i])
		}
		for _, w := range turn {
			e.try(w)
		}
		if e.allServed() {
			return
		}
		select {
		case <-time.After(retryEvery):
		case <-e.stop:
		}
	}
}

// turn returns what is to be deleted, and the waiters whose turn it is: of each place
// the first, and those whose time is over.
func (e *Engine) turn() (withdrawn []conntrack.Expectation, turn []*waiter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	withdrawn, e.waiting.withdrawn = e.waiting.withdrawn, nil
	taken := make(map[conntrack.Tuple]bool)
	for _, w := range e.waiting.list {
		if !taken[w.x.Tuple] || e.isLast(w) {
			taken[w.x.Tuple] = true
			turn = append(turn, w)
		}
	}
	return withdrawn, turn
}

// allServed reports whether nothing waits, which ends the goroutine.
func (e *Engine) allServed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting.served = len(e.waiting.withdrawn) > 0 || len(e.waiting.list) > 0
	return !e.waiting.served
}

// isLast reports whether w may be tried once more only.
func (e *Engine) isLast(w *waiter) bool {
	select {
	case <-e.stop:
		return true
	default:
		return time.Now().After(w.deadline)
	}
}

// try tries to insert what waits, and releases its packet if that is settled.
func (e *Engine) try(w *waiter) {
	last := e.isLast(w)
	err := e.kernel.Expect(&w.x)
	if err != nil && reasonOf(err) == conntrack.Clash && !last {
		return
	}
	if err != nil && e.fallback(&w.x, err) {
		err = e.admitEntry(&w.x)
	}
	if !e.settle(w, err) {
		e.withdraw(&w.x)
	}
	if w.packet == nil {
		return
	}
	if w.packet.left--; w.packet.left > 0 {
		return
	}
	// A queue that closed has let it go already.
	if err := e.accept(w.packet.id); err != nil && !errors.Is(err, os.ErrClosed) {
		e.log.Error("cannot release a held packet", "err", err)
	}
}

// settle takes w out of the list. It reports false if x is in the kernel's table, and
// must not stay there: it was withdrawn meanwhile.
func (e *Engine) settle(w *waiter, err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.waiting.list {
		if e.waiting.list[i] == w {
			e.waiting.list = append(e.waiting.list[:i], e.waiting.list[i+1:]...)
			break
		}
	}
	if err != nil {
		e.reject(&w.x, err)
		return true
	}
	return e.tracker.Admitted(&w.x)
}

// admitEntry makes x an expectation of the table.
func (e *Engine) admitEntry(x *conntrack.Expectation) error {
	if x.Readdressed {
		return errNAT
	}
	return e.entry.Table.Apply([]firewall.Change{changeOf(x, e.entry.Timeout)})
}

// withdraw deletes x from the kernel's table, if it stands there unused.
func (e *Engine) withdraw(x *conntrack.Expectation) {
	if e.viaEntry(x) {
		return // it runs out by itself
	}
	if err := e.kernel.Delete(x); err != nil && !errors.Is(err, unix.ENOENT) && e.mayWarn(warnWithdraw, "", x.Master.Src.Addr()) {
		e.log.Warn("cannot withdraw an expectation", "err", err)
	}
}
