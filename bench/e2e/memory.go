package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/pelletier/go-toml/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
)

// memory is the daemon's resident set size, in bytes.
type memory struct {
	Variant     string `json:"variant"`
	Connections int    `json:"connections"`
	Idle        int    `json:"idle_bytes"`   // without connections
	Filled      int    `json:"filled_bytes"` // with idle Connections
}

// The idle control connections are between hosts that do not exist: 100,000 pairs of
// sockets would take too much memory and time. Raw sockets send the packets of their
// handshakes and greetings through the router. The addresses are from RFC 2544 and
// RFC 5737.
var (
	absentClients = netip.MustParsePrefix("198.18.0.0/15")
	absentServer  = netip.MustParsePrefix("198.51.100.1/32")
)

// absentClient returns the client address of connection i; no two share one.
func absentClient(i int) netip.Addr {
	base := absentClients.Addr().As4()
	n := uint32(base[0])<<24 | uint32(base[1])<<16 + uint32(i+1)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// maxAbsent is the number of client addresses.
const maxAbsent = 1<<17 - 2

// batch is the number of packets sent before waiting for the queue to drain. It is
// smaller than the queue.
const batch = 1000

// fill measures the memory of the variant's daemon without connections and with n idle
// control connections.
func (v variant) fill(ctx context.Context, n int) (m memory, err error) {
	if v.config, err = withConnections(v.config, n); err != nil {
		return m, fmt.Errorf("%s: %w", v.name, err)
	}
	tb, err := v.build(ctx)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, tb.close()) }()
	var table []byte
	err = tb.lab.Router.Do(func() (err error) {
		table, err = os.ReadFile(tableFile)
		return err
	})
	if err == nil {
		err = checkTable(table, n)
	}
	if err != nil {
		return m, err
	}
	m = memory{Variant: v.name, Connections: n}
	if m.Idle, err = residentMemory(tb.daemon.process.Pid()); err != nil {
		return m, err
	}
	if err := tb.connectAbsent(n); err != nil {
		return m, fmt.Errorf("%s with %d control connections: %w", v.name, n, err)
	}
	if err := tb.daemon.manager.waitTracked(ctx, n); err != nil {
		return m, err
	}
	m.Filled, err = residentMemory(tb.daemon.process.Pid())
	return m, err
}

// withConnections returns a configuration of ftpctd with limits.connections set to n.
func withConnections(config string, n int) (string, error) {
	keys := map[string]any{}
	if err := toml.Unmarshal([]byte(config), &keys); err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	limits, ok := keys["limits"].(map[string]any)
	if !ok {
		limits = map[string]any{}
	}
	limits["connections"] = n
	keys["limits"] = limits
	text, err := toml.Marshal(keys)
	return string(text), err
}

// tableFile holds the maximum size of the conntrack table; 0 is no limit.
const tableFile = "/proc/sys/net/netfilter/nf_conntrack_max"

// checkTable returns an error unless the conntrack table, whose size is in text, has
// room for n connections.
func checkTable(text []byte, n int) error {
	size, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", tableFile, err)
	}
	if size != 0 && size < n {
		return fmt.Errorf("the conntrack table is limited to %d connections and -idle needs %d: "+
			"run sysctl -w net.netfilter.nf_conntrack_max=%d, or lower -idle", size, n, n)
	}
	return nil
}

// connectAbsent sends the handshakes and greetings of n connections through the router.
func (tb *testbed) connectAbsent(n int) error {
	if err := routeAbsent(tb.lab); err != nil {
		return err
	}
	client, err := rawSocket(tb.lab.Client)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	server, err := rawSocket(tb.lab.Server)
	if err != nil {
		return err
	}
	defer unix.Close(server)

	const clientSeq, serverSeq = 1_000_000, 2_000_000
	greeting := []byte("220 Benchmark.\r\n")
	b := gopacket.NewSerializeBuffer()
	for begin := 0; begin < n; begin += batch {
		end := min(begin+batch, n)
		// Each step begins once the previous one has passed the router.
		for _, step := range []struct {
			raw        int
			fromServer bool
			tcp        layers.TCP
			payload    []byte
		}{
			{client, false, layers.TCP{SYN: true, Seq: clientSeq}, nil},
			{server, true, layers.TCP{SYN: true, ACK: true, Seq: serverSeq, Ack: clientSeq + 1}, nil},
			{client, false, layers.TCP{ACK: true, Seq: clientSeq + 1, Ack: serverSeq + 1}, nil},
			{server, true, layers.TCP{ACK: true, PSH: true, Seq: serverSeq + 1, Ack: clientSeq + 1}, greeting},
		} {
			for i := begin; i < end; i++ {
				src, dst := netip.AddrPortFrom(absentClient(i), 40000), netip.AddrPortFrom(absentServer.Addr(), lab.ControlPort)
				if step.fromServer {
					src, dst = dst, src
				}
				if err := sendSegment(step.raw, b, src, dst, step.tcp, step.payload); err != nil {
					return err
				}
			}
			if err := tb.queueEmpty(); err != nil {
				return err
			}
		}
	}
	return nil
}

// routeAbsent routes the absent hosts of each side to the real host on that side,
// which discards their packets.
func routeAbsent(l *lab.Lab) error {
	gateway := netip.MustParseAddr("169.254.0.1") // the router, on each of its links
	for _, r := range []struct {
		host *lab.Host
		link string
		to   netip.Prefix
		via  netip.Addr
	}{
		{l.Client, "eth0", absentServer, gateway},
		{l.Server, "eth0", absentClients, gateway},
		{l.Router, l.Client.Name(), absentClients, l.Client.IPv4()},
		{l.Router, l.Server.Name(), absentServer, l.Server.IPv4()},
	} {
		err := r.host.Do(func() error {
			link, err := netlink.LinkByName(r.link)
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{
				LinkIndex: link.Attrs().Index, Gw: r.via.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
				Dst: &net.IPNet{IP: r.to.Addr().AsSlice(), Mask: net.CIDRMask(r.to.Bits(), 32)},
			})
		})
		if err != nil {
			return fmt.Errorf("route %v on %s: %w", r.to, r.host.Name(), err)
		}
	}
	return nil
}

// rawSocket opens a socket on a host that sends IPv4 packets with their headers.
func rawSocket(h *lab.Host) (fd int, err error) {
	err = h.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	return fd, err
}

func sendSegment(raw int, b gopacket.SerializeBuffer, src, dst netip.AddrPort, tcp layers.TCP, payload []byte) error {
	ip := layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(),
	}
	tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(src.Port()), layers.TCPPort(dst.Port()), 65535
	if err := tcp.SetNetworkLayerForChecksum(&ip); err != nil {
		return err
	}
	o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, o, &ip, &tcp, gopacket.Payload(payload)); err != nil {
		return err
	}
	return unix.Sendto(raw, b.Bytes(), 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()})
}

// queueFile lists the packet queues of the calling thread's network namespace.
const queueFile = "/proc/thread-self/net/netfilter/nfnetlink_queue"

// queueEmpty waits until no packet is queued on the router.
func (tb *testbed) queueEmpty() error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(500 * time.Microsecond) {
		var text []byte
		err := tb.lab.Router.Do(func() (err error) {
			text, err = os.ReadFile(queueFile)
			return err
		})
		if err != nil {
			return err
		}
		waiting, lost, err := queued(text)
		switch {
		case err != nil:
			return err
		case lost > 0:
			return fmt.Errorf("the queue dropped %d packets", lost)
		case waiting == 0:
			return nil
		}
	}
	return fmt.Errorf("the daemon did not empty its queue within %v", patience)
}

// queued returns the number of packets waiting in the queues of queueFile and the
// number dropped. A line describes a queue: its number, its owner, the packets
// waiting, two settings, the packets dropped because the queue was full and those
// dropped because its socket was.
func queued(text []byte) (waiting, lost int, err error) {
	for line := range bytes.Lines(text) {
		var number, owner, total, mode, length, full, socket int
		if _, err := fmt.Sscan(string(line), &number, &owner, &total, &mode, &length, &full, &socket); err != nil {
			return 0, 0, fmt.Errorf("%s: %q: %w", queueFile, line, err)
		}
		waiting += total
		lost += full + socket
	}
	return waiting, lost, nil
}

var errNoRSS = errors.New("no VmRSS in /proc/PID/status")

// residentMemory returns the resident set size of a process in bytes.
func residentMemory(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kB, err := strconv.Atoi(string(bytes.TrimSuffix(bytes.TrimSpace(value), []byte(" kB"))))
			if err != nil {
				return 0, fmt.Errorf("%w: %w", errNoRSS, err)
			}
			return kB << 10, nil
		}
	}
	return 0, errNoRSS
}
