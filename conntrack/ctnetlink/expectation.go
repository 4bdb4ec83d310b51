package ctnetlink

import (
	"time"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// ExpectationEntry is an expectation in the kernel's table. It may be any helper's, so
// the protocol need not be TCP.
type ExpectationEntry struct {
	// Master is the original direction of the connection that expects it.
	Master conntrack.Tuple
	// Tuple and Mask select the first packet of the expected connection: it
	// matches where it equals Tuple in the bits that Mask has set.
	Tuple, Mask conntrack.Tuple
	// Protocol is the IP protocol number of Tuple. Ports are 0 for a protocol
	// that has none.
	Protocol uint8
	// Timeout is the time until it expires, in whole seconds.
	Timeout time.Duration
	// ID differs for two expectations that had the same tuple one after the other.
	ID uint32
	// Helper is the name of the helper whose policy applies, Class the number
	// of the policy.
	Helper string
	Class  uint32
	// Flags are the NF_CT_EXPECT_* bits of
	// include/uapi/linux/netfilter/nf_conntrack_common.h.
	Flags uint32
}

// parseExpect decodes the body of an IPCTNL_MSG_EXP_NEW message.
func parseExpect(body []byte) (ExpectationEntry, error) {
	var e ExpectationEntry
	var master, tuple, mask tupleAttr
	err := eachAttr(body, func(a nfnetlink.Attr) (err error) {
		switch a.Type {
		case ctaExpectMaster:
			err = master.parse(a.Value)
		case ctaExpectTuple:
			err = tuple.parse(a.Value)
		case ctaExpectMask:
			err = mask.parse(a.Value)
		case ctaExpectTimeout:
			e.Timeout, err = seconds(a)
		case ctaExpectID:
			e.ID, err = a.Uint32()
		case ctaExpectHelpName:
			e.Helper = a.Text()
		case ctaExpectFlags:
			e.Flags, err = a.Uint32()
		case ctaExpectClass:
			e.Class, err = a.Uint32()
		}
		return err
	})
	if err != nil {
		return ExpectationEntry{}, err
	}
	e.Master, e.Tuple, e.Mask, e.Protocol = master.Tuple, tuple.Tuple, mask.Tuple, tuple.protocol
	return e, nil
}

// eachAttr calls f with each attribute in the body of a message.
func eachAttr(body []byte, f func(nfnetlink.Attr) error) error {
	b, err := nfnetlink.Message{Body: body}.Attributes()
	if err != nil {
		return err
	}
	return nfnetlink.EachAttr(b, f)
}

func seconds(a nfnetlink.Attr) (time.Duration, error) {
	n, err := a.Uint32()
	return time.Duration(n) * time.Second, err
}
