// Package offline runs the daemon's packet path without a kernel: on the packets of a
// capture, or of a test. A small model of conntrack and of the daemon's nftables rules
// keeps from the engine what they would keep from it, and answers its questions.
package offline

import (
	"log/slog"
	"slices"
	"time"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/engine"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/nfq/packet"
)

// tick is how often the daemon expires expectations.
const tick = time.Second

// Daemon is an engine and the model of the kernel around it. It is not safe for concurrent
// use.
type Daemon struct {
	engine *engine.Engine
	kernel kernel
	older  *conntrack.Older
	ports  []uint16
	now    time.Time // of the capture
	next   time.Time // of the next tick
	clock  time.Time // the engine's
}

// New makes a Daemon, in the mode "expect" or, with cfg.Shared, "entry". It sets Reopen and
// Older of cfg: connections whose beginning the packets lack are picked up, once each.
func New(cfg conntrack.Config) *Daemon {
	d := &Daemon{
		kernel: kernel{connections: make(map[key]*connection)},
		older:  conntrack.NewOlder(nil, cfg.Ports, 0), ports: cfg.Ports,
	}
	cfg.Older, cfg.Reopen = d.older, true
	path := engine.Config{
		Tracker: cfg, Lookup: d.kernel.lookup, Now: func() time.Time { return d.clock },
		Send: func([]byte) error { return nil }, Log: slog.New(slog.DiscardHandler),
	}
	if cfg.Shared {
		path.Entry = admit.NewEntry(willing{}, cfg.Timeout)
	} else {
		path.Expect = willing{}
	}
	d.engine = engine.New(path)
	return d
}

// willing takes every expectation, and every change of the daemon's table, at once.
type willing struct{}

// AppendExpect implements engine.Admitter.
func (willing) AppendExpect(b []byte, _ uint32, _ *conntrack.Expectation) ([]byte, error) {
	return b, nil
}

// AppendDelete implements engine.Admitter.
func (willing) AppendDelete(b []byte, _ uint32, _ *conntrack.Expectation) []byte { return b }

// Expect implements engine.Admitter.
func (willing) Expect(*conntrack.Expectation) error { return nil }

// Delete implements engine.Admitter.
func (willing) Delete(*conntrack.Expectation) error { return nil }

// Apply implements admit.Table.
func (willing) Apply([]firewall.Change) error { return nil }

// Packet takes the next packet of all that pass the firewall, at a time that does not
// matter if it goes back. It reports whether the daemon's rules would queue the packet.
//
// What has run out is withdrawn ahead of the packet, but only where a second is full,
// counted from the first packet: until the daemon's ticker has fired, the kernel has the
// expectation.
func (d *Daemon) Packet(now time.Time, p *packet.Packet) bool {
	if d.next.IsZero() {
		d.now, d.next = now, now.Add(tick)
	}
	if now.After(d.now) {
		d.now = now
	}
	if late := d.now.Sub(d.next); late >= 0 {
		d.clock = d.next.Add(late.Truncate(tick))
		d.engine.Expire()
		d.next = d.clock.Add(tick)
	}
	d.clock = d.now
	c, dir := d.track(p)
	if c == nil || !d.queued(c, dir, p) {
		return false
	}
	if !c.begun && !c.listed {
		c.listed = true
		d.older.Add(c.as())
	}
	d.engine.Packet(p)
	d.engine.Flush()
	return true
}

// track follows p as the kernel does. It returns nil for what conntrack calls invalid, and
// for connections that are neither control nor expected data connections.
func (d *Daemon) track(p *packet.Packet) (*connection, direction) {
	control := d.isControl(p)
	if isFirst(p) && len(p.Payload) > 0 && slices.Contains(d.ports, p.Dst.Port()) {
		d.kernel.drop(p) // TCP Fast Open
		return nil, original
	}
	c, dir := d.kernel.find(d.now, p)
	if c != nil && isFirst(p) {
		c.begun = true // whatever conntrack makes of it
	}
	switch {
	case c != nil && c.alive && !c.reopens(dir, p):
		if !c.follow(d.now, dir, p) {
			return nil, dir
		}
		return c, dir
	case isFirst(p):
		expected := d.engine.Use(p.Src, p.Dst)
		if !control && !expected {
			if c != nil {
				c.alive = false
			}
			return nil, dir // of no interest, then or later
		}
		return d.kernel.open(d.now, p, expected), original
	case control:
		return d.kernel.pickUp(d.now, p, d.clientSent(p))
	}
	return nil, dir
}

func (d *Daemon) isControl(p *packet.Packet) bool {
	return slices.Contains(d.ports, p.Src.Port()) || slices.Contains(d.ports, p.Dst.Port())
}

// clientSent reports whether the client sent p, on a connection whose beginning is not
// known. A SYN/ACK comes from the server; else the server is the side with the control
// port, or who is sent to if both have one.
func (d *Daemon) clientSent(p *packet.Packet) bool {
	if p.Flags&packet.SYN != 0 {
		return false
	}
	return slices.Contains(d.ports, p.Dst.Port())
}

// queued reports whether the daemon's rules queue p: those of package firewall, without the
// check of the way back, as a capture has no routes. A SANE request is queued, and dropped
// behind the queue.
func (d *Daemon) queued(c *connection, dir direction, p *packet.Packet) bool {
	server := p.Dst
	if dir == reply {
		server = p.Src
	}
	if c.expected || !slices.Contains(d.ports, server.Port()) {
		return false // data, or a connection to somewhere else that comes from a control port
	}
	if isFirst(p) {
		c.syn[dir] = true
	}
	switch {
	case !c.seen[original] || !c.seen[reply]:
		return false
	case p.Flags&(packet.SYN|packet.FIN|packet.RST) == packet.SYN && c.syn != [2]bool{original: true}:
		return false // somebody else's SYN may have begun it
	}
	return len(p.Payload) > 0 || p.Flags&(packet.FIN|packet.SYN|packet.RST) != 0
}

// isFirst reports whether p begins a connection.
func isFirst(p *packet.Packet) bool {
	return p.Flags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) == packet.SYN
}

// Stats returns the tracker's counters.
func (d *Daemon) Stats() conntrack.Stats { return d.engine.Stats() }

// Close withdraws all expectations, as a daemon does that ends.
func (d *Daemon) Close() { d.engine.Close() }
