// Package config reads the configuration file of ftpctd.
//
// The file is TOML. Every key is optional, none is ignored: an unknown key, a
// value of another type and a value out of its range are each a [Problem] with
// its place in the file, and all of them are reported at once.
package config

import (
	"log/slog"
	"os"
	"time"

	"ftpctd/conntrack"
)

// DefaultPath is where the file is looked for if none is named.
const DefaultPath = "/etc/ftpctd/ftpctd.toml"

// Config is a valid configuration. A field stands for the key of its name in
// the file.
type Config struct {
	// Ports are the control ports, without duplicates; at least one.
	Ports []uint16
	// Admit is the way data connections are made RELATED.
	Admit Admit
	// MinPort is the lowest port that may be expected.
	MinPort uint16
	// RequireLogin lets an endpoint count only after the login succeeded.
	RequireLogin bool

	Passive  Passive
	Active   Active
	Queue    Queue
	Helper   Helper
	Firewall Firewall
	Limits   Limits
	Log      Log
	Metrics  Metrics
	Control  Control
}

// Passive is the policy for connections that the client opens.
type Passive struct {
	// Address decides on a reply that names another host than the server.
	Address Address
	// Ports are the ports that a server may announce.
	Ports conntrack.PortRange
	// TLSPorts are the ports admitted for a client whose control connection went
	// opaque, where the daemon manages its table. The zero range is none.
	TLSPorts conntrack.PortRange
}

// Active is the policy for connections that the server opens.
type Active struct {
	// Enabled admits active mode at all.
	Enabled bool
	// Ports are the ports that a client may announce.
	Ports conntrack.PortRange
}

// LockQueue is the number of a packet queue that no rule sends anything to: who has it
// is the one daemon of the network namespace.
const LockQueue = 65520

// Queue says how packets come from the kernel.
type Queue struct {
	// Num is the number of the first queue. Num+Count-1 is at most 65535, and LockQueue
	// is none of them.
	Num uint16
	// Count is the number of queues, and of their workers.
	Count uint16
	// Length is how many packets the kernel holds for a queue.
	Length uint32
	// Driver is the implementation that reads them.
	Driver Driver
	// BusyPoll is how long a worker looks for the next packet before it sleeps,
	// while packets come that often; 0 is off.
	BusyPoll time.Duration
	// SkipMark is the bit of the conntrack mark for sessions that are not to be
	// queued any more. It is a single bit, or 0: off.
	SkipMark uint32
	// SkipTLS sets the mark for sessions that went opaque, too.
	SkipTLS bool
}

// Helper is the conntrack helper of the control connections.
type Helper struct {
	// Name is registered with the kernel where that can be done.
	Name string
	// Carrier is assigned where it cannot: [CarrierSANE].
	Carrier string
	// MaxExpected is how many expectations a control connection may have.
	MaxExpected uint32
	// Timeout is how long an expectation waits, in whole seconds.
	Timeout time.Duration
}

// Firewall says what the daemon does to the ruleset.
type Firewall struct {
	// Manage lets the daemon make and remove its own nftables table.
	Manage bool
	// AntiSpoof decides whose source address is believed.
	AntiSpoof AntiSpoof
}

// Limits bounds what the daemon remembers.
type Limits struct {
	// Connections is how many control connections are followed.
	Connections int
}

// Log is what is logged, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// Metrics is the scrape endpoint.
type Metrics struct {
	// Listen is the address and port to listen on. Empty is off.
	Listen string
}

// Control is the socket of status and events.
type Control struct {
	// Socket is the absolute path of a unix socket.
	Socket string
}

// Admit is a way to make data connections RELATED.
type Admit string

// The ways to make data connections RELATED.
const (
	// AdmitAuto takes the best way the kernel offers.
	AdmitAuto Admit = "auto"
	// AdmitExpect inserts expectations; the control connection needs a helper.
	AdmitExpect Admit = "expect"
	// AdmitEntry creates the conntrack entry of the data connection.
	AdmitEntry Admit = "entry"
)

// Address decides on a passive reply that names another host than the server.
type Address string

// What a passive reply's address means.
const (
	// AddressPeer expects the server itself, with the announced port.
	AddressPeer Address = "peer"
	// AddressStrict refuses the reply.
	AddressStrict Address = "strict"
	// AddressReply trusts the reply, which transfers between two servers need.
	AddressReply Address = "reply"
)

// CarrierSANE is the one helper of the kernel that may be the carrier: it reads
// nothing but a request that the daemon's rules keep from it. The others read what
// their connections carry, and open ports by themselves.
const CarrierSANE = "sane"

// AntiSpoof decides whose source address is believed. Packets whose source is not
// believed are counted and go on unread.
type AntiSpoof string

// Whose source address is believed.
const (
	// AntiSpoofStrict believes a source whose way back is the link that the packet
	// came from.
	AntiSpoofStrict AntiSpoof = "strict"
	// AntiSpoofLoose believes all but addresses that no other host can have.
	AntiSpoofLoose AntiSpoof = "loose"
	// AntiSpoofOff believes all.
	AntiSpoofOff AntiSpoof = "off"
)

// Driver is an implementation of the packet queue.
type Driver string

// The implementations of the packet queue.
const (
	DriverNetlink   Driver = "netlink"
	DriverGoNFQueue Driver = "go-nfqueue"
)

// LogFormat is the form of a log line.
type LogFormat string

// The forms of a log line.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Default returns the configuration that an empty file gives.
func Default() Config {
	return Config{
		Ports:        []uint16{21},
		Admit:        AdmitAuto,
		MinPort:      1024,
		RequireLogin: true,
		Passive:      Passive{Address: AddressPeer, Ports: conntrack.PortRange{Min: 1024, Max: 65535}},
		Active:       Active{Enabled: true, Ports: conntrack.PortRange{Min: 1024, Max: 65535}},
		Queue:        Queue{Num: 21, Count: 1, Length: 4096, Driver: DriverNetlink, BusyPoll: 200 * time.Microsecond},
		Helper:       Helper{Name: "ftpctd", Carrier: CarrierSANE, MaxExpected: 8, Timeout: 300 * time.Second},
		Firewall:     Firewall{Manage: true, AntiSpoof: AntiSpoofStrict},
		Limits:       Limits{Connections: 65536},
		Log:          Log{Level: slog.LevelInfo, Format: LogText},
		Control:      Control{Socket: "/run/ftpctd/ftpctd.sock"},
	}
}

// Load reads the file at path. A file that cannot be read gives an
// [*os.PathError], a file with problems an [*Error].
func Load(path string) (Config, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, doc)
}
