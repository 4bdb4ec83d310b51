package config

import (
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"time"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
)

// A violation is a value that a key does not accept.
type violation struct {
	problem, want string
}

// A key is one setting of the file: the table of all of them is keys().
type key struct {
	name string
	// reload reports whether a reload may change the setting; the others are built
	// into the running daemon.
	reload bool
	// set parses a value of the file into its field.
	set func(c *Config, v any) *violation
	// copy copies the field, and differs compares it.
	copy    func(to, from *Config)
	differs func(a, b *Config) bool
}

// Whether a reload may change a key.
const (
	atReload  = true
	atRestart = false
)

// newKey returns the key of a field, whose values are of the kind given.
func newKey[T any](name string, reload bool, kind kind[T], field func(*Config) *T) key {
	return key{
		name:   name,
		reload: reload,
		set: func(c *Config, v any) *violation {
			x, problem := kind.parse(v)
			if problem != "" {
				return &violation{problem, kind.want}
			}
			*field(c) = x
			return nil
		},
		copy:    func(to, from *Config) { *field(to) = *field(from) },
		differs: func(a, b *Config) bool { return !reflect.DeepEqual(*field(a), *field(b)) },
	}
}

// keys returns all keys, in the order of the file.
func keys() []key {
	return []key{
		newKey("ports", atRestart, portList, func(c *Config) *[]uint16 { return &c.Ports }),
		newKey("admit", atRestart, admitModes, func(c *Config) *Admit { return &c.Admit }),
		newKey("min_port", atReload, integer[uint16](1, math.MaxUint16), func(c *Config) *uint16 { return &c.MinPort }),
		newKey("require_login", atReload, boolean, func(c *Config) *bool { return &c.RequireLogin }),

		newKey("passive.address", atReload, addressPolicies, func(c *Config) *conntrack.AddressPolicy { return &c.Passive.Address }),
		newKey("passive.ports", atReload, portRange, func(c *Config) *conntrack.PortRange { return &c.Passive.Ports }),
		newKey("passive.tls_ports", atRestart, optional(portRange), func(c *Config) *conntrack.PortRange { return &c.Passive.TLSPorts }),

		newKey("active.enabled", atReload, boolean, func(c *Config) *bool { return &c.Active.Enabled }),
		newKey("active.ports", atReload, portRange, func(c *Config) *conntrack.PortRange { return &c.Active.Ports }),

		newKey("queue.num", atRestart, integer[uint16](0, math.MaxUint16), func(c *Config) *uint16 { return &c.Queue.Num }),
		newKey("queue.count", atRestart, integer[uint16](1, 64), func(c *Config) *uint16 { return &c.Queue.Count }),
		newKey("queue.length", atRestart, integer[uint32](1, 1<<20), func(c *Config) *uint32 { return &c.Queue.Length }),
		newKey("queue.driver", atRestart, drivers, func(c *Config) *string { return &c.Queue.Driver }),
		newKey("queue.busy_poll", atRestart, busyPoll, func(c *Config) *time.Duration { return &c.Queue.BusyPoll }),
		newKey("queue.skip_mark", atRestart, singleBit, func(c *Config) *uint32 { return &c.Queue.SkipMark }),
		newKey("queue.skip_tls", atRestart, boolean, func(c *Config) *bool { return &c.Queue.SkipTLS }),

		newKey("helper.name", atRestart, helperName, func(c *Config) *string { return &c.Helper.Name }),
		newKey("helper.carrier", atRestart, carrier, func(c *Config) *string { return &c.Helper.Carrier }),
		newKey("helper.max_expected", atRestart, integer[uint32](1, maxExpected), func(c *Config) *uint32 { return &c.Helper.MaxExpected }),
		newKey("helper.timeout", atRestart, timeout, func(c *Config) *time.Duration { return &c.Helper.Timeout }),

		newKey("firewall.manage", atRestart, boolean, func(c *Config) *bool { return &c.Firewall.Manage }),
		newKey("firewall.anti_spoof", atRestart, antiSpoofModes, func(c *Config) *firewall.AntiSpoof { return &c.Firewall.AntiSpoof }),

		newKey("limits.connections", atRestart, integer[int](1, 1<<24), func(c *Config) *int { return &c.Limits.Connections }),

		newKey("log.level", atReload, levels, func(c *Config) *slog.Level { return &c.Log.Level }),
		newKey("log.format", atRestart, words(LogText, LogJSON), func(c *Config) *LogFormat { return &c.Log.Format }),

		newKey("metrics.listen", atRestart, optional(listenAddress), func(c *Config) *string { return &c.Metrics.Listen }),

		newKey("control.socket", atRestart, socketPath, func(c *Config) *string { return &c.Control.Socket }),
	}
}

// A constraint relates keys, each of which is valid on its own.
type constraint struct {
	keys  []string // the first that the file sets is reported
	check func(c *Config) *violation
}

// constraints returns what must hold between keys.
func constraints() []constraint {
	return []constraint{
		reachable("passive.ports", func(c *Config) conntrack.PortRange { return c.Passive.Ports }),
		reachable("passive.tls_ports", func(c *Config) conntrack.PortRange { return c.Passive.TLSPorts }),
		reachable("active.ports", func(c *Config) conntrack.PortRange { return c.Active.Ports }),
		{keys: []string{"queue.count", "queue.num"}, check: checkQueues},
		{keys: []string{"queue.skip_tls", "queue.skip_mark"}, check: checkSkipTLS},
	}
}

// reachable demands that min_port leaves something of a range.
func reachable(name string, ports func(*Config) conntrack.PortRange) constraint {
	return constraint{keys: []string{name, "min_port"}, check: func(c *Config) *violation {
		if r := ports(c); r != (conntrack.PortRange{}) && r.Max < c.MinPort {
			return &violation{
				fmt.Sprintf("%s is entirely below min_port (%d)", r, c.MinPort),
				"a range that reaches min_port",
			}
		}
		return nil
	}}
}

func checkQueues(c *Config) *violation {
	last := int(c.Queue.Num) + int(c.Queue.Count) - 1
	switch {
	case last > math.MaxUint16:
		return &violation{
			fmt.Sprintf("the last queue would be %d", last),
			fmt.Sprintf("num + count - 1 up to %d", math.MaxUint16),
		}
	case c.Queue.Num <= LockQueue && last >= LockQueue:
		return &violation{
			fmt.Sprintf("includes queue %d, which the daemon uses as its lock", LockQueue),
			fmt.Sprintf("queues below %d, or above", LockQueue),
		}
	}
	return nil
}

func checkSkipTLS(c *Config) *violation {
	if c.Queue.SkipTLS && c.Queue.SkipMark == 0 {
		return &violation{"has no effect while queue.skip_mark is 0", "true only with a bit in queue.skip_mark"}
	}
	return nil
}

// A schema is the keys and tables that a file may have.
type schema struct {
	keys   map[string]key
	tables map[string][]string // table name to the names in it; "" is the top level
}

func newSchema() schema {
	s := schema{keys: map[string]key{}, tables: map[string][]string{}}
	for _, k := range keys() {
		s.keys[k.name] = k
		table, name, inTable := strings.Cut(k.name, ".")
		if !inTable {
			table, name = "", k.name
		} else if _, known := s.tables[table]; !known {
			s.tables[""] = append(s.tables[""], table)
		}
		s.tables[table] = append(s.tables[table], name)
	}
	return s
}
