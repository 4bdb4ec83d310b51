package ctnetlink

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

var errNoTuple = errors.New("connection lacks the addresses of a direction")

// ParseConnection decodes the attributes of a connection (CTA_*), as a queue adds
// them to a packet (NFQA_CT) and as they follow struct nfgenmsg in a message of
// ctnetlink. It does not allocate. If it fails, c is undefined.
func ParseConnection(b []byte, c *conntrack.Connection) error {
	*c = conntrack.Connection{}
	var original, reply tupleAttr
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case ctaTupleOrig:
			a.Do(original.parse)
		case ctaTupleReply:
			a.Do(reply.parse)
		case ctaStatus:
			status := a.Uint32()
			c.Assured, c.Expected = status&ipsAssured != 0, status&ipsExpected != 0
		case ctaLabels:
			c.Unread = hasLabel(a.Bytes(), conntrack.UnreadLabel)
		case ctaID:
			c.ID = a.Uint32()
		case ctaProtoInfo:
			a.Do(func(b []byte) error { return parseProtoInfo(b, c) })
		}
	}
	if err := a.Err(); err != nil {
		return err
	}
	c.Original, c.Reply = original.Tuple, reply.Tuple
	for _, t := range [...]*conntrack.Tuple{&c.Original, &c.Reply} {
		if !t.Src.IsValid() || !t.Dst.IsValid() {
			return errNoTuple
		}
	}
	c.Zone = Zone(b)
	return nil
}

// parseConnection decodes the body of an IPCTNL_MSG_CT_NEW message.
func parseConnection(body []byte, c *conntrack.Connection) error {
	if len(body) < nfnetlink.GenmsgLen {
		return nfnetlink.ErrMessage
	}
	return ParseConnection(body[nfnetlink.GenmsgLen:], c)
}

// Zone returns the conntrack zone in the attributes of a connection, and parses
// nothing else. It is 0, the default zone, if there is no zone. For a zone of a
// single direction, that of the original direction counts.
func Zone(b []byte) (zone uint16) {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case ctaTupleOrig:
			t := nfnetlink.ParseAttributes(a.Bytes())
			for t.Next() {
				if t.Type() == ctaTupleZone {
					zone = t.Uint16()
				}
			}
		case ctaZone:
			zone = a.Uint16()
		}
	}
	return zone
}

// hasLabel reports whether a bitmap of labels has one of them.
func hasLabel(bitmap []byte, label uint) bool {
	want := Labels(label)
	word := label / 64 * 8
	return len(bitmap) == len(want) && binary.NativeEndian.Uint64(bitmap[word:])&binary.NativeEndian.Uint64(want[word:]) != 0
}

// tupleAttr is a nested attribute CTA_TUPLE_*. Ports are 0 for a protocol that has
// none.
type tupleAttr struct {
	conntrack.Tuple
	protocol uint8
}

func (t *tupleAttr) parse(b []byte) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case ctaTupleIP:
			a.Do(t.parseIP)
		case ctaTupleProto:
			a.Do(t.parseProto)
		}
	}
	return a.Err()
}

func (t *tupleAttr) parseIP(b []byte) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case ctaIPv4Src, ctaIPv6Src:
			t.Src = netip.AddrPortFrom(a.Addr(), t.Src.Port())
		case ctaIPv4Dst, ctaIPv6Dst:
			t.Dst = netip.AddrPortFrom(a.Addr(), t.Dst.Port())
		}
	}
	return a.Err()
}

func (t *tupleAttr) parseProto(b []byte) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case ctaProtoNum:
			t.protocol = a.Uint8()
		case ctaProtoSrcPort:
			t.Src = netip.AddrPortFrom(t.Src.Addr(), a.Uint16())
		case ctaProtoDstPort:
			t.Dst = netip.AddrPortFrom(t.Dst.Addr(), a.Uint16())
		}
	}
	return a.Err()
}

// parseProtoInfo decodes CTA_PROTOINFO of a TCP connection.
func parseProtoInfo(b []byte, c *conntrack.Connection) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		if a.Type() == ctaProtoInfoTCP {
			a.Do(func(b []byte) error { return parseTCP(b, c) })
		}
	}
	return a.Err()
}

// parseTCP decodes CTA_PROTOINFO_TCP: the state, and whether conntrack picked the
// connection up in the middle, when it accepts any sequence number (tcp_new in
// net/netfilter/nf_conntrack_proto_tcp.c).
func parseTCP(b []byte, c *conntrack.Connection) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case ctaTCPState:
			c.State = conntrack.TCPState(a.Uint8())
		case ctaTCPFlagsOriginal, ctaTCPFlagsReply:
			// struct nf_ct_tcp_flags: the flags, and their mask.
			c.PickedUp = c.PickedUp || a.Uint16()>>8&tcpBeLiberal != 0
		}
	}
	return a.Err()
}
