package engine

import (
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/conntrack"
)

const (
	// holdFor is how long a packet is held for an expectation that conflicts with another
	// control connection's; retryEvery is how often that is tried again.
	holdFor    = 200 * time.Millisecond
	retryEvery = 5 * time.Millisecond
	// maxWaiting bounds the expectations that wait at a time, and maxWaitingOfClient those
	// of one client. The packet of one more is not held, and the kernel's answer is final.
	maxWaiting         = 64
	maxWaitingOfClient = 16
)

// waiting are the expectations that conflict with another control connection's in the
// kernel's table. One goroutine tries them, for each tuple the first one, and holds no lock
// while the kernel works.
type waiting struct {
	list []*waiter
	// withdrawn are expectations of tuples for which others wait. They are deleted by the
	// goroutine that also inserts, so that neither takes one for the other.
	withdrawn []conntrack.Expectation
	running   bool // the goroutine
}

// waiter is an expectation that waits, with the packets that announced it; none if they
// are gone.
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

// hold delays a packet until the kernel has those of its expectations that are for its
// table, one of which may conflict with an expectation of another control connection. It
// reports false if there is none, or if too many wait already.
func (e *Engine) hold(now time.Time, id uint32, announced []conntrack.Expectation) bool {
	if e.accept == nil {
		return false
	}
	var expect []conntrack.Expectation
	for i := range announced {
		if !e.viaEntry(&announced[i]) {
			expect = append(expect, announced[i])
		}
	}
	if len(expect) == 0 || !e.hasHoldSlots(expect) {
		return false
	}
	packet := &heldPacket{id: id, left: len(expect)}
	for i := range expect {
		e.wait(now, &expect[i], packet)
	}
	return true
}

// wait lets x wait for as long as a packet may be held. It reports false if too many wait
// already.
func (e *Engine) wait(now time.Time, x *conntrack.Expectation, packet *heldPacket) bool {
	w := e.waiter(x)
	if w == nil {
		if packet == nil && !e.hasHoldSlots([]conntrack.Expectation{*x}) {
			return false
		}
		w = &waiter{x: *x, deadline: now.Add(holdFor)}
		e.waiting.list = append(e.waiting.list, w)
	}
	if packet != nil {
		w.packets = append(w.packets, packet)
	}
	e.startRetrying()
	return true
}

// waiter returns the waiter for x, if its control connection has announced it before.
func (e *Engine) waiter(x *conntrack.Expectation) *waiter {
	for _, w := range e.waiting.list {
		if w.x.Tuple == x.Tuple && w.x.Master == x.Master && w.x.Zone == x.Zone {
			return w
		}
	}
	return nil
}

// hasHoldSlots reports whether expect, all of one client, may wait.
func (e *Engine) hasHoldSlots(expect []conntrack.Expectation) bool {
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

// startRetrying starts retryExpect, if it does not run.
func (e *Engine) startRetrying() {
	if !e.waiting.running {
		e.waiting.running = true
		e.tasks.Go(e.retryExpect)
	}
}

// retryExpect retries the insertions that conflict until none waits.
func (e *Engine) retryExpect() {
	for {
		withdrawn, turn := e.turn()
		for i := range withdrawn {
			if !e.stands(&withdrawn[i]) {
				e.withdraw(&withdrawn[i])
			}
		}
		for _, w := range turn {
			e.tryExpect(w)
		}
		if e.stopRetrying() {
			return
		}
		select {
		case <-time.After(retryEvery):
		case <-e.stop:
		}
	}
}

// turn returns the expectations to delete, and the waiters whose turn it is: of each tuple
// the first, and those past their deadline.
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
// the kernel has that expectation.
func (e *Engine) stands(x *conntrack.Expectation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tracker.Installed(x)
}

// stopRetrying reports whether none waits, which ends the goroutine.
func (e *Engine) stopRetrying() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting.running = len(e.waiting.withdrawn) > 0 || len(e.waiting.list) > 0
	return !e.waiting.running
}

// isLast reports whether w may be tried once more only.
func (e *Engine) isLast(w *waiter) bool {
	select {
	case <-e.stop:
		return true
	default:
		return e.now().After(w.deadline)
	}
}

// tryExpect tries to insert the expectation of w, and releases its packets if that is
// settled.
func (e *Engine) tryExpect(w *waiter) {
	last := e.isLast(w)
	err := e.expect.Expect(&w.x)
	if err != nil && admit.Reason(err) == conntrack.Clash && !last {
		return
	}
	if err != nil && e.fallsBack(&w.x, err) {
		err = e.entry.Expect(&w.x)
	}
	if !e.settle(w, err) {
		e.withdraw(&w.x)
	}
	for _, packet := range w.packets {
		if packet.left--; packet.left > 0 {
			continue
		}
		// A queue that was closed has released it.
		if err := e.accept(packet.id); err != nil && !errors.Is(err, os.ErrClosed) {
			e.log.Error("cannot release a held packet", "err", err)
		}
	}
}

// settle takes w off the list. It reports false if nothing of w may stay in the kernel's
// table: it was withdrawn in the meantime, or the tracker does not know what is there.
func (e *Engine) settle(w *waiter, err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.waiting.list, w); i >= 0 {
		e.waiting.list = slices.Delete(e.waiting.list, i, i+1)
	}
	if err != nil {
		e.reject(e.now(), &w.x, err)
		// A clash may be with an earlier announcement of the same control connection.
		return admit.Reason(err) != conntrack.Clash
	}
	return e.tracker.Confirm(&w.x)
}

// withdrawLater leaves the withdrawal of x to the goroutine that also inserts.
func (e *Engine) withdrawLater(x *conntrack.Expectation) {
	e.waiting.withdrawn = append(e.waiting.withdrawn, *x)
	e.startRetrying()
}

// withdraw takes x back, if it is unused.
func (e *Engine) withdraw(x *conntrack.Expectation) {
	err := e.admitter(x).Delete(x)
	if err != nil && !errors.Is(err, unix.ENOENT) && e.mayWarn(e.now(), warnWithdraw, "", x.Master.Src.Addr()) {
		e.log.Warn("cannot remove expectation", "err", err)
	}
}
