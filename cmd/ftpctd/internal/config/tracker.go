package config

import "ftpctd/conntrack"

// Tracker returns the settings of the tracker. What it needs of the kernel is left
// zero.
func (c Config) Tracker() conntrack.Config {
	return conntrack.Config{
		Ports: c.Ports,
		Policy: conntrack.Policy{
			MinPort:        c.MinPort,
			RequireLogin:   c.RequireLogin,
			PassiveAddress: c.Passive.Address,
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

// TLSPorts returns passive.tls_ports from min_port on.
func (c Config) TLSPorts() conntrack.PortRange {
	r := c.Passive.TLSPorts
	if r != (conntrack.PortRange{}) {
		r.Min = max(r.Min, c.MinPort)
	}
	return r
}
