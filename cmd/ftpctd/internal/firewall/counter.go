package firewall

import (
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Names of the table's counters: "nft list counters table inet ftpctd".
const (
	counterSpoofed     = "spoofed"
	counterSANERequest = "sane-request"
	counterFastOpen    = "fast-open"
)

// Counters are the packets that the rules kept away from the daemon or the carrier.
type Counters struct {
	// Spoofed failed the source address check ([AntiSpoof]), and passed unread.
	Spoofed uint64
	// SANERequests were dropped: they would have set the kernel's helper "sane" off.
	SANERequests uint64
	// FastOpens were dropped: SYNs with data, which their senders send again without.
	FastOpens uint64
}

func (c Counters) plus(d Counters) Counters {
	return Counters{c.Spoofed + d.Spoofed, c.SANERequests + d.SANERequests, c.FastOpens + d.FastOpens}
}

// Counters returns the packets counted since Install. If somebody removed the table,
// those that it counted after the previous call are lost. After Remove it returns the
// result of the previous call.
func (t *Table) Counters() (Counters, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nft != nil {
		now, err := readCounters(t.nft)
		switch {
		case err == nil:
			t.last = now
		case !errors.Is(err, unix.ENOENT): // the next Restore sees to it
			return Counters{}, err
		}
	}
	return t.before.plus(t.last), nil
}

// ReadCounters returns what the rules of a daemon that runs in the network namespace
// of the calling thread have counted. The error is ENOENT if there is no table.
func ReadCounters() (Counters, error) {
	nft, err := nftables.New()
	if err != nil {
		return Counters{}, newError(OpList, err)
	}
	return readCounters(nft)
}

func readCounters(nft *nftables.Conn) (Counters, error) {
	// The objects of a table that is gone are an empty list.
	table, err := nft.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	if err != nil {
		return Counters{}, newError(OpList, err)
	}
	objects, err := nft.GetNamedObjects(table)
	if err != nil {
		return Counters{}, newError(OpList, err)
	}
	var c Counters
	for _, o := range objects {
		named, ok := o.(*nftables.NamedObj)
		if !ok {
			continue
		}
		counter, ok := named.Obj.(*expr.Counter)
		if !ok {
			continue
		}
		switch named.Name {
		case counterSpoofed:
			c.Spoofed = counter.Packets
		case counterSANERequest:
			c.SANERequests = counter.Packets
		case counterFastOpen:
			c.FastOpens = counter.Packets
		}
	}
	return c, nil
}

// addCounter adds a named counter.
func (r builder) addCounter(name string) {
	r.nft.AddObj(&nftables.NamedObj{Table: r.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
}

// count counts a packet with a counter of the table.
func (r builder) count(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}}
}
