package config

import (
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ftpctd/conntrack"
)

// A fault is a value that a key does not take.
type fault struct {
	wrong, allowed string
}

// A key is one setting of the file: its name, and how a value gets into a
// Config.
type key struct {
	name string
	set  func(c *Config, v any) *fault
}

// keys returns all keys, in the order of the file.
func keys() []key {
	return []key{
		{"ports", func(c *Config, v any) *fault { return setPorts(&c.Ports, v) }},
		{"admit", func(c *Config, v any) *fault { return setEnum(&c.Admit, v, AdmitAuto, AdmitExpect, AdmitEntry) }},
		{"min_port", func(c *Config, v any) *fault { return setInt(&c.MinPort, v, 1, math.MaxUint16) }},
		{"require_login", func(c *Config, v any) *fault { return setBool(&c.RequireLogin, v) }},

		{"passive.address", func(c *Config, v any) *fault {
			return setEnum(&c.Passive.Address, v, AddressPeer, AddressStrict, AddressReply)
		}},
		{"passive.ports", func(c *Config, v any) *fault { return setRange(&c.Passive.Ports, v, rangeForm) }},
		{"passive.tls_ports", func(c *Config, v any) *fault {
			return setOptional(&c.Passive.TLSPorts, v, rangeForm, setRange)
		}},

		{"active.enabled", func(c *Config, v any) *fault { return setBool(&c.Active.Enabled, v) }},
		{"active.ports", func(c *Config, v any) *fault { return setRange(&c.Active.Ports, v, rangeForm) }},

		{"queue.num", func(c *Config, v any) *fault { return setInt(&c.Queue.Num, v, 0, math.MaxUint16) }},
		{"queue.count", func(c *Config, v any) *fault { return setInt(&c.Queue.Count, v, 1, 64) }},
		{"queue.length", func(c *Config, v any) *fault { return setInt(&c.Queue.Length, v, 1, 1<<20) }},
		{"queue.driver", func(c *Config, v any) *fault {
			return setEnum(&c.Queue.Driver, v, DriverNetlink, DriverGoNFQueue)
		}},
		{"queue.busy_poll", func(c *Config, v any) *fault { return setBusyPoll(&c.Queue.BusyPoll, v) }},
		{"queue.skip_mark", func(c *Config, v any) *fault { return setBit(&c.Queue.SkipMark, v) }},
		{"queue.skip_tls", func(c *Config, v any) *fault { return setBool(&c.Queue.SkipTLS, v) }},

		{"helper.name", func(c *Config, v any) *fault { return setHelper(&c.Helper.Name, v) }},
		{"helper.carrier", func(c *Config, v any) *fault { return setCarrier(&c.Helper.Carrier, v) }},
		// NF_CT_EXPECT_MAX_CNT of nf_conntrack_expect.h.
		{"helper.max_expected", func(c *Config, v any) *fault { return setInt(&c.Helper.MaxExpected, v, 1, 255) }},
		{"helper.timeout", func(c *Config, v any) *fault { return setTimeout(&c.Helper.Timeout, v) }},

		{"firewall.manage", func(c *Config, v any) *fault { return setBool(&c.Firewall.Manage, v) }},
		{"firewall.anti_spoof", func(c *Config, v any) *fault {
			return setEnum(&c.Firewall.AntiSpoof, v, AntiSpoofStrict, AntiSpoofLoose, AntiSpoofOff)
		}},

		{"limits.connections", func(c *Config, v any) *fault { return setInt(&c.Limits.Connections, v, 1, 1<<24) }},

		{"log.level", func(c *Config, v any) *fault { return setLevel(&c.Log.Level, v) }},
		{"log.format", func(c *Config, v any) *fault { return setEnum(&c.Log.Format, v, LogText, LogJSON) }},

		{"metrics.listen", func(c *Config, v any) *fault {
			return setOptional(&c.Metrics.Listen, v, listenForm, setListen)
		}},

		{"control.socket", func(c *Config, v any) *fault { return setSocket(&c.Control.Socket, v) }},
	}
}

// A rule is what must hold between keys, each of which is valid by itself.
type rule struct {
	keys  []string // the first that the file has gets the blame
	check func(c *Config) *fault
}

// rules returns what must hold between keys.
func rules() []rule {
	reachable := func(name string, ports func(*Config) conntrack.PortRange) rule {
		return rule{[]string{name, "min_port"}, func(c *Config) *fault {
			if r := ports(c); r != (conntrack.PortRange{}) && r.Max < c.MinPort {
				return &fault{
					fmt.Sprintf("no port of %s is as high as min_port, %d", r, c.MinPort),
					"a range that reaches min_port",
				}
			}
			return nil
		}}
	}
	return []rule{
		reachable("passive.ports", func(c *Config) conntrack.PortRange { return c.Passive.Ports }),
		reachable("passive.tls_ports", func(c *Config) conntrack.PortRange { return c.Passive.TLSPorts }),
		reachable("active.ports", func(c *Config) conntrack.PortRange { return c.Active.Ports }),
		{[]string{"queue.count", "queue.num"}, func(c *Config) *fault {
			if last := int(c.Queue.Num) + int(c.Queue.Count) - 1; last > math.MaxUint16 {
				return &fault{
					fmt.Sprintf("the last queue would be %d", last),
					fmt.Sprintf("num + count - 1 up to %d", math.MaxUint16),
				}
			} else if c.Queue.Num <= LockQueue && last >= LockQueue {
				return &fault{
					fmt.Sprintf("queue %d would be one of them, which is the lock of the daemon", LockQueue),
					fmt.Sprintf("queues below %d, or above", LockQueue),
				}
			}
			return nil
		}},
		{[]string{"queue.skip_tls", "queue.skip_mark"}, func(c *Config) *fault {
			if c.Queue.SkipTLS && c.Queue.SkipMark == 0 {
				return &fault{"has no effect while queue.skip_mark is 0", "true only with a bit in queue.skip_mark"}
			}
			return nil
		}},
	}
}

// Forms of values, for what is allowed.
const (
	portForm    = "a list of ports from 1 to 65535, each once"
	rangeForm   = `two ports from 1 to 65535 and a hyphen, such as "30000-30999", or one port`
	bitForm     = "0, or a single bit such as 0x100, up to 0x80000000"
	helperForm  = "1 to 15 letters, digits, '-', '_' or '.'"
	busyForm    = `a duration from "0s" to "10ms", such as "200us"`
	timeoutForm = `whole seconds from "1s" to "1h", such as "300s"`
	levelForm   = "debug, info, warn, error"
	listenForm  = `an address and a port, such as "127.0.0.1:9621" or "[::1]:9621"`
	socketForm  = "an absolute path of at most 107 bytes"
)

// maxHelperName is the length of a helper's name: NF_CT_HELPER_NAME_LEN of
// nf_conntrack_helper.h less the closing NUL.
const maxHelperName = 15

// maxSocketPath is the length of a unix socket's path: sun_path of unix(7) less
// the closing NUL.
const maxSocketPath = 107

// wrongType is the fault of a value that is not of the key's type.
func wrongType(v any, allowed string) *fault {
	var is string
	switch v.(type) {
	case string:
		is = "a string"
	case int64:
		is = "an integer"
	case float64:
		is = "a floating-point number"
	case bool:
		is = "a boolean"
	case []any:
		is = "a list"
	case map[string]any:
		is = "a table"
	default:
		is = "a date or time"
	}
	return &fault{"is " + is, allowed}
}

func setBool(dst *bool, v any) *fault {
	b, ok := v.(bool)
	if !ok {
		return wrongType(v, "true, false")
	}
	*dst = b
	return nil
}

func setInt[T ~int | ~uint16 | ~uint32](dst *T, v any, lowest, highest int64) *fault {
	allowed := fmt.Sprintf("%d to %d", lowest, highest)
	n, ok := v.(int64)
	if !ok {
		return wrongType(v, allowed)
	}
	if n < lowest || n > highest {
		return &fault{fmt.Sprintf("%d is out of range", n), allowed}
	}
	*dst = T(n)
	return nil
}

func setBit(dst *uint32, v any) *fault {
	n, ok := v.(int64)
	if !ok {
		return wrongType(v, bitForm)
	}
	if n < 0 || n > math.MaxUint32 || bits.OnesCount64(uint64(n)) > 1 {
		return &fault{fmt.Sprintf("%#x is not a single bit of 32", n), bitForm}
	}
	*dst = uint32(n)
	return nil
}

func setEnum[T ~string](dst *T, v any, words ...T) *fault {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	allowed := strings.Join(names, ", ")
	s, ok := v.(string)
	if !ok {
		return wrongType(v, allowed)
	}
	if !slices.Contains(words, T(s)) {
		return &fault{strconv.Quote(s) + " is unknown", allowed}
	}
	*dst = T(s)
	return nil
}

func setLevel(dst *slog.Level, v any) *fault {
	s, ok := v.(string)
	if !ok {
		return wrongType(v, levelForm)
	}
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if s == strings.ToLower(l.String()) {
			*dst = l
			return nil
		}
	}
	return &fault{strconv.Quote(s) + " is unknown", levelForm}
}

func setPorts(dst *[]uint16, v any) *fault {
	list, ok := v.([]any)
	if !ok {
		return wrongType(v, portForm)
	}
	if len(list) == 0 {
		return &fault{"is empty", portForm}
	}
	ports := make([]uint16, 0, len(list))
	for _, v := range list {
		if _, ok := v.(int64); !ok {
			return &fault{"an element " + wrongType(v, portForm).wrong, portForm}
		}
		var port uint16
		if f := setInt(&port, v, 1, math.MaxUint16); f != nil {
			return &fault{f.wrong, portForm}
		}
		if slices.Contains(ports, port) {
			return &fault{fmt.Sprintf("%d is there twice", port), portForm}
		}
		ports = append(ports, port)
	}
	*dst = ports
	return nil
}

// setOptional takes the empty string for the zero value.
func setOptional[T any](dst *T, v any, form string, set func(dst *T, v any, allowed string) *fault) *fault {
	if v == "" {
		var zero T
		*dst = zero
		return nil
	}
	return set(dst, v, form+`, or ""`)
}

func setRange(dst *conntrack.PortRange, v any, allowed string) *fault {
	s, ok := v.(string)
	if !ok {
		return wrongType(v, allowed)
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	low, lowOK := parsePort(first)
	high, highOK := parsePort(last)
	if !lowOK || !highOK {
		return &fault{strconv.Quote(s) + " is not a range of ports", allowed}
	}
	if low > high {
		return &fault{strconv.Quote(s) + " begins above its end", allowed}
	}
	*dst = conntrack.PortRange{Min: low, Max: high}
	return nil
}

// parsePort reads a port in decimal. Unlike strconv it takes no sign.
func parsePort(s string) (port uint16, ok bool) {
	if strings.HasPrefix(s, "+") {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

func setHelper(dst *string, v any) *fault {
	s, ok := v.(string)
	if !ok {
		return wrongType(v, helperForm)
	}
	switch {
	case s == "":
		return &fault{"is empty", helperForm}
	case len(s) > maxHelperName:
		return &fault{fmt.Sprintf("%q is %d bytes long", s, len(s)), helperForm}
	case strings.ContainsFunc(s, func(r rune) bool { return !plain(r) && r != '.' }):
		return &fault{strconv.Quote(s) + " has a character that is not allowed", helperForm}
	}
	*dst = s
	return nil
}

// setCarrier takes the one helper that is safe.
func setCarrier(dst *string, v any) *fault {
	const allowed = CarrierSANE
	s, ok := v.(string)
	switch {
	case !ok:
		return wrongType(v, allowed)
	case s == "":
		return &fault{"is empty", allowed}
	case s != CarrierSANE:
		return &fault{strconv.Quote(s) + " would read the connections itself, and might open ports for what it takes for its own protocol", allowed}
	}
	*dst = s
	return nil
}

func setTimeout(dst *time.Duration, v any) *fault {
	var d time.Duration
	if f := setDuration(&d, v, time.Second, time.Hour, timeoutForm); f != nil {
		return f
	}
	if d%time.Second != 0 {
		// The kernel counts the timeout of an expectation in seconds.
		return &fault{strconv.Quote(v.(string)) + " is not a whole number of seconds", timeoutForm}
	}
	*dst = d
	return nil
}

func setBusyPoll(dst *time.Duration, v any) *fault {
	return setDuration(dst, v, 0, 10*time.Millisecond, busyForm)
}

func setDuration(dst *time.Duration, v any, lowest, highest time.Duration, allowed string) *fault {
	s, ok := v.(string)
	if !ok {
		return wrongType(v, allowed)
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return &fault{strconv.Quote(s) + " is not a duration", allowed}
	case d < lowest || d > highest:
		return &fault{strconv.Quote(s) + " is out of range", allowed}
	}
	*dst = d
	return nil
}

func setListen(dst *string, v any, allowed string) *fault {
	s, ok := v.(string)
	if !ok {
		return wrongType(v, allowed)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return &fault{strconv.Quote(s) + " is not an address and a port", allowed}
	}
	if net.ParseIP(host) == nil {
		return &fault{strconv.Quote(host) + " is not an IP address", allowed}
	}
	if _, ok := parsePort(port); !ok {
		return &fault{strconv.Quote(port) + " is not a port", allowed}
	}
	*dst = s
	return nil
}

func setSocket(dst *string, v any) *fault {
	s, ok := v.(string)
	if !ok {
		return wrongType(v, socketForm)
	}
	switch {
	case s == "":
		return &fault{"is empty", socketForm}
	case !filepath.IsAbs(s):
		return &fault{strconv.Quote(s) + " is a relative path", socketForm}
	case len(s) > maxSocketPath:
		return &fault{fmt.Sprintf("is %d bytes long", len(s)), socketForm}
	case strings.ContainsRune(s, 0):
		return &fault{strconv.Quote(s) + " has a NUL", socketForm}
	}
	*dst = s
	return nil
}
