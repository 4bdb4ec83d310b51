package firewall

import (
	"errors"
	"maps"
	"time"

	"ftpctd/nfq/nfnetlink"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// hooks are the two base chains ahead of conntrack, which jump to the chains "data" and
// "data-arriving". Every TCP packet of the host comes there: so they exist only while there
// are elements for them to find. They are added in one transaction with the first element,
// and deleted once there has been none for a while.
type hooks struct {
	add, del []byte // the messages for that

	exist bool
	// live are the elements, without their Timeout, and when they expire.
	live map[Change]time.Time
	idle bool      // there was no element at the last check
	next time.Time // of the checks
}

// Names of the hooks.
const (
	hookPrerouting = "data-prerouting"
	hookOutput     = "data-output"
)

// idleFor is how long there must have been no element before the hooks are deleted, at
// least.
const idleFor = time.Minute

// newHooks renders the messages for a table with the configuration cfg.
func newHooks(cfg Config) (hooks, error) {
	arriving := chainData
	if cfg.AntiSpoof != AntiSpoofOff {
		arriving = chainDataArriving
	}
	var h hooks
	for _, base := range []struct {
		name string
		hook uint32
		jump string
	}{
		{hookPrerouting, unix.NF_INET_PRE_ROUTING, arriving},
		{hookOutput, unix.NF_INET_LOCAL_OUT, chainData},
	} {
		h.add = appendBaseChain(h.add, base.name, base.hook, priorityData)
		var err error
		if h.add, err = appendRule(h.add, base.name, dataSYN(base.jump)); err != nil {
			return hooks{}, err
		}
		h.del = appendDeleteChain(h.del, base.name)
	}
	return h, nil
}

// needed reports whether the hooks are to be added ahead of changes.
func (h *hooks) needed(changes []Change) bool {
	for i := range changes {
		if changes[i].Timeout > 0 {
			return !h.exist
		}
	}
	return false
}

func (h *hooks) added(now time.Time) {
	h.exist, h.idle, h.next = true, false, now.Add(idleFor)
	h.live = make(map[Change]time.Time)
}

// record notes changes that were made.
func (h *hooks) record(now time.Time, changes []Change) {
	for i := range changes {
		c := changes[i]
		key := Change{Src: c.Src.Unmap(), Dst: c.Dst.Unmap(), Port: c.Port}
		if c.Timeout > 0 {
			h.live[key] = now.Add(c.Timeout)
			h.idle = false
		} else {
			delete(h.live, key)
		}
	}
}

// areIdle reports whether there has been no element for idleFor. It looks once in that
// time.
func (h *hooks) areIdle(now time.Time) bool {
	if !h.exist || now.Before(h.next) {
		return false
	}
	h.next = now.Add(idleFor)
	maps.DeleteFunc(h.live, func(_ Change, expires time.Time) bool { return !expires.After(now) })
	wasIdle := h.idle
	h.idle = len(h.live) == 0
	return wasIdle && h.idle
}

// gone notes that the hooks went, with their table or alone.
func (h *hooks) gone() { h.exist, h.idle, h.live = false, false, nil }

// deleteIdleHooks deletes the hooks if they are idle. It costs the packets that wait in a
// queue of the network namespace at that moment: the kernel drops them when any hook goes
// (nf_queue_nf_hook_drop of net/netfilter/nf_queue.c), for TCP to send again.
func (s *elements) deleteIdleHooks() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hooks.areIdle(s.now()) {
		return nil
	}
	b := appendBatch(s.out[:0], unix.NFNL_MSG_BATCH_BEGIN)
	s.out = appendBatch(append(b, s.hooks.del...), unix.NFNL_MSG_BATCH_END)
	if err := s.send(s.out); err != nil && !errors.Is(err, unix.ENOENT) { // else they went with the table
		return newError(OpDelete, err)
	}
	s.hooks.gone()
	return nil
}

// hooked reports whether the hooks were added, and are to exist.
func (s *elements) hooked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hooks.exist
}

// replace calls load, which replaces the table.
func (s *elements) replace(load func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks.gone()
	return load()
}

// appendBaseChain appends an NFT_MSG_NEWCHAIN message for a chain of the type filter, whose
// policy is to accept.
func appendBaseChain(b []byte, name string, hook uint32, priority int32) []byte {
	start := len(b)
	b = appendHeader(b, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	b = nfnetlink.AppendString(b, unix.NFTA_CHAIN_TABLE, tableName)
	b = nfnetlink.AppendString(b, unix.NFTA_CHAIN_NAME, name)
	nested := len(b)
	b = nfnetlink.AppendNest(b, unix.NFTA_CHAIN_HOOK)
	b = nfnetlink.AppendUint32(b, unix.NFTA_HOOK_HOOKNUM, hook)
	b = nfnetlink.AppendUint32(b, unix.NFTA_HOOK_PRIORITY, uint32(priority))
	b = nfnetlink.EndAttr(b, nested)
	b = nfnetlink.AppendString(b, unix.NFTA_CHAIN_TYPE, "filter")
	return nfnetlink.EndMessage(b, start)
}

// appendDeleteChain appends an NFT_MSG_DELCHAIN message. The rules of a base chain go with
// it.
func appendDeleteChain(b []byte, name string) []byte {
	start := len(b)
	b = appendHeader(b, unix.NFT_MSG_DELCHAIN, 0)
	b = nfnetlink.AppendString(b, unix.NFTA_CHAIN_TABLE, tableName)
	b = nfnetlink.AppendString(b, unix.NFTA_CHAIN_NAME, name)
	return nfnetlink.EndMessage(b, start)
}

// appendRule appends an NFT_MSG_NEWRULE message for a rule at the end of a chain.
func appendRule(b []byte, chain string, exprs []expr.Any) ([]byte, error) {
	start := len(b)
	b = appendHeader(b, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	b = nfnetlink.AppendString(b, unix.NFTA_RULE_TABLE, tableName)
	b = nfnetlink.AppendString(b, unix.NFTA_RULE_CHAIN, chain)
	list := len(b)
	b = nfnetlink.AppendNest(b, unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range exprs {
		data, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nil, err
		}
		b = nfnetlink.AppendBytes(b, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, data)
	}
	b = nfnetlink.EndAttr(b, list)
	return nfnetlink.EndMessage(b, start), nil
}
