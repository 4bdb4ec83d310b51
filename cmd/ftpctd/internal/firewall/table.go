// Package firewall owns the daemon's nftables table "inet ftpctd": the rules that assign the
// helper to new control connections and queue their packets, and the sets of the data
// connections whose first packet is queued too. It touches no other table and runs no
// program. Everything happens in the network namespace of the calling thread.
package firewall

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
)

// Config sets the rules up.
type Config struct {
	// Ports are the servers' ports of control connections.
	Ports []uint16
	// Helper is the conntrack helper that is assigned to new control connections, one of
	// the kernel's or one that was registered; empty for none.
	Helper string
	// TLSPorts are the ports to which hosts may open data connections that are in the
	// table without a port. The zero value is none.
	TLSPorts conntrack.PortRange
	// SkipMark are bits of the conntrack mark: of a connection that has one of them
	// set, the packets that begin and end it are queued, but no payload. 0 is none.
	SkipMark uint32
	// QueueNum is the first queue, QueueCount how many there are, at least 1.
	QueueNum, QueueCount uint16
	// AntiSpoof decides whose source address is trusted.
	AntiSpoof AntiSpoof
	// Now is the clock, by which elements expire here; nil is time.Now.
	Now func() time.Time
}

// AntiSpoof decides whose source address is trusted. A packet whose source is not
// trusted is not queued, but counted ([Counters]), and goes on its way unread. The
// host's own packets, and those of its loopback link, are trusted.
type AntiSpoof uint8

const (
	// AntiSpoofStrict trusts a source that the host's routes reach through the
	// link that the packet came from, as reverse-path filtering does (RFC 3704
	// section 2.2), IPv4 and IPv6 alike. A route that the packet's mark selects is as
	// good as one without.
	AntiSpoofStrict AntiSpoof = iota
	// AntiSpoofLoose trusts all but addresses that no other host can have: those
	// of the host itself, broadcast and multicast; and in IPv6 those without a route.
	AntiSpoofLoose
	// AntiSpoofOff trusts all.
	AntiSpoofOff
)

// Table is the installed table. Its methods are safe for concurrent use.
type Table struct {
	cfg      Config
	queue    expr.Any
	mode     string
	labels   bool
	elements *elements

	mu  sync.Mutex     // guards what follows
	nft *nftables.Conn // stays in the namespace that the table was installed in; nil after Remove
	// The kernel's counters begin at 0 with each table: this is what those before had
	// counted when they were read last, and what this one had.
	before, last Counters
}

// Install creates the table, or replaces the one that a killed daemon left, in one
// transaction: there is no moment without rules, and if it fails nothing has changed.
//
// An error is an *[Error] that names what the kernel lacks; os.ErrPermission
// without CAP_NET_ADMIN; ENOENT if there is no helper of that name for both IPv4
// and IPv6. Once installed, the rules keep a helper from being unregistered.
func Install(cfg Config) (*Table, error) {
	queue, mode := nftQueue(cfg), "nft queue"
	if (feature{add: func(r builder, chain *nftables.Chain) { r.add(chain, []expr.Any{queue}) }}).probe() != nil {
		queue, mode = xtQueue(cfg), "xt NFQUEUE"
	}
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, newError(OpInstall, err)
	}
	elements, err := openElements(cfg)
	if err != nil {
		_ = nft.CloseLasting()
		return nil, newError(OpInstall, err)
	}
	t := &Table{cfg: cfg, queue: queue, mode: mode, labels: hasLabels(), nft: nft, elements: elements}
	if err := t.load(); err != nil {
		_ = nft.CloseLasting()
		elements.close()
		return nil, err
	}
	return t, nil
}

// load replaces the table.
func (t *Table) load() error {
	// Adding a table that exists is no error, so that deleting it does not fail.
	t.nft.DelTable(t.nft.AddTable(newTable(tableName)))
	err := addRuleset(t.nft, t.cfg, t.queue, t.labels)
	if err == nil {
		err = t.nft.Flush()
	}
	if err != nil {
		e := newError(OpInstall, err)
		e.Missing = missingFeature(t.cfg, t.queue)
		if e.Missing == FeatureHelper {
			e.Helper = t.cfg.Helper
		}
		return e
	}
	return nil
}

// missingFeature returns the first feature that the kernel lacks, if any.
func missingFeature(cfg Config, queue expr.Any) Feature {
	for _, f := range features(cfg, queue) {
		if f.probe() != nil {
			return f.name
		}
	}
	return ""
}

// Mode returns how packets are queued: "nft queue", or "xt NFQUEUE" on a kernel
// without the former.
func (t *Table) Mode() string { return t.mode }

// Labels reports whether the rules use labels of connections. With them a SYN/ACK whose SYN
// was forged is not queued, also in the middle of a connection. It needs
// CONFIG_NF_CONNTRACK_LABELS.
func (t *Table) Labels() bool { return t.labels }

// Apply changes the sets of data connections, in the order of changes. The changes are in
// effect when it returns; it waits for nothing but the kernel's own work. After an error
// some of them may not have been made.
func (t *Table) Apply(changes []Change) error { return t.elements.apply(changes) }

// DeleteIdleHooks deletes the base chains that queue the first packets of data connections
// once the sets have had no element for a minute or two. Apply adds them again. It is for
// a caller that calls it every second or so. After Remove it does nothing.
func (t *Table) DeleteIdleHooks() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nft == nil {
		return nil
	}
	return t.elements.deleteIdleHooks()
}

// Restore restores the table if somebody has removed it, or has loaded a ruleset that was
// saved while there were no hooks, and reports whether that was so. The elements are lost
// then. After Remove it does nothing.
func (t *Table) Restore() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nft == nil {
		return false, nil
	}
	if err := t.find(); !errors.Is(err, unix.ENOENT) {
		return false, err
	}
	if err := t.elements.replace(t.load); err != nil {
		return true, err
	}
	t.before, t.last = t.before.plus(t.last), Counters{}
	return true, nil
}

// find returns ENOENT if the table or its hooks, while they are to exist, are gone.
func (t *Table) find() error {
	if _, err := t.nft.ListTableOfFamily(tableName, nftables.TableFamilyINet); err != nil {
		return newError(OpList, err)
	}
	if !t.elements.hooked() {
		return nil
	}
	chains, err := t.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return newError(OpList, err)
	}
	for _, hook := range [...]string{hookPrerouting, hookOutput} {
		if !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == tableName && c.Name == hook }) {
			return newError(OpList, unix.ENOENT)
		}
	}
	return nil
}

// Remove removes the table from the namespace that it was installed in. It is no
// error if somebody else has removed it. The Table cannot be used any more.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.elements.close()
	nft := t.nft
	t.nft = nil
	return errors.Join(remove(nft), nft.CloseLasting())
}

// RemoveStale removes the table that a killed daemon left, if there is one.
func RemoveStale() error {
	nft, err := nftables.New()
	if err != nil {
		return newError(OpRemove, err)
	}
	return remove(nft)
}

func remove(nft *nftables.Conn) error {
	nft.DelTable(newTable(tableName))
	if err := nft.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return newError(OpRemove, err)
	}
	return nil
}
