package ctnetlink

import (
	"time"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// Listed is an expectation as the kernel lists it. Expectations of every helper
// are listed, so the protocol need not be TCP.
type Listed struct {
	// Master is the original direction of the connection that expects.
	Master conntrack.Tuple
	// Tuple and Mask select the first packet of the expected connection: it
	// matches where it equals Tuple in the bits that Mask has set.
	Tuple, Mask conntrack.Tuple
	// Protocol is the IP protocol number of Tuple. Ports are 0 for a protocol
	// that has none.
	Protocol uint8
	// Timeout is what is left of the life of the expectation, in whole seconds.
	Timeout time.Duration
	// ID tells two expectations of one tuple apart that followed each other.
	ID uint32
	// Helper is the name of the helper whose policy applies, Class the number
	// of the policy.
	Helper string
	Class  uint32
	// Flags are the NF_CT_EXPECT_* bits of
	// include/uapi/linux/netfilter/nf_conntrack_common.h.
	Flags uint32
}

// parseExpect decodes what follows the netlink header of an
// IPCTNL_MSG_EXP_NEW message.
func parseExpect(data []byte) (Listed, error) {
	var e Listed
	var master, tuple, mask tupleAttr
	a := nfnetlink.Message{Body: data}.Attributes()
	for a.Next() {
		switch a.Type() {
		case ctaExpectMaster:
			a.Do(master.parse)
		case ctaExpectTuple:
			a.Do(tuple.parse)
		case ctaExpectMask:
			a.Do(mask.parse)
		case ctaExpectTimeout:
			e.Timeout = time.Duration(a.Uint32()) * time.Second
		case ctaExpectID:
			e.ID = a.Uint32()
		case ctaExpectHelpName:
			e.Helper = a.String()
		case ctaExpectFlags:
			e.Flags = a.Uint32()
		case ctaExpectClass:
			e.Class = a.Uint32()
		}
	}
	if err := a.Err(); err != nil {
		return Listed{}, err
	}
	e.Master, e.Tuple, e.Mask, e.Protocol = master.Tuple, tuple.Tuple, mask.Tuple, tuple.protocol
	return e, nil
}
