package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Hook is a point in a host's packet path where a Firewall filters.
type Hook uint8

// The hooks, in the kernel's terms.
const (
	Input   Hook = iota + 1 // packets to the host itself
	Forward                 // packets through the host
	Output                  // packets from the host itself
)

// String returns the kernel's name of the hook.
func (h Hook) String() string {
	switch h {
	case Input:
		return "input"
	case Forward:
		return "forward"
	case Output:
		return "output"
	}
	return fmt.Sprintf("Hook(%d)", uint8(h))
}

// number returns the kernel's number of the hook (enum nf_inet_hooks).
func (h Hook) number() *nftables.ChainHook {
	switch h {
	case Input:
		return nftables.ChainHookInput
	case Forward:
		return nftables.ChainHookForward
	case Output:
		return nftables.ChainHookOutput
	}
	panic("lab: no such hook: " + h.String())
}

// ControlPort is the port of FTP control connections, the only one that a
// Firewall opens.
const ControlPort = 21

// tableName is the Firewall's table. A daemon under test has another.
const tableName = "lab"

// The named counters of the table. They count TCP packets.
const (
	counterRelated = "related" // accepted by ct state related
	counterDropped = "dropped" // reached the chain's policy
)

// Firewall is an nftables table "inet lab" on a host. In each of its hooks it
// accepts
//
//	ct state established,related
//	tcp dport 21 ct state new
//
// and the loopback and IPv6 neighbour discovery. The policy decides on the rest.
type Firewall struct {
	host  *Host
	table *nftables.Table
}

// DropFirewall installs a firewall with the policy DROP on the host, in the given
// hooks. A host has at most one Firewall.
func (h *Host) DropFirewall(hooks ...Hook) (*Firewall, error) {
	return h.firewall(nftables.ChainPolicyDrop, hooks)
}

// OpenFirewall is DropFirewall with the policy ACCEPT: packets pass the same rules
// and counters, and none is dropped. It is the baseline of a benchmark.
func (h *Host) OpenFirewall(hooks ...Hook) (*Firewall, error) {
	return h.firewall(nftables.ChainPolicyAccept, hooks)
}

func (h *Host) firewall(policy nftables.ChainPolicy, hooks []Hook) (*Firewall, error) {
	f := &Firewall{
		host:  h,
		table: &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName},
	}
	conn := f.conn()
	// CreateTable, unlike AddTable, fails if the table exists.
	conn.CreateTable(f.table)
	for _, name := range []string{counterRelated, counterDropped} {
		conn.AddObj(f.counter(name))
	}
	for _, hook := range hooks {
		f.addChain(conn, hook, policy)
	}
	if err := conn.Flush(); err != nil {
		return nil, &OpError{Op: fmt.Sprintf("add firewall %v", hooks), Host: h.name, Err: err}
	}
	return f, nil
}

// conn returns an empty batch of changes to the host's tables. It holds no socket:
// an open one would keep the namespace alive.
func (f *Firewall) conn() *nftables.Conn {
	return &nftables.Conn{NetNS: f.host.NetNS()}
}

func (f *Firewall) counter(name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: f.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

func (f *Firewall) addChain(conn *nftables.Conn, hook Hook, policy nftables.ChainPolicy) {
	chain := conn.AddChain(&nftables.Chain{
		Table: f.table, Name: hook.String(), Type: nftables.ChainTypeFilter,
		Hooknum: hook.number(), Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	switch hook {
	case Input:
		addRule(conn, chain, loopback(expr.MetaKeyIIFTYPE), accept())
	case Output:
		addRule(conn, chain, loopback(expr.MetaKeyOIFTYPE), accept())
	}
	addRule(conn, chain, CtState(expr.CtStateBitESTABLISHED), accept())
	addRule(conn, chain, l4proto(unix.IPPROTO_TCP), CtState(expr.CtStateBitRELATED), count(counterRelated), accept())
	// ICMP errors are RELATED, too, but must not count as data connections.
	addRule(conn, chain, CtState(expr.CtStateBitRELATED), accept())
	addRule(conn, chain, ToControlPort(), CtState(expr.CtStateBitNEW), accept())
	addRule(conn, chain, neighbourDiscovery(), accept())
	addRule(conn, chain, l4proto(unix.IPPROTO_TCP), count(counterDropped))
}

// AssignHelper adds rules that assign a conntrack helper to new control
// connections. With "ftp" that is nf_conntrack_ftp, the baseline for this project,
// where the kernel has it. It wraps unix.ENOENT where there is no such helper.
func (f *Firewall) AssignHelper(name string) error {
	conn := f.conn()
	conn.AddObj(&nftables.NamedObj{
		Table: f.table, Name: name, Type: nftables.ObjTypeCtHelper,
		Obj: &expr.CtHelper{Name: name, L4Proto: unix.IPPROTO_TCP},
	})
	for chainName, hook := range map[string]*nftables.ChainHook{
		"helper-prerouting": nftables.ChainHookPrerouting,
		"helper-output":     nftables.ChainHookOutput,
	} {
		chain := conn.AddChain(&nftables.Chain{
			Table: f.table, Name: chainName, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityMangle,
		})
		addRule(conn, chain, ToControlPort(), CtState(expr.CtStateBitNEW), []expr.Any{
			&expr.Objref{Type: int(nftables.ObjTypeCtHelper), Name: name},
		})
	}
	if err := conn.Flush(); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("the kernel has no such helper (ftp needs CONFIG_NF_CONNTRACK_FTP): %w", unix.ENOENT)
		}
		return &OpError{Op: "assign helper " + name, Host: f.host.name, Err: err}
	}
	return nil
}

// Related returns the number of TCP packets accepted as RELATED: one for each data
// connection, because the packets after the first are ESTABLISHED. A retransmitted
// SYN counts again.
func (f *Firewall) Related() (packets uint64, err error) { return f.read(counterRelated) }

// Dropped returns the number of TCP packets that reached the policy.
func (f *Firewall) Dropped() (packets uint64, err error) { return f.read(counterDropped) }

// AwaitRise returns nil as soon as a counter, such as Firewall.Dropped, has risen above
// a value, and an error if ctx ends before or the counter cannot be read.
func AwaitRise(ctx context.Context, counter func() (uint64, error), value uint64) error {
	const interval = 2 * time.Millisecond
	for {
		if n, err := counter(); err != nil || n > value {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}

func (f *Firewall) read(name string) (uint64, error) {
	obj, err := f.conn().GetObject(f.counter(name))
	if err != nil {
		return 0, &OpError{Op: "read counter " + name, Host: f.host.name, Err: err}
	}
	if named, ok := obj.(*nftables.NamedObj); ok {
		if c, ok := named.Obj.(*expr.Counter); ok {
			return c.Packets, nil
		}
	}
	return 0, &OpError{Op: "read counter " + name, Host: f.host.name, Err: fmt.Errorf("the kernel returned a %T", obj)}
}

// Close removes the firewall. Lab.Close does not require it.
func (f *Firewall) Close() error {
	conn := f.conn()
	conn.DelTable(f.table)
	if err := conn.Flush(); err != nil {
		return &OpError{Op: "remove firewall", Host: f.host.name, Err: err}
	}
	return nil
}
