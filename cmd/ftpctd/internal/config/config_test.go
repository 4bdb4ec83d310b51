package config_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/nfq"
)

// referenceFile is the commented file that packages install.
const referenceFile = "../../dist/ftpctd.toml"

func TestReferenceFileHasTheDefaults(t *testing.T) {
	got, err := config.Load(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got); diff != "" {
		t.Errorf("%s differs from the defaults (-default +file):\n%s", referenceFile, diff)
	}
}

// TestReferenceFileHasEveryKey compares the names: by its value a key that the
// file lacks could not be told from one that has its default.
func TestReferenceFileHasEveryKey(t *testing.T) {
	text, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	var table string
	var keys []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch key, _, isKey := strings.Cut(line, " = "); {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[]") + "."
		case isKey:
			keys = append(keys, table+key)
		}
	}
	slices.Sort(keys)
	fields := fieldNames(reflect.TypeFor[config.Config](), "")
	slices.Sort(fields)
	if diff := cmp.Diff(fields, keys); diff != "" {
		t.Errorf("keys of %s differ from the fields of Config (-fields +file):\n%s", referenceFile, diff)
	}
}

// fieldNames returns the names of a struct's fields as keys of the file.
func fieldNames(typ reflect.Type, prefix string) (names []string) {
	words := strings.NewReplacer("SkipTLS", "skip_tls", "TLSPorts", "tls_ports", "MinPort", "min_port",
		"RequireLogin", "require_login", "SkipMark", "skip_mark", "BusyPoll", "busy_poll", "MaxExpected", "max_expected",
		"AntiSpoof", "anti_spoof")
	for f := range typ.Fields() {
		name := prefix + strings.ToLower(words.Replace(f.Name))
		if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[conntrack.PortRange]() {
			names = append(names, fieldNames(f.Type, name+".")...)
			continue
		}
		names = append(names, name)
	}
	return names
}

func TestParse(t *testing.T) {
	with := func(change func(*config.Config)) config.Config {
		c := config.Default()
		change(&c)
		return c
	}
	tests := []struct {
		name string
		text string
		want config.Config
	}{
		{"empty", "", config.Default()},
		{"only a comment", "# nothing\n", config.Default()},
		{"an empty table", "[passive]\n", config.Default()},
		{
			"every key",
			`ports = [21, 2121]
admit = "entry"
min_port = 2000
require_login = false
[passive]
address = "strict"
ports = "30000-30999"
tls_ports = "40000"
[active]
enabled = false
ports = "50000-65535"
[queue]
num = 65400
count = 64
length = 1
driver = "go-nfqueue"
busy_poll = "0s"
skip_mark = 0x80000000
skip_tls = true
[helper]
name = "ftp-2121"
carrier = "sane"
max_expected = 255
timeout = "1h"
[firewall]
manage = false
anti_spoof = "loose"
[limits]
connections = 1
[log]
level = "debug"
format = "json"
[metrics]
listen = "[::1]:9621"
[control]
socket = "/tmp/s"
`,
			config.Config{
				Ports:    []uint16{21, 2121},
				Admit:    config.AdmitEntry,
				MinPort:  2000,
				Passive:  config.Passive{Address: conntrack.AddressStrict, Ports: conntrack.PortRange{Min: 30000, Max: 30999}, TLSPorts: conntrack.PortRange{Min: 40000, Max: 40000}},
				Active:   config.Active{Ports: conntrack.PortRange{Min: 50000, Max: 65535}},
				Queue:    config.Queue{Num: 65400, Count: 64, Length: 1, Driver: nfq.DriverGoNFQueue, SkipMark: 1 << 31, SkipTLS: true},
				Helper:   config.Helper{Name: "ftp-2121", Carrier: config.CarrierSANE, MaxExpected: 255, Timeout: time.Hour},
				Limits:   config.Limits{Connections: 1},
				Log:      config.Log{Level: slog.LevelDebug, Format: config.LogJSON},
				Metrics:  config.Metrics{Listen: "[::1]:9621"},
				Control:  config.Control{Socket: "/tmp/s"},
				Firewall: config.Firewall{AntiSpoof: firewall.AntiSpoofLoose},
			},
		},
		{
			"dotted key",
			`passive.address = "reply"`,
			with(func(c *config.Config) { c.Passive.Address = conntrack.AddressReply }),
		},
		{
			"inline table",
			`queue = { num = 5, count = 2 }`,
			with(func(c *config.Config) { c.Queue.Num, c.Queue.Count = 5, 2 }),
		},
		{
			"quoted key",
			`"passive"."address" = "reply"`,
			with(func(c *config.Config) { c.Passive.Address = conntrack.AddressReply }),
		},
		{
			"empty strings that mean none",
			"passive.tls_ports = \"\"\nmetrics.listen = ''\n",
			config.Default(),
		},
		{
			"the lowest values",
			"ports = [1]\nmin_port = 1\n[queue]\nnum = 0\n[helper]\nmax_expected = 1\ntimeout = \"1s\"\n",
			with(func(c *config.Config) {
				c.Ports, c.MinPort = []uint16{1}, 1
				c.Queue.Num = 0
				c.Helper.MaxExpected, c.Helper.Timeout = 1, time.Second
			}),
		},
		{
			"a range that min_port cuts",
			"min_port = 40000\nactive.ports = \"39999-40000\"\n",
			with(func(c *config.Config) { c.MinPort, c.Active.Ports = 40000, conntrack.PortRange{Min: 39999, Max: 40000} }),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.Parse("f", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseProblems(t *testing.T) {
	const (
		portList   = "a list of ports from 1 to 65535, each once"
		portRange  = `two ports from 1 to 65535 and a hyphen, such as "30000-30999", or one port`
		helperName = "1 to 15 letters, digits, '-', '_' or '.'"
		listen     = `an address and a port, such as "127.0.0.1:9621" or "[::1]:9621", or ""`
		timeout    = `whole seconds from "1s" to "1h", such as "300s"`
		bit        = "0, or a single bit such as 0x100, up to 0x80000000"
		topLevel   = "ports, admit, min_port, require_login, passive, active, queue, helper, firewall, limits, log, metrics, control"
	)
	tests := []struct {
		name string
		text string
		want []string
	}{
		{"ports empty", "ports = []", []string{"f:1:1: ports: is empty; allowed: " + portList}},
		{"ports zero", "ports = [21, 0]", []string{"f:1:1: ports: 0 is out of range; allowed: " + portList}},
		{"ports too high", "\n  ports = [65536]", []string{"f:2:3: ports: 65536 is out of range; allowed: " + portList}},
		{"ports twice", "ports = [21, 2121, 21]", []string{"f:1:1: ports: duplicate port 21; allowed: " + portList}},
		{"ports a number", "ports = 21", []string{"f:1:1: ports: is an integer; allowed: " + portList}},
		{"ports of strings", `ports = ["ftp"]`, []string{"f:1:1: ports: an element is a string; allowed: " + portList}},
		{"ports a table", "[ports]\nx = 1", []string{"f:1:2: ports: is a table; allowed: " + portList}},
		{"admit unknown", `admit = "both"`, []string{`f:1:1: admit: "both" is unknown; allowed: auto, expect, entry, helper`}},
		{"admit a boolean", `admit = true`, []string{`f:1:1: admit: is a boolean; allowed: auto, expect, entry, helper`}},
		{"min_port 0", "min_port = 0", []string{"f:1:1: min_port: 0 is out of range; allowed: 1 to 65535"}},
		{"min_port too high", "min_port = 65536", []string{"f:1:1: min_port: 65536 is out of range; allowed: 1 to 65535"}},
		{"min_port a float", "min_port = 1024.0", []string{"f:1:1: min_port: is a floating-point number; allowed: 1 to 65535"}},
		{"require_login a string", `require_login = "yes"`, []string{"f:1:1: require_login: is a string; allowed: true, false"}},
		{"require_login a date", `require_login = 2008-01-01`, []string{"f:1:1: require_login: is a date or time; allowed: true, false"}},

		{"passive.address", "[passive]\naddress = \"any\"", []string{`f:2:1: passive.address: "any" is unknown; allowed: peer, strict, reply`}},
		{"passive.ports empty", "[passive]\nports = \"\"", []string{`f:2:1: passive.ports: "" is not a range of ports; allowed: ` + portRange}},
		{"passive.ports with a sign", "[passive]\nports = \"+1024-2048\"", []string{`f:2:1: passive.ports: "+1024-2048" is not a range of ports; allowed: ` + portRange}},
		{"passive.ports from 0", "[passive]\nports = \"0-65535\"", []string{`f:2:1: passive.ports: "0-65535" is not a range of ports; allowed: ` + portRange}},
		{"passive.ports three", "[passive]\nports = \"1-2-3\"", []string{`f:2:1: passive.ports: "1-2-3" is not a range of ports; allowed: ` + portRange}},
		{"passive.ports too high", "[passive]\nports = \"1024-65536\"", []string{`f:2:1: passive.ports: "1024-65536" is not a range of ports; allowed: ` + portRange}},
		{"passive.ports reversed", "[passive]\nports = \"30999-30000\"", []string{`f:2:1: passive.ports: "30999-30000": start is greater than end; allowed: ` + portRange}},
		{"passive.ports a list", "[passive]\nports = [30000, 30999]", []string{`f:2:1: passive.ports: is a list; allowed: ` + portRange}},
		{"passive.tls_ports", "[passive]\ntls_ports = \"all\"", []string{`f:2:1: passive.tls_ports: "all" is not a range of ports; allowed: ` + portRange + `, or ""`}},
		{"passive a value", "passive = true", []string{"f:1:1: passive: is a boolean; allowed: a table with the keys address, ports, tls_ports"}},
		{"passive a list of tables", "[[passive]]\naddress = \"any\"", []string{"f:1:3: passive: is a list; allowed: a table with the keys address, ports, tls_ports"}},
		{"active.ports below min_port", "[active]\nports = \"20-1023\"", []string{"f:2:1: active.ports: 20-1023 is entirely below min_port (1024); allowed: a range that reaches min_port"}},
		{
			"min_port above the ranges", "min_port = 50000\npassive.ports = \"1024-30000\"\nactive.ports = \"30000\"",
			[]string{
				"f:2:1: passive.ports: 1024-30000 is entirely below min_port (50000); allowed: a range that reaches min_port",
				"f:3:1: active.ports: 30000 is entirely below min_port (50000); allowed: a range that reaches min_port",
			},
		},

		{"queue.num", "[queue]\nnum = -1", []string{"f:2:1: queue.num: -1 is out of range; allowed: 0 to 65535"}},
		{"queue.count 0", "[queue]\ncount = 0", []string{"f:2:1: queue.count: 0 is out of range; allowed: 1 to 64"}},
		{"queue.count 65", "[queue]\ncount = 65", []string{"f:2:1: queue.count: 65 is out of range; allowed: 1 to 64"}},
		{"last queue", "[queue]\nnum = 65535\ncount = 2", []string{"f:3:1: queue.count: the last queue would be 65536; allowed: num + count - 1 up to 65535"}},
		{"the lock's queue", "[queue]\nnum = 65519\ncount = 2", []string{"f:3:1: queue.count: includes queue 65520, which the daemon uses as its lock; allowed: queues below 65520, or above"}},
		{"queue.length", "[queue]\nlength = 1048577", []string{"f:2:1: queue.length: 1048577 is out of range; allowed: 1 to 1048576"}},
		{"queue.driver", "[queue]\ndriver = \"ebpf\"", []string{`f:2:1: queue.driver: "ebpf" is unknown; allowed: netlink, go-nfqueue`}},
		{"queue.skip_mark two bits", "[queue]\nskip_mark = 0x300", []string{"f:2:1: queue.skip_mark: 0x300 is not a single bit of 32; allowed: " + bit}},
		{"queue.skip_mark 33rd bit", "[queue]\nskip_mark = 0x100000000", []string{"f:2:1: queue.skip_mark: 0x100000000 is not a single bit of 32; allowed: " + bit}},
		{"queue.skip_mark negative", "[queue]\nskip_mark = -1", []string{"f:2:1: queue.skip_mark: -0x1 is not a single bit of 32; allowed: " + bit}},
		{"queue.skip_mark a string", "[queue]\nskip_mark = \"0x100\"", []string{"f:2:1: queue.skip_mark: is a string; allowed: " + bit}},
		{"queue.skip_tls alone", "[queue]\nskip_tls = true", []string{"f:2:1: queue.skip_tls: has no effect while queue.skip_mark is 0; allowed: true only with a bit in queue.skip_mark"}},

		{"helper.name empty", "[helper]\nname = \"\"", []string{"f:2:1: helper.name: is empty; allowed: " + helperName}},
		{"helper.name long", "[helper]\nname = \"ftp-of-the-house\"", []string{`f:2:1: helper.name: "ftp-of-the-house" is 16 bytes long; allowed: ` + helperName}},
		{"helper.carrier of the kernel", "[helper]\ncarrier = \"irc\"", []string{`f:2:1: helper.carrier: "irc" inspects the connections itself, and may open ports for its own protocol; allowed: sane`}},
		{"helper.carrier empty", "[helper]\ncarrier = \"\"", []string{"f:2:1: helper.carrier: is empty; allowed: sane"}},
		{"helper.carrier a list", "[helper]\ncarrier = []", []string{"f:2:1: helper.carrier: is a list; allowed: sane"}},
		{"firewall.anti_spoof", "[firewall]\nanti_spoof = \"yes\"", []string{`f:2:1: firewall.anti_spoof: "yes" is unknown; allowed: strict, loose, off`}},
		{"firewall.anti_spoof a boolean", "[firewall]\nanti_spoof = false", []string{"f:2:1: firewall.anti_spoof: is a boolean; allowed: strict, loose, off"}},
		{"helper.max_expected", "[helper]\nmax_expected = 256", []string{"f:2:1: helper.max_expected: 256 is out of range; allowed: 1 to 255"}},
		{"queue.busy_poll", "[queue]\nbusy_poll = \"11ms\"", []string{`f:2:1: queue.busy_poll: "11ms" is out of range; allowed: a duration from "0s" to "10ms", such as "200us"`}},
		{"queue.busy_poll negative", "[queue]\nbusy_poll = \"-1us\"", []string{`f:2:1: queue.busy_poll: "-1us" is out of range; allowed: a duration from "0s" to "10ms", such as "200us"`}},
		{"helper.timeout without unit", "[helper]\ntimeout = \"30\"", []string{`f:2:1: helper.timeout: "30" is not a duration; allowed: ` + timeout}},
		{"helper.timeout short", "[helper]\ntimeout = \"999ms\"", []string{`f:2:1: helper.timeout: "999ms" is out of range; allowed: ` + timeout}},
		{"helper.timeout long", "[helper]\ntimeout = \"1h1s\"", []string{`f:2:1: helper.timeout: "1h1s" is out of range; allowed: ` + timeout}},
		{"helper.timeout fraction", "[helper]\ntimeout = \"1.5s\"", []string{`f:2:1: helper.timeout: "1.5s" is not a whole number of seconds; allowed: ` + timeout}},
		{"helper.timeout a number", "[helper]\ntimeout = 30", []string{`f:2:1: helper.timeout: is an integer; allowed: ` + timeout}},

		{"limits.connections", "limits.connections = 0", []string{"f:1:1: limits.connections: 0 is out of range; allowed: 1 to 16777216"}},
		{"log.level", "log.level = \"INFO\"", []string{`f:1:1: log.level: "INFO" is unknown; allowed: debug, info, warn, error`}},
		{"log.level a number", "log.level = 7", []string{`f:1:1: log.level: is an integer; allowed: debug, info, warn, error`}},
		{"log.format", "log.format = \"xml\"", []string{`f:1:1: log.format: "xml" is unknown; allowed: text, json`}},
		{"metrics.listen without port", "metrics.listen = \"127.0.0.1\"", []string{`f:1:1: metrics.listen: "127.0.0.1" is not an address and a port; allowed: ` + listen}},
		{"metrics.listen without address", "metrics.listen = \":9621\"", []string{`f:1:1: metrics.listen: "" is not an IP address; allowed: ` + listen}},
		{"metrics.listen port", "metrics.listen = \"[::1]:http\"", []string{`f:1:1: metrics.listen: "http" is not a port; allowed: ` + listen}},
		{"metrics.listen a number", "metrics.listen = 9621", []string{`f:1:1: metrics.listen: is an integer; allowed: ` + listen}},
		{"control.socket relative", "control.socket = \"ftpctd.sock\"", []string{`f:1:1: control.socket: "ftpctd.sock" is a relative path; allowed: an absolute path of at most 107 bytes`}},
		{"control.socket empty", "control.socket = \"\"", []string{`f:1:1: control.socket: is empty; allowed: an absolute path of at most 107 bytes`}},
		{"control.socket long", "control.socket = \"/" + strings.Repeat("s", 107) + "\"", []string{`f:1:1: control.socket: is 108 bytes long; allowed: an absolute path of at most 107 bytes`}},
		{"control.socket NUL", `control.socket = "/a\u0000b"`, []string{`f:1:1: control.socket: "/a\x00b" has a NUL; allowed: an absolute path of at most 107 bytes`}},
		{"control.socket a boolean", "control.socket = false", []string{`f:1:1: control.socket: is a boolean; allowed: an absolute path of at most 107 bytes`}},

		{"unknown key", "port = 21", []string{"f:1:1: port: is unknown; allowed: " + topLevel}},
		{"unknown key in a table", "[passive]\n\tport = 21", []string{"f:2:2: passive.port: is unknown; allowed: address, ports, tls_ports"}},
		{"unknown key in an inline table", "active = { enabled = true, port = 21 }", []string{"f:1:28: active.port: is unknown; allowed: enabled, ports"}},
		{"unknown table, its keys not told again", "[pasive]\naddress = 1\nports = 2", []string{"f:1:2: pasive: is unknown; allowed: " + topLevel}},
		{"unknown table of a dotted key", "a.b = 1\na.c = 2", []string{"f:1:1: a: is unknown; allowed: " + topLevel}},
		{"unknown table in a table", "[passive.tls]\nports = 1", []string{"f:1:2: passive.tls: is unknown; allowed: address, ports, tls_ports"}},
		{"a quoted key is one name", `"passive.address" = "peer"`, []string{`f:1:1: "passive.address": is unknown; allowed: ` + topLevel}},
		{"an empty key", `"" = 1`, []string{`f:1:1: "": is unknown; allowed: ` + topLevel}},
		{"keys have no upper case", `Ports = [21]`, []string{"f:1:1: Ports: is unknown; allowed: " + topLevel}},

		{"not TOML", "ports: [21]", []string{"f:1:6: expected character ="}},
		{"string not closed", "admit = \"auto\nmin_port = 1", []string{"f:1:14: basic strings cannot have new lines"}},
		{"integer with a leading zero", "min_port = 01024", []string{"f:1:13: expected newline but got U+0031 '1'"}},
		{"key twice", "ports = [21]\nmin_port = 1024\nports = [2121]\nlog.level = \"x\"", []string{"f:3:1: key ports is already defined"}},
		{"key twice in an inline table", "queue = { num = 1, num = 2 }", []string{"f:1:20: key num is already defined"}},
		{"table twice", "[passive]\n[active]\n[passive]\n", []string{"f:3:2: table passive already exists"}},

		{
			"all problems, in the order of the file",
			"[queue]\ncount = 0\nnum = 70000\n[log]\nlevel = 1\ncolour = true\n[active]\nports = \"x\"\n",
			[]string{
				"f:2:1: queue.count: 0 is out of range; allowed: 1 to 64",
				"f:3:1: queue.num: 70000 is out of range; allowed: 0 to 65535",
				"f:5:1: log.level: is an integer; allowed: debug, info, warn, error",
				"f:6:1: log.colour: is unknown; allowed: level, format",
				"f:8:1: active.ports: \"x\" is not a range of ports; allowed: " + portRange,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.Parse("f", []byte(tt.text))
			var e *config.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want a *config.Error", err)
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(config.Config{}, got); diff != "" {
				t.Errorf("a config beside the error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.toml")
	if _, err := config.Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(path, []byte("admit = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := path + ":1:1: admit: is an integer; allowed: auto, expect, entry, helper"
	if _, err := config.Load(path); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// FuzzParse makes sure that no file makes Parse panic, and that each problem
// has a place in the file.
func FuzzParse(f *testing.F) {
	reference, err := os.ReadFile(referenceFile)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(reference),
		"passive = { ports = \"1-2\", tls_ports = '' }\nqueue.skip_mark = 0b100",
		"[[passive]]\nports = [1, [2]]\n[passive.x]\n\"a.b\" = 1",
		"ports = [21]\nports = [22]",
		"helper.timeout = \"1h\"\nx = 1979-05-27T07:32:00Z\ny = +inf",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := config.Parse("f", text)
		if err == nil {
			return
		}
		var e *config.Error
		if !errors.As(err, &e) || len(e.Problems) == 0 {
			t.Fatalf("error %v is not a *config.Error with problems", err)
		}
		lines := 1 + strings.Count(string(text), "\n")
		for _, p := range e.Problems {
			if p.Line < 1 || p.Line > lines || p.Column < 1 || p.Wrong == "" {
				t.Errorf("problem without a place: %+v", p)
			}
		}
	})
}
