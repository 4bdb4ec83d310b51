package ctnetlink

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/mdlayher/netlink"

	"ftpctd/conntrack"
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

var errShortMessage = errors.New("message ends within its header")

// parseExpect decodes what follows the netlink header of an
// IPCTNL_MSG_EXP_NEW message.
func parseExpect(data []byte) (Listed, error) {
	var e Listed
	var master, tuple, mask tupleAttr
	ad, err := attributes(data)
	if err != nil {
		return Listed{}, err
	}
	for ad.Next() {
		switch ad.Type() {
		case ctaExpectMaster:
			ad.Do(master.parse)
		case ctaExpectTuple:
			ad.Do(tuple.parse)
		case ctaExpectMask:
			ad.Do(mask.parse)
		case ctaExpectTimeout:
			e.Timeout = time.Duration(ad.Uint32()) * time.Second
		case ctaExpectID:
			e.ID = ad.Uint32()
		case ctaExpectHelpName:
			e.Helper = ad.String()
		case ctaExpectFlags:
			e.Flags = ad.Uint32()
		case ctaExpectClass:
			e.Class = ad.Uint32()
		}
	}
	if err := ad.Err(); err != nil {
		return Listed{}, err
	}
	e.Master, e.Tuple, e.Mask, e.Protocol = master.Tuple, tuple.Tuple, mask.Tuple, tuple.protocol
	return e, nil
}

func attributes(data []byte) (*netlink.AttributeDecoder, error) {
	if len(data) < genmsgLen {
		return nil, errShortMessage
	}
	ad, err := netlink.NewAttributeDecoder(data[genmsgLen:])
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	return ad, nil
}
