package lab

import "github.com/vishvananda/netlink"

// AddLink joins a host to the router by another veth pair, called name on both. The
// router gets its usual addresses on it and the host none; the caller adds routes that
// use it.
func (l *Lab) AddLink(h *Host, name string) error {
	err := l.Router.Do(func() error {
		pair := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: name},
			PeerName:      name,
			PeerNamespace: netlink.NsFd(h.NetNS()),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		return addAddresses(link, gatewayIPv4, gatewayIPv6)
	})
	if err == nil {
		err = h.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		})
	}
	if err != nil {
		return &OpError{Op: "add link " + name, Host: h.name, Err: err}
	}
	return nil
}
