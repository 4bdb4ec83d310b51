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

// waiter is an expectation that waits, and with it the packets that announced it, which
// is none if they have moved on.
type waiter struct {
	x        conntrack.Expectation
	deadline time.Time
	packets  []*heldPacket
}

// heldPacket is a packet that is released when the last of its expectations is settled.
type heldPacket struct {
	id   uint32
	left int
}

// hold keeps a packet back until the kernel has taken those of its expectations that
// are for its table, one of which another control connection may hold the place of. It
// reports false if there is none, or if too many wait already.
func (e *Engine) hold(id uint32, announced []conntrack.Expectation) bool {
	var expect []conntrack.Expectation
	for i := range announced {
		if !e.viaEntry(&announced[i]) {
			expect = append(expect, announced[i])
		}
	}
	if len(expect) == 0 || !e.hasRoom(expect) {
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
	w := e.waiter(x)
	if w == nil {
		if packet == nil && !e.hasRoom([]conntrack.Expectation{*x}) {
			return false
		}
		w = &waiter{x: *x, deadline: time.Now().Add(holdFor)}
		e.waiting.list = append(e.waiting.list, w)
	}
	if packet != nil {
		w.packets = append(w.packets, packet)
	}
	e.serve()
	return true
}

// waiter returns what waits for x already: its control connection has announced it more
// than once.
func (e *Engine) waiter(x *conntrack.Expectation) *waiter {
	for _, w := range e.waiting.list {
		if w.x.Tuple == x.Tuple && w.x.Master == x.Master && w.x.Zone == x.Zone {
			return w
		}
	}
	return nil
}

// hasRoom reports whether expect, all of one client, may wait.
func (e *Engine) hasRoom(expect []conntrack.Expectation) bool {
	n := 0
	for i := range expect {
		if e.waiter(&expect[i]) == nil {
			n++
		}
	}
	ofClient := n
	for _, w := range e.waiting.list {
		if w.x.Master.Src.Addr() == expect[0].Master.Src.Addr() {
			ofClient++
		}
	}
	return n == 0 || len(e.waiting.list)+n <= maxWaiting && ofClient <= maxWaitingOfClient
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
			if !e.stands(&withdrawn[i]) {
				e.withdraw(&withdrawn[i])
			}
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

// stands reports whether the control connection of x has announced it again since, and
// the kernel has taken that.
func (e *Engine) stands(x *conntrack.Expectation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tracker.Stands(x)
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
	for _, packet := range w.packets {
		if packet.left--; packet.left > 0 {
			continue
		}
		// A queue that closed has let it go already.
		if err := e.accept(packet.id); err != nil && !errors.Is(err, os.ErrClosed) {
			e.log.Error("cannot release a held packet", "err", err)
		}
	}
}

// settle takes w out of the list. It reports false if nothing of w may stay in the
// kernel's table: it was withdrawn meanwhile, or the tracker knows of none.
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
		return reasonOf(err) != conntrack.Clash // what is in the way may be its own, of an earlier announcement
	}
	return e.tracker.Admitted(&w.x)
}

// admitEntry makes x an expectation of the table.
func (e *Engine) admitEntry(x *conntrack.Expectation) error {
	c, err := e.entry.change(x)
	if err != nil {
		return err
	}
	return e.entry.Table.Apply([]firewall.Change{c})
}

// withdrawLater leaves it to the goroutine that also inserts to withdraw x.
func (e *Engine) withdrawLater(x *conntrack.Expectation) {
	e.waiting.withdrawn = append(e.waiting.withdrawn, *x)
	e.serve()
}

// withdraw deletes x from the kernel's table, if it stands there unused.
func (e *Engine) withdraw(x *conntrack.Expectation) {
	if e.viaEntry(x) {
		return // its element expires
	}
	if err := e.kernel.Delete(x); err != nil && !errors.Is(err, unix.ENOENT) && e.mayWarn(warnWithdraw, "", x.Master.Src.Addr()) {
		e.log.Warn("cannot withdraw an expectation", "err", err)
	}
}
