package ctnetlink

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"ftpctd/conntrack"
)

var (
	errAttribute = errors.New("attribute is cut short")
	errAddress   = errors.New("address is neither 4 nor 16 bytes long")
	errNoTuple   = errors.New("connection lacks the addresses of a direction")
)

// typeMask takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off the type of an
// attribute.
const typeMask = 0x3fff

// ParseConnection decodes the attributes of a connection (CTA_*), as they come
// with a packet of a queue (NFQA_CT) and behind struct nfgenmsg in a message of
// ctnetlink. It allocates nothing. If it fails, c is undefined.
func ParseConnection(b []byte, c *conntrack.Connection) error {
	*c = conntrack.Connection{}
	err := eachAttr(b, func(typ uint16, value []byte) error {
		var t tupleAttr
		var err error
		switch typ {
		case ctaTupleOrig:
			err = t.parse(value)
			c.Original = t.Tuple
		case ctaTupleReply:
			err = t.parse(value)
			c.Reply = t.Tuple
		case ctaStatus:
			var status uint32
			err = parseUint32(value, &status)
			c.Assured, c.Expected = status&ipsAssured != 0, status&ipsExpected != 0
		case ctaLabels:
			unread := Labels(conntrack.UnreadLabel)
			c.Unread = len(value) == len(unread) && binary.NativeEndian.Uint64(value[8:])&binary.NativeEndian.Uint64(unread[8:]) != 0
		case ctaID:
			err = parseUint32(value, &c.ID)
		case ctaProtoInfo:
			err = parseTCP(value, c)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range [...]netip.AddrPort{c.Original.Src, c.Original.Dst, c.Reply.Src, c.Reply.Dst} {
		if !a.IsValid() {
			return errNoTuple
		}
	}
	c.Zone = Zone(b)
	return nil
}

// Zone finds the conntrack zone in the attributes of a connection, without
// reading more than that. It is 0, the default, where none is named. Of a zone
// that holds for one direction alone, that of the original direction counts.
func Zone(b []byte) (zone uint16) {
	_ = eachAttr(b, func(typ uint16, value []byte) error {
		switch {
		case typ == ctaTupleOrig:
			return eachAttr(value, func(typ uint16, value []byte) error {
				if typ == ctaTupleZone && len(value) == 2 {
					zone = binary.BigEndian.Uint16(value)
				}
				return nil
			})
		case typ == ctaZone && len(value) == 2:
			zone = binary.BigEndian.Uint16(value)
		}
		return nil
	})
	return zone
}

// tupleAttr is what a nested attribute CTA_TUPLE_* says. Ports are 0 for a
// protocol that has none.
type tupleAttr struct {
	conntrack.Tuple
	protocol uint8
}

func (t *tupleAttr) parse(b []byte) error {
	var src, dst netip.Addr
	var sport, dport uint16
	err := eachAttr(b, func(typ uint16, value []byte) error {
		switch typ {
		case ctaTupleIP:
			return eachAttr(value, func(typ uint16, value []byte) error {
				switch typ {
				case ctaIPv4Src, ctaIPv6Src:
					return parseAddr(value, &src)
				case ctaIPv4Dst, ctaIPv6Dst:
					return parseAddr(value, &dst)
				}
				return nil
			})
		case ctaTupleProto:
			return eachAttr(value, func(typ uint16, value []byte) error {
				switch typ {
				case ctaProtoNum:
					if len(value) != 1 {
						return errAttribute
					}
					t.protocol = value[0]
				case ctaProtoSrcPort:
					return parseUint16(value, &sport)
				case ctaProtoDstPort:
					return parseUint16(value, &dport)
				}
				return nil
			})
		}
		return nil
	})
	t.Src, t.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return err
}

func parseAddr(b []byte, a *netip.Addr) error {
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return errAddress
	}
	*a = addr
	return nil
}

func parseUint16(b []byte, v *uint16) error {
	if len(b) != 2 {
		return errAttribute
	}
	*v = binary.BigEndian.Uint16(b)
	return nil
}

func parseUint32(b []byte, v *uint32) error {
	if len(b) != 4 {
		return errAttribute
	}
	*v = binary.BigEndian.Uint32(b)
	return nil
}

// parseTCP finds the state of a TCP connection in CTA_PROTOINFO, and whether conntrack
// picked it up: then it takes the sequence numbers as they come (tcp_new of
// net/netfilter/nf_conntrack_proto_tcp.c).
func parseTCP(b []byte, c *conntrack.Connection) error {
	return eachAttr(b, func(typ uint16, value []byte) error {
		if typ != ctaProtoInfoTCP {
			return nil
		}
		return eachAttr(value, func(typ uint16, value []byte) error {
			switch typ {
			case ctaTCPState:
				if len(value) != 1 {
					return errAttribute
				}
				c.State = conntrack.TCPState(value[0])
			case ctaTCPFlagsOriginal, ctaTCPFlagsReply:
				if len(value) != 2 { // struct nf_ct_tcp_flags: flags and mask
					return errAttribute
				}
				c.PickedUp = c.PickedUp || value[0]&tcpBeLiberal != 0
			}
			return nil
		})
	})
}

// eachAttr calls f for each attribute in b.
func eachAttr(b []byte, f func(typ uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrLen {
			return errAttribute
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrLen || n > len(b) {
			return errAttribute
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&typeMask, b[attrLen:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}
