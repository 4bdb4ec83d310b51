package capture

import "encoding/binary"

// A linkType says what a frame begins with: a LINKTYPE_ value of the registry
// at tcpdump.org/linktypes.html.
type linkType uint16

// The link types that are read.
const (
	linkNull     linkType = 0   // BSD loopback, address family in the writer's byte order
	linkEthernet linkType = 1   // with 802.1Q and 802.1ad tags
	linkRawBSD   linkType = 12  // DLT_RAW of most systems
	linkRaw      linkType = 101 // IPv4 or IPv6
	linkLoop     linkType = 108 // OpenBSD loopback, address family in network byte order
	linkSLL      linkType = 113 // Linux cooked v1: the pseudo-device "any"
	linkIPv4     linkType = 228
	linkIPv6     linkType = 229
	linkSLL2     linkType = 276 // Linux cooked v2
)

// knownLinks names the link types for an error message.
const knownLinks = "Ethernet, Linux cooked v1 and v2, raw IP, BSD loopback"

// Lengths of the link headers, in bytes.
const (
	loopbackLen = 4
	ethernetLen = 14
	sllLen      = 16
	sll2Len     = 20
	vlanLen     = 4
)

// EtherTypes.
const (
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	etherVLAN   = 0x8100 // 802.1Q
	etherQinQ   = 0x88a8 // 802.1ad
	etherQinQ91 = 0x9100 // 802.1ad before it was a standard
)

// IP versions; 0 stands for either.
const (
	anyIP = 0
	ipv4  = 4
	ipv6  = 6
)

// known reports whether frames of the link type can be read.
func (l linkType) known() bool {
	switch l {
	case linkNull, linkEthernet, linkRawBSD, linkRaw, linkLoop, linkSLL, linkIPv4, linkIPv6, linkSLL2:
		return true
	}
	return false
}

// packet returns the IP packet in a frame, or nil if there is none.
func (l linkType) packet(frame []byte) []byte {
	switch l {
	case linkEthernet:
		if len(frame) >= ethernetLen {
			return ether(binary.BigEndian.Uint16(frame[12:]), frame[ethernetLen:])
		}
	case linkSLL:
		if len(frame) >= sllLen {
			return ether(binary.BigEndian.Uint16(frame[14:]), frame[sllLen:])
		}
	case linkSLL2:
		if len(frame) >= sll2Len {
			return ether(binary.BigEndian.Uint16(frame), frame[sll2Len:])
		}
	case linkNull, linkLoop:
		if len(frame) >= loopbackLen {
			return loopback([4]byte(frame), frame[loopbackLen:])
		}
	case linkRaw, linkRawBSD:
		return ip(anyIP, frame)
	case linkIPv4:
		return ip(ipv4, frame)
	case linkIPv6:
		return ip(ipv6, frame)
	}
	return nil
}

// ether returns the IP packet that follows an EtherType, under any number of
// VLAN tags.
func ether(typ uint16, b []byte) []byte {
	for typ == etherVLAN || typ == etherQinQ || typ == etherQinQ91 {
		if len(b) < vlanLen {
			return nil
		}
		typ = binary.BigEndian.Uint16(b[2:])
		b = b[vlanLen:]
	}
	switch typ {
	case etherIPv4:
		return ip(ipv4, b)
	case etherIPv6:
		return ip(ipv6, b)
	}
	return nil
}

// loopback returns the IP packet that follows an address family. A family is
// small, so that whichever byte order gives a small number is the right one.
// AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 24 on NetBSD and OpenBSD,
// 28 on FreeBSD and 30 on Darwin.
func loopback(family [4]byte, b []byte) []byte {
	switch min(binary.LittleEndian.Uint32(family[:]), binary.BigEndian.Uint32(family[:])) {
	case 2:
		return ip(ipv4, b)
	case 10, 24, 28, 30:
		return ip(ipv6, b)
	}
	return nil
}

// ip returns b without what follows the packet, if it begins like a packet of
// the IP version. The length fields are believed only where they shorten b:
// segmentation offload leaves 0 in them, and a snapshot length cuts b. A length
// field that cannot be right is left to the decoder to refuse.
func ip(version byte, b []byte) []byte {
	if len(b) == 0 || version != anyIP && b[0]>>4 != version {
		return nil
	}
	n := len(b)
	switch b[0] >> 4 {
	case ipv4:
		if header := 20; n >= header {
			if total := int(binary.BigEndian.Uint16(b[2:])); total >= header {
				n = min(n, total)
			}
		}
	case ipv6:
		if header := 40; n >= header {
			if payload := int(binary.BigEndian.Uint16(b[4:])); payload > 0 {
				n = min(n, header+payload)
			}
		}
	default:
		return nil
	}
	return b[:n]
}
