package config

import (
	"log/slog"
	"os"
	"time"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/nfq"
)

// DefaultPath is the file that is read if none is named.
const DefaultPath = "/etc/ftpctd/ftpctd.toml"

// Config is a valid configuration. A field stands for the key of its name in
// the file.
type Config struct {
	// Ports are the control ports, without duplicates; at least one.
	Ports []uint16
	// Admit is the admission mode: how data connections become RELATED.
	Admit Admit
	// MinPort is the lowest port that may be expected.
	MinPort uint16
	// RequireLogin rejects endpoints announced before a successful login.
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
	Address conntrack.AddressPolicy
	// Ports are the ports that a server may announce.
	Ports conntrack.PortRange
	// TLSPorts are the ports open to a client whose control connection switched to
	// TLS, where the daemon manages its table. The zero range is none.
	TLSPorts conntrack.PortRange
}

// Active is the policy for connections that the server opens.
type Active struct {
	// Enabled admits active mode at all.
	Enabled bool
	// Ports are the ports that a client may announce.
	Ports conntrack.PortRange
}

// LockQueue is the number of the packet queue that is the daemon's lock: the process
// that binds it is the only daemon of its network namespace. No rule sends packets to
// it.
const LockQueue = 65520

// Queue is how packets are read from the kernel.
type Queue struct {
	// Num is the number of the first queue. The last, Num+Count-1, is at most 65535,
	// and LockQueue is not among them.
	Num uint16
	// Count is the number of queues, and of their workers.
	Count uint16
	// Length is how many packets the kernel holds for one queue.
	Length uint32
	// Driver is nfq.DriverNetlink or nfq.DriverGoNFQueue.
	Driver string
	// BusyPoll is how long a worker polls for the next packet before it sleeps, while
	// packets arrive that often; 0 is off.
	BusyPoll time.Duration
	// SkipMark is the bit of the conntrack mark for connections that are no longer
	// queued. It is a single bit, or 0: off.
	SkipMark uint32
	// SkipTLS sets the mark on sessions that switched to TLS, too.
	SkipTLS bool
}

// Helper is the conntrack helper of the control connections.
type Helper struct {
	// Name is the helper that the daemon registers in the mode AdmitHelper.
	Name string
	// Carrier is the built-in helper of the mode AdmitExpect: [CarrierSANE].
	Carrier string
	// MaxExpected is how many expectations a control connection may have.
	MaxExpected uint32
	// Timeout is the lifetime of an unused expectation, in whole seconds.
	Timeout time.Duration
}

// Firewall is the daemon's part in the ruleset.
type Firewall struct {
	// Manage makes the daemon create and remove its own nftables table.
	Manage bool
	// AntiSpoof is the source address check.
	AntiSpoof firewall.AntiSpoof
}

// Limits are bounds on the daemon's memory.
type Limits struct {
	// Connections is the maximum number of tracked control connections.
	Connections int
}

// Log is the level and the format of the log.
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

// Admit is an admission mode: how data connections become RELATED.
type Admit string

// The admission modes.
const (
	// AdmitAuto is AdmitExpect, or AdmitEntry on a kernel without the carrier.
	AdmitAuto Admit = "auto"
	// AdmitExpect inserts expectations on control connections with a built-in helper,
	// the carrier.
	AdmitExpect Admit = "expect"
	// AdmitEntry creates the conntrack entry of the data connection.
	AdmitEntry Admit = "entry"
	// AdmitHelper inserts expectations on control connections with a helper that the
	// daemon registers.
	AdmitHelper Admit = "helper"
)

// CarrierSANE is the only built-in helper that may be the carrier: it parses a single
// request, which the daemon's rules keep from it. The others parse the payload of
// their connections, and open ports on their own.
const CarrierSANE = "sane"

// LogFormat is the format of log lines.
type LogFormat string

// The formats of log lines.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Ports:        []uint16{21},
		Admit:        AdmitAuto,
		MinPort:      1024,
		RequireLogin: true,
		Passive:      Passive{Address: conntrack.AddressPeer, Ports: conntrack.PortRange{Min: 1024, Max: 65535}},
		Active:       Active{Enabled: true, Ports: conntrack.PortRange{Min: 1024, Max: 65535}},
		Queue:        Queue{Num: 21, Count: 1, Length: 4096, Driver: nfq.DriverNetlink, BusyPoll: 200 * time.Microsecond},
		Helper:       Helper{Name: "ftpctd", Carrier: CarrierSANE, MaxExpected: 8, Timeout: 300 * time.Second},
		Firewall:     Firewall{Manage: true, AntiSpoof: firewall.AntiSpoofStrict},
		Limits:       Limits{Connections: 65536},
		Log:          Log{Level: slog.LevelInfo, Format: LogText},
		Control:      Control{Socket: "/run/ftpctd/ftpctd.sock"},
	}
}

// Load reads the file at path. Its error is an [*os.PathError] for a file that cannot
// be read, and an [*Error] for one with problems.
func Load(path string) (Config, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, doc)
}
