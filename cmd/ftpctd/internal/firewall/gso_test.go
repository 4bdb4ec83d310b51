package firewall

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
)

// tun is a link whose other end the test is, as one whose driver puts segments
// together (GRO): each packet has a virtio_net_hdr ahead.
type tun struct {
	*os.File
	local, peer netip.Addr
}

// newTun makes the link in the thread's namespace, with an address.
func newTun(t *testing.T) *tun {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		labtest.Unmet(t, "no /dev/net/tun (CONFIG_TUN): "+err.Error())
	}
	ifr, err := unix.NewIfreq("tun0")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	d := &tun{os.NewFile(uintptr(fd), "tun0"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	t.Cleanup(func() { _ = d.Close() })
	link, err := netlink.LinkByName("tun0")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr(d.local.String() + "/30")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, address), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	return d
}

const vnetHeader = 10 // struct virtio_net_hdr of include/uapi/linux/virtio_net.h

// send sends a segment of the peer. Of segments that were put together size is the
// payload of each; 0 is one alone.
func (d *tun) send(t *testing.T, tcp *layers.TCP, payload string, size uint16) {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: d.peer.AsSlice(), DstIP: d.local.AsSlice()}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	packet := b.Bytes()
	header := make([]byte, vnetHeader)
	if size > 0 {
		const needsCsum, gsoTCPv4 = 1, 1
		const ipLen, tcpLen, tcpSum = 20, 20, 16
		header[0], header[1] = needsCsum, gsoTCPv4
		for i, v := range []uint16{ipLen + tcpLen, size, ipLen, tcpSum} {
			binary.NativeEndian.PutUint16(header[2+2*i:], v)
		}
		// The sum of the pseudo header, for whoever cuts the packet up.
		sum := uint32(unix.IPPROTO_TCP + len(packet) - ipLen)
		for i := 12; i < ipLen; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(packet[i:]))
		}
		for sum>>16 > 0 {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(packet[ipLen+tcpSum:], uint16(sum))
	}
	if _, err := d.Write(append(header, packet...)); err != nil {
		t.Fatal(err)
	}
}

// synAck waits for the answer to a SYN, and returns its sequence number.
func (d *tun) synAck(t *testing.T) uint32 {
	t.Helper()
	if err := d.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 2048); ; {
		n, err := d.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(b[vnetHeader:n], layers.LayerTypeIPv4, gopacket.Default)
		if tcp, ok := p.TransportLayer().(*layers.TCP); ok && tcp.SYN && tcp.ACK {
			return tcp.Seq
		}
	}
}

// TestSANERequestsPutTogether sends two requests to the kernel's helper which the
// network driver has put together. In the chains that queue they are one packet of
// 16 bytes, that comes back from the queue as two.
func TestSANERequestsPutTogether(t *testing.T) {
	labtest.EnterNetns(t)
	d := newTun(t)
	var r recorder
	run(t, carried.QueueNum, &r)
	table := install(t, carried)
	l := labtest.ListenNetns(t, netip.AddrPortFrom(d.local, 21).String())

	const sport, isn = 40000, 1000
	d.send(t, &layers.TCP{SrcPort: sport, DstPort: 21, Seq: isn, SYN: true, Window: 65535}, "", 0)
	ack := d.synAck(t) + 1
	segment := func() *layers.TCP {
		return &layers.TCP{SrcPort: sport, DstPort: 21, Seq: isn + 1, Ack: ack, ACK: true, PSH: true, Window: 65535}
	}
	d.send(t, segment(), "", 0)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	d.send(t, segment(), "\x00\x00\x00\x07abcd\x00\x00\x00\x07efgh", 8)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := table.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if c.SANERequests == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d requests were dropped, want 2; queued: %v", c.SANERequests, r.payloads())
		}
	}
	// What comes in its place arrives first.
	d.send(t, segment(), "NOOP\r\n", 0)
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, err := server.(*net.TCPConn).Read(b); err != nil || string(b[:n]) != "NOOP\r\n" {
		t.Errorf("%q, error %v; want NOOP", b[:n], err)
	}
}
