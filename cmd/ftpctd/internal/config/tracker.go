package config

import "ftpctd/conntrack"

// Tracker is what the configuration says of the tracker.
func (c Config) Tracker() conntrack.Config {
	addresses := map[Address]conntrack.AddressPolicy{
		AddressPeer:   conntrack.AddressPeer,
		AddressStrict: conntrack.AddressStrict,
		AddressReply:  conntrack.AddressReply,
	}
	return conntrack.Config{
		Ports: c.Ports,
		Policy: conntrack.Policy{
			MinPort:        c.MinPort,
			RequireLogin:   c.RequireLogin,
			PassiveAddress: addresses[c.Passive.Address],
			PassivePorts:   c.Passive.Ports,
			Active:         c.Active.Enabled,
			ActivePorts:    c.Active.Ports,
		},
		Connections: c.Limits.Connections,
		MaxExpected: int(c.Helper.MaxExpected),
		Timeout:     c.Helper.Timeout,
		SkipOpaque:  c.Queue.SkipTLS,
	}
}

// TLSPorts are the ports of sessions in TLS. Like every other they are not below
// min_port.
func (c Config) TLSPorts() conntrack.PortRange {
	r := c.Passive.TLSPorts
	if r != (conntrack.PortRange{}) {
		r.Min = max(r.Min, c.MinPort)
	}
	return r
}
