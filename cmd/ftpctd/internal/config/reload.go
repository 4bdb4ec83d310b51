package config

import "reflect"

// Adopt returns c with those settings of next that can change while the daemon
// runs: the policy and the log level. restart names the keys that differ and are
// left as they were, in the order of the file.
func (c Config) Adopt(next Config) (adopted Config, restart []string) {
	for _, k := range fixed() {
		if !reflect.DeepEqual(k.value(&c), k.value(&next)) {
			restart = append(restart, k.name)
		}
	}
	c.MinPort, c.RequireLogin = next.MinPort, next.RequireLogin
	c.Passive.Address, c.Passive.Ports = next.Passive.Address, next.Passive.Ports
	c.Active = next.Active
	c.Log.Level = next.Log.Level
	return c, restart
}

// A fixedKey is a key whose value the daemon has built something with.
type fixedKey struct {
	name  string
	value func(*Config) any
}

// fixed returns all of them, in the order of the file.
func fixed() []fixedKey {
	return []fixedKey{
		{"ports", func(c *Config) any { return c.Ports }},
		{"admit", func(c *Config) any { return c.Admit }},
		{"passive.tls_ports", func(c *Config) any { return c.Passive.TLSPorts }},
		{"queue.num", func(c *Config) any { return c.Queue.Num }},
		{"queue.count", func(c *Config) any { return c.Queue.Count }},
		{"queue.length", func(c *Config) any { return c.Queue.Length }},
		{"queue.driver", func(c *Config) any { return c.Queue.Driver }},
		{"queue.busy_poll", func(c *Config) any { return c.Queue.BusyPoll }},
		{"queue.skip_mark", func(c *Config) any { return c.Queue.SkipMark }},
		{"queue.skip_tls", func(c *Config) any { return c.Queue.SkipTLS }},
		{"helper.name", func(c *Config) any { return c.Helper.Name }},
		{"helper.carrier", func(c *Config) any { return c.Helper.Carrier }},
		{"helper.max_expected", func(c *Config) any { return c.Helper.MaxExpected }},
		{"helper.timeout", func(c *Config) any { return c.Helper.Timeout }},
		{"firewall.manage", func(c *Config) any { return c.Firewall.Manage }},
		{"firewall.anti_spoof", func(c *Config) any { return c.Firewall.AntiSpoof }},
		{"limits.connections", func(c *Config) any { return c.Limits.Connections }},
		{"log.format", func(c *Config) any { return c.Log.Format }},
		{"metrics.listen", func(c *Config) any { return c.Metrics.Listen }},
		{"control.socket", func(c *Config) any { return c.Control.Socket }},
	}
}
