package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flags are the flags of a TCP header (RFC 9293 section 3.1).
type Flags uint8

// The flags, with their bits in the header.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// DefaultTTL is the TTL or hop limit of a Segment whose TTL is 0.
const DefaultTTL = 64

// Segment is a TCP segment without options in an IPv4 or IPv6 packet without options.
// Both addresses have the same family.
type Segment struct {
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	Flags    Flags
	Data     []byte
	// Closed sets the window to 0 instead of 65535.
	Closed bool
	// TTL is the TTL or hop limit; 0 means DefaultTTL.
	TTL uint8
}

// Next returns the sequence number that follows the segment.
func (s Segment) Next() uint32 {
	next := s.Seq + uint32(len(s.Data))
	if s.Flags&SYN != 0 {
		next++
	}
	if s.Flags&FIN != 0 {
		next++
	}
	return next
}

// String describes the segment on one line.
func (s Segment) String() string {
	return fmt.Sprintf("%s > %s flags %#x seq %d ack %d ttl %d %q", s.Src, s.Dst, uint8(s.Flags), s.Seq, s.Ack, s.TTL, s.Data)
}

// packet returns the segment as an IP packet with checksums.
func (s Segment) packet() ([]byte, error) {
	ttl := s.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(s.Src.Port()), DstPort: layers.TCPPort(s.Dst.Port()),
		Seq: s.Seq, Ack: s.Ack, Window: 65535,
		FIN: s.Flags&FIN != 0, SYN: s.Flags&SYN != 0, RST: s.Flags&RST != 0,
		PSH: s.Flags&PSH != 0, ACK: s.Flags&ACK != 0,
	}
	if s.Closed {
		tcp.Window = 0
	}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	if s.Src.Addr().Is4() {
		ip = &layers.IPv4{
			Version: 4, TTL: ttl, Protocol: layers.IPProtocolTCP, Flags: layers.IPv4DontFragment,
			SrcIP: s.Src.Addr().AsSlice(), DstIP: s.Dst.Addr().AsSlice(),
		}
	} else {
		ip = &layers.IPv6{
			Version: 6, HopLimit: ttl, NextHeader: layers.IPProtocolTCP,
			SrcIP: s.Src.Addr().AsSlice(), DstIP: s.Dst.Addr().AsSlice(),
		}
	}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		ip, tcp, gopacket.Payload(s.Data))
	return b.Bytes(), err
}

// parseSegment returns the TCP segment in an IP packet, or false if there is none. Its
// data is a copy.
func parseSegment(packet []byte) (Segment, bool) {
	if len(packet) == 0 {
		return Segment{}, false
	}
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if packet[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(packet, first, gopacket.Lazy)
	tcp, ok := p.TransportLayer().(*layers.TCP)
	if !ok {
		return Segment{}, false
	}
	s := Segment{Seq: tcp.Seq, Ack: tcp.Ack, Data: tcp.Payload, Closed: tcp.Window == 0}
	var src, dst net.IP
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst, s.TTL = ip.SrcIP, ip.DstIP, ip.TTL
	case *layers.IPv6:
		src, dst, s.TTL = ip.SrcIP, ip.DstIP, ip.HopLimit
	}
	for flag, set := range map[Flags]bool{FIN: tcp.FIN, SYN: tcp.SYN, RST: tcp.RST, PSH: tcp.PSH, ACK: tcp.ACK} {
		if set {
			s.Flags |= flag
		}
	}
	from, ok1 := netip.AddrFromSlice(src)
	to, ok2 := netip.AddrFromSlice(dst)
	s.Src = netip.AddrPortFrom(from, uint16(tcp.SrcPort))
	s.Dst = netip.AddrPortFrom(to, uint16(tcp.DstPort))
	return s, ok1 && ok2
}

// Wire is the link of an end host to the router, for packets that no kernel would
// send, with forged addresses or arbitrary sequence numbers. Close closes it.
type Wire struct {
	host   *Host
	socket *os.File
	header []byte // of Ethernet, without the type
}

// OpenWire opens the link of the client or the server and routes the prefixes to it.
// No host answers at their addresses: the kernel discards packets to them, so that a
// test can play both ends of a connection.
func (l *Lab) OpenWire(h *Host, prefixes ...netip.Prefix) (*Wire, error) {
	w := &Wire{host: h}
	fail := func(err error) (*Wire, error) {
		return nil, &OpError{Op: "open wire", Host: h.name, Err: err}
	}
	peer := l.Client
	if h == l.Client {
		peer = l.Server
	}
	err := l.Router.Do(func() error {
		link, err := netlink.LinkByName(h.name)
		if err != nil {
			return err
		}
		w.header = append(w.header, link.Attrs().HardwareAddr...)
		for _, prefix := range prefixes {
			if err := addGateway(link, prefix, h.addrLike(prefix)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	err = peer.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, prefix := range prefixes {
			gateway, _ := netip.AddrFromSlice(gatewayIPv6)
			if prefix.Addr().Is4() {
				gateway, _ = netip.AddrFromSlice(gatewayIPv4.To4())
			}
			if err := addGateway(link, prefix, gateway); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	err = h.Do(func() (err error) {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		w.header = append(w.header, link.Attrs().HardwareAddr...)
		w.socket, err = openPacketSocket(unix.SOCK_RAW, 0, link.Attrs().Index)
		return err
	})
	if err != nil {
		return fail(err)
	}
	return w, nil
}

// addrLike returns the host's address of a prefix's family.
func (h *Host) addrLike(prefix netip.Prefix) netip.Addr {
	if prefix.Addr().Is4() {
		return h.ipv4
	}
	return h.ipv6
}

func addGateway(link netlink.Link, prefix netip.Prefix, gateway netip.Addr) error {
	r := &netlink.Route{
		LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(),
		Dst: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())},
	}
	r.SetFlag(netlink.FLAG_ONLINK)
	if err := netlink.RouteAdd(r); err != nil {
		return &net.OpError{Op: "add route", Net: link.Attrs().Name, Addr: r.Dst, Err: err}
	}
	return nil
}

// openPacketSocket opens a packet socket (packet(7)) on a link of the calling
// thread's namespace.
func openPacketSocket(kind int, protocol uint16, link int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if protocol != 0 {
		// Room for the packets that arrive while the reader is not scheduled.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	}
	network := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network, Ifindex: link}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

// Send sends a segment, with any addresses, to the router.
func (w *Wire) Send(s Segment) error {
	packet, err := s.packet()
	if err != nil {
		return &OpError{Op: "build segment", Host: w.host.name, Err: err}
	}
	etherType := uint16(unix.ETH_P_IP)
	if s.Src.Addr().Is6() {
		etherType = unix.ETH_P_IPV6
	}
	frame := binary.BigEndian.AppendUint16(append([]byte(nil), w.header...), etherType)
	frame = append(frame, packet...)
	for {
		_, err := w.socket.Write(frame)
		if errors.Is(err, unix.ENOBUFS) { // the link's queue is full
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return &OpError{Op: "send segment", Host: w.host.name, Err: err}
		}
		return nil
	}
}

// Close closes the wire. Its routes remain.
func (w *Wire) Close() error { return w.socket.Close() }

// Sniff returns a reader of the TCP segments that arrive from the router from now on.
// It keeps them until they are read.
func (w *Wire) Sniff() (*Sniffer, error) {
	s := &Sniffer{changed: make(chan struct{}), done: make(chan struct{})}
	err := w.host.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		s.socket, err = openPacketSocket(unix.SOCK_DGRAM, unix.ETH_P_ALL, link.Attrs().Index)
		return err
	})
	if err != nil {
		return nil, &OpError{Op: "sniff", Host: w.host.name, Err: err}
	}
	go s.run()
	return s, nil
}

// Sniffer is a queue of segments. Its methods are safe for concurrent use.
type Sniffer struct {
	socket *os.File
	done   chan struct{} // closed when run has returned

	mu       sync.Mutex
	segments []Segment     // not yet read
	changed  chan struct{} // closed and replaced when one is added
}

func (s *Sniffer) run() {
	defer close(s.done)
	rc, err := s.socket.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 1<<16)
	for {
		var n int
		var from unix.Sockaddr
		var recvErr error
		err := rc.Read(func(fd uintptr) bool {
			n, from, recvErr = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err != nil || recvErr != nil {
			return // the socket is closed or the link is gone
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		segment, ok := parseSegment(b[:n])
		if !ok {
			continue
		}
		segment.Data = append([]byte(nil), segment.Data...)
		s.mu.Lock()
		s.segments = append(s.segments, segment)
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
	}
}

// Poll reads segments up to the first that matches, and returns that. Without a match
// it reads all of them and returns false.
func (s *Sniffer) Poll(match func(Segment) bool) (Segment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lockedPoll(match)
}

func (s *Sniffer) lockedPoll(match func(Segment) bool) (Segment, bool) {
	for i, segment := range s.segments {
		if match(segment) {
			s.segments = s.segments[i+1:]
			return segment, true
		}
	}
	s.segments = nil
	return Segment{}, false
}

// Wait is like Poll, but waits for a matching segment until ctx is done.
func (s *Sniffer) Wait(ctx context.Context, match func(Segment) bool) (Segment, error) {
	for {
		s.mu.Lock()
		segment, ok := s.lockedPoll(match)
		changed := s.changed
		s.mu.Unlock()
		if ok {
			return segment, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Segment{}, ctx.Err()
		}
	}
}

// Close stops the sniffer.
func (s *Sniffer) Close() error {
	err := s.socket.Close()
	<-s.done
	return err
}
