package ctnetlink

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

var (
	errAddress = errors.New("address is neither 4 nor 16 bytes long")
	errNoTuple = errors.New("connection lacks the addresses of a direction")
)

// ParseConnection decodes the attributes of a connection (CTA_*), as a queue adds
// them to a packet (NFQA_CT) and as they follow struct nfgenmsg in a message of
// ctnetlink. It does not allocate. If it fails, c is undefined.
func ParseConnection(b []byte, c *conntrack.Connection) error {
	*c = conntrack.Connection{}
	err := nfnetlink.EachAttr(b, func(a nfnetlink.Attr) (err error) {
		var t tupleAttr
		switch a.Type {
		case ctaTupleOrig:
			err = t.parse(a.Value)
			c.Original = t.Tuple
		case ctaTupleReply:
			err = t.parse(a.Value)
			c.Reply = t.Tuple
		case ctaStatus:
			var status uint32
			status, err = a.Uint32()
			c.Assured, c.Expected = status&ipsAssured != 0, status&ipsExpected != 0
		case ctaLabels:
			unread := Labels(conntrack.UnreadLabel)
			c.Unread = len(a.Value) == len(unread) && binary.NativeEndian.Uint64(a.Value[8:])&binary.NativeEndian.Uint64(unread[8:]) != 0
		case ctaID:
			c.ID, err = a.Uint32()
		case ctaProtoInfo:
			err = parseProtoInfo(a.Value, c)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range [...]*conntrack.Tuple{&c.Original, &c.Reply} {
		if !t.Src.IsValid() || !t.Dst.IsValid() {
			return errNoTuple
		}
	}
	c.Zone = Zone(b)
	return nil
}

// parseConnection decodes the body of an IPCTNL_MSG_CT_NEW message.
func parseConnection(body []byte) (c conntrack.Connection, err error) {
	b, err := nfnetlink.Message{Body: body}.Attributes()
	if err == nil {
		err = ParseConnection(b, &c)
	}
	return c, err
}

// Zone returns the conntrack zone in the attributes of a connection, and reads
// nothing else. It is 0, the default zone, if they name none. Of a zone that is one
// direction's alone, that of the original direction counts.
func Zone(b []byte) (zone uint16) {
	for a, b, ok := nfnetlink.NextAttr(b); ok; a, b, ok = nfnetlink.NextAttr(b) {
		switch {
		case a.Type == ctaTupleOrig:
			for t, b, ok := nfnetlink.NextAttr(a.Value); ok; t, b, ok = nfnetlink.NextAttr(b) {
				if t.Type == ctaTupleZone && len(t.Value) == 2 {
					zone = binary.BigEndian.Uint16(t.Value)
				}
			}
		case a.Type == ctaZone && len(a.Value) == 2:
			zone = binary.BigEndian.Uint16(a.Value)
		}
	}
	return zone
}

// tupleAttr is a nested attribute CTA_TUPLE_*. Ports are 0 for a protocol that has
// none.
type tupleAttr struct {
	conntrack.Tuple
	protocol uint8
}

func (t *tupleAttr) parse(b []byte) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) error {
		switch a.Type {
		case ctaTupleIP:
			return t.parseIP(a.Value)
		case ctaTupleProto:
			return t.parseProto(a.Value)
		}
		return nil
	})
}

func (t *tupleAttr) parseIP(b []byte) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) error {
		switch a.Type {
		case ctaIPv4Src, ctaIPv6Src:
			return setAddr(&t.Src, a.Value)
		case ctaIPv4Dst, ctaIPv6Dst:
			return setAddr(&t.Dst, a.Value)
		}
		return nil
	})
}

// setAddr sets the address of p and keeps its port.
func setAddr(p *netip.AddrPort, b []byte) error {
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return errAddress
	}
	*p = netip.AddrPortFrom(addr, p.Port())
	return nil
}

func (t *tupleAttr) parseProto(b []byte) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) (err error) {
		var port uint16
		switch a.Type {
		case ctaProtoNum:
			t.protocol, err = a.Uint8()
		case ctaProtoSrcPort:
			port, err = a.Uint16()
			t.Src = netip.AddrPortFrom(t.Src.Addr(), port)
		case ctaProtoDstPort:
			port, err = a.Uint16()
			t.Dst = netip.AddrPortFrom(t.Dst.Addr(), port)
		}
		return err
	})
}

// parseProtoInfo decodes CTA_PROTOINFO of a TCP connection: its state, and whether
// conntrack picked it up in the middle, and therefore accepts any sequence number
// (tcp_new in net/netfilter/nf_conntrack_proto_tcp.c).
func parseProtoInfo(b []byte, c *conntrack.Connection) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) error {
		if a.Type != ctaProtoInfoTCP {
			return nil
		}
		return nfnetlink.EachAttr(a.Value, func(a nfnetlink.Attr) error {
			switch a.Type {
			case ctaTCPState:
				state, err := a.Uint8()
				c.State = conntrack.TCPState(state)
				return err
			case ctaTCPFlagsOriginal, ctaTCPFlagsReply:
				if len(a.Value) != 2 { // struct nf_ct_tcp_flags: flags and mask
					return nfnetlink.ErrAttribute
				}
				c.PickedUp = c.PickedUp || a.Value[0]&tcpBeLiberal != 0
			}
			return nil
		})
	})
}
