package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// In a private namespace every port is free.
const (
	controlPort = 21
	clientPort  = 1025 // of the data connection
	dataPort    = 1026
)

// patience is for connections over the loopback link, which take no time.
const patience = 5 * time.Second

// privateHelper is registered and deleted for the round trip. Helpers are
// global, so its name differs from that of any daemon's.
const privateHelper = "ftpctd-doctor"

// privateRules is the configuration of the daemon's rules in a private namespace.
// Nobody reads the queue: its packets pass. They come from the loopback link, whose
// source addresses are trusted anyway.
func privateRules(helper string) firewall.Config {
	return firewall.Config{
		Ports: []uint16{controlPort}, Helper: helper, QueueCount: 1, AntiSpoof: firewall.AntiSpoofOff,
	}
}

// roundTrip has data connections admitted in the calling thread's network
// namespace, with the daemon's rules.
func roundTrip(ctx context.Context, a admit.Admission) (families []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = withConntrack(func(c *ctnetlink.Conn) (err error) {
		helper := a.Helper
		if a.Mode == config.AdmitHelper {
			helper = privateHelper
			cfg := ctnetlink.HelperConfig{Name: helper, MaxExpected: 1, Timeout: patience}
			if err := c.RegisterHelper(cfg); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.DeleteHelper(helper)) }()
		}
		table, err := firewall.Install(privateRules(helper))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, table.Remove()) }()
		related, err := countRelated()
		if err != nil {
			return err
		}
		admit := func(data, master conntrack.Tuple) error {
			if a.Mode == config.AdmitEntry {
				return c.CreateEntry(data, master)
			}
			return c.Expect(&conntrack.Expectation{Master: master, Tuple: data})
		}
		for _, family := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
			err := transfer(ctx, netip.MustParseAddr(family.host), admit)
			if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
				continue // switched off
			}
			if err != nil {
				return fmt.Errorf("%s: %w", family.name, err)
			}
			families = append(families, family.name)
		}
		n, err := related()
		if err == nil && n != uint64(len(families)) {
			err = fmt.Errorf("of %d data connections %d were RELATED", len(families), n)
		}
		return err
	})
	return families, err
}

// transfer opens a control connection, has the data connection admitted, and
// opens that.
func transfer(ctx context.Context, host netip.Addr, admit func(data, master conntrack.Tuple) error) error {
	control, err := connect(ctx, netip.AddrPortFrom(host, 0), netip.AddrPortFrom(host, controlPort))
	if err != nil {
		return fmt.Errorf("control connection: %w", err)
	}
	defer control.Close()
	src, dst := netip.AddrPortFrom(host, clientPort), netip.AddrPortFrom(host, dataPort)
	master := conntrack.Tuple{
		Src: control.LocalAddr().(*net.TCPAddr).AddrPort(),
		Dst: netip.AddrPortFrom(host, controlPort),
	}
	if err := admit(conntrack.Tuple{Src: src, Dst: dst}, master); err != nil {
		return err
	}
	data, err := connect(ctx, src, dst)
	if err != nil {
		return fmt.Errorf("data connection: %w", err)
	}
	return data.Close()
}

// connect opens a TCP connection to a listener that it makes for it. The
// listener's end is closed at once, which the connection tracking does not mind.
func connect(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", remote.String())
	if err != nil {
		return nil, err
	}
	defer l.Close()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}
	return d.DialContext(ctx, "tcp", remote.String())
}

// countRelated adds a rule that counts what a firewall would admit as RELATED of
// the data connections, and returns how to read it.
func countRelated() (func() (uint64, error), error) {
	nft, err := nftables.New()
	if err != nil {
		return nil, err
	}
	table := nft.AddTable(&nftables.Table{Name: "doctor", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	const register = 1
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(dataPort)},
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(expr.CtStateBitRELATED)},
		&expr.Counter{},
	}})
	if err := nft.Flush(); err != nil {
		return nil, fmt.Errorf("cannot count packets: %w", err)
	}
	return func() (uint64, error) {
		rules, err := nft.GetRules(table, chain)
		if err != nil {
			return 0, err
		}
		for _, rule := range rules {
			for _, e := range rule.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					return counter.Packets, nil
				}
			}
		}
		return 0, errors.New("the counter is gone")
	}, nil
}
