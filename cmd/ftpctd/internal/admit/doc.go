// Package admit makes announced data connections RELATED, in one of the admission modes:
// [Expect] inserts expectations into the kernel's table, and with [Entry] a data
// connection gets its conntrack entry ahead of its first packet. [Choose] chooses the
// mode.
package admit
