// Package firewall owns the daemon's nftables table "inet ftpctd": the rules that
// assign the helper to new control connections and send the control
// connections' packets to the queue. It touches no other table and needs no
// program. Everything happens in the network namespace of the calling thread.
package firewall

import (
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Config says what the rules are for.
type Config struct {
	// Ports are the servers' ports of control connections.
	Ports []uint16
	// Helper is the name of the kernel's conntrack helper that new control
	// connections are given, or empty for none.
	Helper string
	// QueueNum is the first queue, QueueCount how many there are, at least 1.
	QueueNum, QueueCount uint16
}

// Table is the installed table.
type Table struct {
	nft  *nftables.Conn // stays in the namespace that the table was installed in
	mode string
}

// Install makes the table, in place of one that a killed daemon left, in one
// step: there is no moment without rules, and if it fails nothing has changed.
//
// An error is an *[Error] that names what the kernel lacks; os.ErrPermission
// without CAP_NET_ADMIN.
func Install(cfg Config) (*Table, error) {
	queue, mode := nftQueue(cfg), "nft queue"
	if (feature{add: func(r ruleset, chain *nftables.Chain) { r.add(chain, []expr.Any{queue}) }}).probe() != nil {
		queue, mode = xtQueue(cfg), "xt NFQUEUE"
	}
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, newError("install", "", err)
	}
	// Adding what exists is no error, so that deleting is none either.
	nft.DelTable(nft.AddTable(newTable(tableName)))
	if err = addRuleset(nft, cfg, queue); err == nil {
		err = nft.Flush()
	}
	if err != nil {
		_ = nft.CloseLasting()
		return nil, newError("install", wanting(cfg, queue), err)
	}
	return &Table{nft: nft, mode: mode}, nil
}

// wanting returns the advice for the first feature that the kernel lacks.
func wanting(cfg Config, queue expr.Any) string {
	for _, f := range features(cfg, queue) {
		if f.probe() != nil {
			return f.advice
		}
	}
	return ""
}

// Mode tells how packets are queued: "nft queue", or "xt NFQUEUE" on a kernel
// without the former.
func (t *Table) Mode() string { return t.mode }

// Remove removes the table from the namespace that it was installed in. It is no
// error if somebody else has removed it. The Table cannot be used any more.
func (t *Table) Remove() error {
	return errors.Join(remove(t.nft), t.nft.CloseLasting())
}

// RemoveStale removes the table that a killed daemon left, if there is one.
func RemoveStale() error {
	nft, err := nftables.New()
	if err != nil {
		return newError("remove", "", err)
	}
	return remove(nft)
}

func remove(nft *nftables.Conn) error {
	nft.DelTable(newTable(tableName))
	if err := nft.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return newError("remove", "", err)
	}
	return nil
}

// Exists reports whether the table is there, whoever made it.
func Exists() (bool, error) {
	nft, err := nftables.New()
	if err != nil {
		return false, newError("list", "", err)
	}
	_, err = nft.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, newError("list", "", err)
	}
	return true, nil
}
