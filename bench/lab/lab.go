package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config has the addresses of the two end hosts. They may be in one subnet or in
// different ones: each host routes the other's address through the router. Invalid
// (zero) addresses get a default.
type Config struct {
	ClientIPv4, ClientIPv6 netip.Addr // default 192.168.0.10 and fd00:192:168::10
	ServerIPv4, ServerIPv6 netip.Addr // default 203.0.113.10 and fd00:203:113::10
}

// Lab is the network of three hosts. Close ends it.
type Lab struct {
	Client *Host
	Router *Host
	Server *Host
}

// New builds a lab. It changes nothing in the caller's network namespace. The
// error is an *OpError.
func New(c Config) (*Lab, error) {
	c.ClientIPv4 = cmp.Or(c.ClientIPv4, netip.MustParseAddr("192.168.0.10"))
	c.ClientIPv6 = cmp.Or(c.ClientIPv6, netip.MustParseAddr("fd00:192:168::10"))
	c.ServerIPv4 = cmp.Or(c.ServerIPv4, netip.MustParseAddr("203.0.113.10"))
	c.ServerIPv6 = cmp.Or(c.ServerIPv6, netip.MustParseAddr("fd00:203:113::10"))

	for _, a := range []struct {
		field  string
		addr   netip.Addr
		family string
		ok     bool
	}{
		{"ClientIPv4", c.ClientIPv4, "IPv4", c.ClientIPv4.Is4()},
		{"ServerIPv4", c.ServerIPv4, "IPv4", c.ServerIPv4.Is4()},
		{"ClientIPv6", c.ClientIPv6, "IPv6", c.ClientIPv6.Is6()},
		{"ServerIPv6", c.ServerIPv6, "IPv6", c.ServerIPv6.Is6()},
	} {
		if !a.ok {
			return nil, &OpError{Op: "configure", Err: fmt.Errorf("%s: %s is not an %s address", a.field, a.addr, a.family)}
		}
	}
	l := &Lab{}
	if err := l.build(c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// The addresses of the router, the same on each of its links. The hosts use them
// only as gateways.
var (
	gatewayIPv4 = net.IPv4(169, 254, 0, 1)
	gatewayIPv6 = net.ParseIP("fe80::1")
)

func (l *Lab) build(c Config) error {
	var err error
	if l.Router, err = newHost("router", netip.Addr{}, netip.Addr{}); err != nil {
		return err
	}
	if l.Client, err = newHost("client", c.ClientIPv4, c.ClientIPv6); err != nil {
		return err
	}
	if l.Server, err = newHost("server", c.ServerIPv4, c.ServerIPv6); err != nil {
		return err
	}
	err = l.Router.Do(func() error {
		for _, path := range []string{
			"/proc/sys/net/ipv4/ip_forward",
			"/proc/sys/net/ipv6/conf/all/forwarding",
		} {
			if err := os.WriteFile(path, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return &OpError{Op: "turn on forwarding", Host: l.Router.name, Err: err}
	}
	for _, link := range []struct{ host, peer *Host }{
		{l.Client, l.Server},
		{l.Server, l.Client},
	} {
		if err := l.connect(link.host, link.peer); err != nil {
			return &OpError{Op: "connect to router", Host: link.host.name, Err: err}
		}
	}
	return nil
}

// connect joins a host to the router by a veth pair, and routes the host's addresses
// on the router and its peer's on the host.
func (l *Lab) connect(h, peer *Host) error {
	err := l.Router.Do(func() error {
		link := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: h.name},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsFd(h.NetNS()),
		}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		return err
	}
	err = h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		if err := addAddresses(link, h.ipv4.AsSlice(), h.ipv6.AsSlice()); err != nil {
			return err
		}
		return errors.Join(
			addRoute(link, peer.ipv4, gatewayIPv4),
			addRoute(link, peer.ipv6, gatewayIPv6),
		)
	})
	if err != nil {
		return err
	}
	return l.Router.Do(func() error {
		link, err := netlink.LinkByName(h.name)
		if err != nil {
			return err
		}
		if err := addAddresses(link, gatewayIPv4, gatewayIPv6); err != nil {
			return err
		}
		return errors.Join(
			addRoute(link, h.ipv4, nil),
			addRoute(link, h.ipv6, nil),
		)
	})
}

// addAddresses adds host addresses (/32 and /128) to a link, without the second of
// duplicate address detection for IPv6.
func addAddresses(link netlink.Link, ips ...net.IP) error {
	for _, ip := range ips {
		addr := &netlink.Addr{IPNet: hostNet(ip)}
		if ip.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return &net.OpError{Op: "add address", Net: link.Attrs().Name, Addr: &net.IPAddr{IP: ip}, Err: err}
		}
	}
	return nil
}

// addRoute routes one address over a link, through a gateway unless that is nil.
func addRoute(link netlink.Link, dst netip.Addr, gateway net.IP) error {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(dst.AsSlice())}
	if gateway == nil {
		r.Scope = netlink.SCOPE_LINK
	} else {
		r.Gw = gateway
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteAdd(r); err != nil {
		return &net.OpError{Op: "add route", Net: link.Attrs().Name, Addr: &net.IPAddr{IP: dst.AsSlice()}, Err: err}
	}
	return nil
}

func hostNet(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))}
}

// Close stops every process in the lab and releases its namespaces, which the kernel
// removes with their last socket. A second call does nothing.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range []*Host{l.Client, l.Server, l.Router} {
		if h != nil {
			errs = append(errs, h.close())
		}
	}
	return errors.Join(errs...)
}
