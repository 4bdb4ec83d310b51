package doctor

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
)

// option is an option of the kernel configuration.
type option struct {
	name   string // without CONFIG_
	module string
	needed bool
	// spoof marks an option that firewall.anti_spoof needs, unless it is off.
	spoof bool
	// instead names the option that does the same better: where a kernel has it, the
	// module is not used.
	instead string
	// admit are the modes of the configuration that use the module; all if empty.
	admit []config.Admit
}

// options are the options that ftpctd uses, and their modules.
var options = []option{
	{name: "NF_CONNTRACK", module: "nf_conntrack", needed: true},
	{name: "NF_CT_NETLINK", module: "nf_conntrack_netlink", needed: true},
	{name: "NETFILTER_NETLINK_QUEUE", module: "nfnetlink_queue", needed: true},
	{name: "NF_TABLES", module: "nf_tables", needed: true},
	{name: "NF_TABLES_INET", needed: true},
	{name: "NFT_CT", module: "nft_ct", needed: true},
	{name: "NFT_FIB_INET", module: "nft_fib_inet", spoof: true},
	{name: "NF_CONNTRACK_LABELS"},
	{name: "NFT_QUEUE", module: "nft_queue"},
	{name: "NFT_COMPAT", module: "nft_compat", instead: "NFT_QUEUE"},
	{name: "NETFILTER_XT_TARGET_NFQUEUE", module: "xt_NFQUEUE", instead: "NFT_QUEUE"},
	{name: "NF_CONNTRACK_SANE", module: "nf_conntrack_sane", admit: []config.Admit{config.AdmitAuto, config.AdmitExpect}},
	{name: "NF_CT_NETLINK_HELPER", module: cthelper, admit: []config.Admit{config.AdmitHelper}},
	{name: "NETFILTER_NETLINK_GLUE_CT"},
}

// uses reports whether a daemon with the configuration cfg loads the module of the
// option on a kernel that has the options set.
func (o option) uses(set map[string]string, cfg config.Config) bool {
	return set[o.name] == asModule && o.module != "" && set[o.instead] == "" &&
		(len(o.admit) == 0 || slices.Contains(o.admit, cfg.Admit))
}

// Values of an option.
const (
	builtIn  = "y"
	asModule = "m"
)

// readConfig returns the options that are set, and the file they were read from.
func readConfig(h Host) (set map[string]string, file string, err error) {
	for _, file := range []string{"proc/config.gz", "boot/config-" + h.Release()} {
		set, err = parseConfig(h.Files(), file)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return set, "/" + file, err
		}
	}
	return nil, "", err
}

func parseConfig(files fs.FS, name string) (map[string]string, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var text io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if text, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	set := make(map[string]string)
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			set[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	return set, lines.Err()
}

func checkKernelConfig(h Host, cfg config.Config) Result {
	set, file, err := readConfig(h)
	if err != nil {
		return Result{
			Warn, fmt.Sprintf("cannot read /proc/config.gz or /boot/config-%s; the checks below probe the kernel itself", h.Release()),
			"modprobe configs",
		}
	}
	var missing, absent []string
	for _, o := range options {
		if value := set[o.name]; value == builtIn || value == asModule {
			continue
		}
		if o.needed || o.spoof && cfg.Firewall.AntiSpoof != firewall.AntiSpoofOff {
			missing = append(missing, "CONFIG_"+o.name)
		} else {
			absent = append(absent, "CONFIG_"+o.name)
		}
	}
	// One of two is enough.
	if set["NFT_QUEUE"] == "" && (set["NFT_COMPAT"] == "" || set["NETFILTER_XT_TARGET_NFQUEUE"] == "") {
		missing = append(missing, "CONFIG_NFT_QUEUE")
	}
	if len(missing) > 0 {
		fix := "use a kernel that has these options"
		if slices.Contains(missing, "CONFIG_NFT_FIB_INET") {
			fix += `, or set firewall.anti_spoof = "off", which does not need CONFIG_NFT_FIB_INET`
		}
		return Result{Fail, file + " lacks " + strings.Join(missing, ", "), fix}
	}
	found := file + " has every required option"
	if len(absent) > 0 {
		found += "; optional, not set: " + strings.Join(absent, ", ")
	}
	return Result{Status: OK, Detail: found}
}

func checkKernelModules(h Host, cfg config.Config) Result {
	set, _, err := readConfig(h)
	if err != nil {
		return Result{Status: OK, Detail: "unknown: kernel configuration not readable"}
	}
	text, err := readFile(h.Files(), "proc/modules")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Result{Status: Warn, Detail: err.Error()}
	}
	loaded := make(map[string]bool)
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 {
			loaded[fields[0]] = true
		}
	}
	var missing []string
	modules := 0
	for _, o := range options {
		if o.uses(set, cfg) {
			modules++
			if !loaded[o.module] {
				missing = append(missing, o.module)
			}
		}
	}
	switch {
	case modules == 0:
		return Result{Status: OK, Detail: "everything that ftpctd uses is built into the kernel"}
	case len(missing) == 0:
		return Result{Status: OK, Detail: "all useful modules are loaded"}
	}
	return Result{
		Warn, "not loaded (the kernel may load them on demand): " + strings.Join(missing, ", "),
		"modprobe -a " + strings.Join(missing, " "),
	}
}

// checkCapabilities reports whether this is the initial user namespace. CAP_NET_ADMIN
// itself is checked before there is a Host.
func checkCapabilities(h Host) Result {
	text, err := readFile(h.Files(), "proc/self/uid_map")
	if err != nil {
		return Result{Status: Warn, Detail: err.Error()}
	}
	if slices.Equal(strings.Fields(text), []string{"0", "0", "4294967295"}) {
		return Result{Status: OK, Detail: "CAP_NET_ADMIN, in the initial user namespace"}
	}
	return Result{
		Warn, "CAP_NET_ADMIN in a user namespace: cannot register helpers or load modules",
		"load the modules in the initial user namespace, and set admit = \"auto\"",
	}
}

func checkPacketQueue(h Host) Result {
	if err := h.Queue(); err != nil {
		return Result{Fail, err.Error(), "modprobe nfnetlink_queue"}
	}
	return Result{Status: OK, Detail: "queues can be bound and fail open"}
}

func checkQueueRule(h Host, cfg config.Config) Result {
	mode, err := h.Rules(cfg.Firewall.AntiSpoof != firewall.AntiSpoofOff)
	if err != nil {
		return Result{Fail, err.Error(), "modprobe -a nft_ct nft_fib_inet nft_queue (without nft_queue: nft_compat xt_NFQUEUE)"}
	}
	return Result{Status: OK, Detail: "packets are queued by " + mode}
}

// checkKeptAway reports the packets that the rules of a running daemon kept from it.
func checkKeptAway(h Host, cfg config.Config) Result {
	c, err := h.KeptAway()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Result{Status: OK, Detail: "no daemon is running"}
	case err != nil:
		return Result{Warn, err.Error(), "inspect manually: nft list counters table inet ftpctd"}
	}
	var found []string
	if c.Spoofed > 0 {
		found = append(found, fmt.Sprintf("%d packets failed the source address check and were not inspected", c.Spoofed))
	}
	if c.SANERequests > 0 {
		found = append(found, fmt.Sprintf("dropped %d requests to the kernel's sane helper, which attempt to open ports", c.SANERequests))
	}
	if c.FastOpens > 0 {
		found = append(found, fmt.Sprintf("dropped %d SYNs with data (TCP Fast Open); clients retransmit them without data", c.FastOpens))
	}
	switch {
	case c.Spoofed > 0:
		return Result{
			Warn, strings.Join(found, "; "),
			`if the addresses are not forged, set firewall.anti_spoof = "loose" (asymmetric routing) or "off" (bridge without addresses)`,
		}
	case c.SANERequests > 0:
		return Result{Warn, strings.Join(found, "; "), "find out which host sends them"}
	case len(found) > 0:
		return Result{Status: OK, Detail: strings.Join(found, "; ")}
	case cfg.Firewall.AntiSpoof == firewall.AntiSpoofOff:
		return Result{Status: OK, Detail: "no packets kept from the daemon; source addresses are not checked (firewall.anti_spoof)"}
	}
	return Result{Status: OK, Detail: "no packets kept from the daemon"}
}

func checkCtnetlink(h Host) Result {
	if err := h.Conntrack(); err != nil {
		return Result{Fail, err.Error(), "modprobe nf_conntrack_netlink"}
	}
	return Result{Status: OK, Detail: "expectations can be listed"}
}

// checkQueueOwner checks that the daemon's queues are free, or bound by a daemon.
func checkQueueOwner(h Host, cfg config.Config) Result {
	var mine []string
	for i := range cfg.Queue.Count {
		num := cfg.Queue.Num + i
		owner, bound := h.Owner(num)
		switch {
		case !bound:
		case owner.Command == "ftpctd":
			mine = append(mine, fmt.Sprintf("queue %d is bound by %v", num, owner))
		default:
			fix := "set queue.num to another number"
			if owner.PID != "" {
				fix = "kill " + owner.PID + ", or " + fix
			}
			return Result{Fail, fmt.Sprintf("queue %d is bound by %v", num, owner), fix}
		}
	}
	if len(mine) > 0 {
		return Result{Status: OK, Detail: strings.Join(mine, "; ")}
	}
	return Result{Status: OK, Detail: free(cfg)}
}

func free(cfg config.Config) string {
	if cfg.Queue.Count == 1 {
		return fmt.Sprintf("queue %d is free", cfg.Queue.Num)
	}
	return fmt.Sprintf("queues %d to %d are free", cfg.Queue.Num, cfg.Queue.Num+cfg.Queue.Count-1)
}

// full is the share of a table from which on a check warns.
const full = 0.8

func checkExpectationTable(h Host) Result {
	const limit = "nf_conntrack_expect_max"
	highest, err := readNumber(h.Files(), "proc/sys/net/netfilter/"+limit)
	if err != nil {
		return Result{Warn, err.Error(), "modprobe nf_conntrack"}
	}
	n, err := h.Expectations()
	if err != nil {
		return Result{Warn, err.Error(), "modprobe nf_conntrack_netlink"}
	}
	return fill("expectations", n, highest, limit)
}

func checkConnectionTable(h Host) Result {
	const limit = "nf_conntrack_max"
	highest, err := readNumber(h.Files(), "proc/sys/net/netfilter/"+limit)
	if err != nil {
		return Result{Warn, err.Error(), "modprobe nf_conntrack"}
	}
	n, err := readNumber(h.Files(), "proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return Result{Warn, err.Error(), "modprobe nf_conntrack"}
	}
	return fill("connections", n, highest, limit)
}

func fill(what string, n, highest int, limit string) Result {
	r := Result{Status: OK, Detail: fmt.Sprintf("%d of %d %s", n, highest, what)}
	if float64(n) >= full*float64(highest) {
		r.Status = Warn
		r.Fix = fmt.Sprintf("sysctl -w net.netfilter.%s=%d", limit, max(2*highest, 1024))
	}
	return r
}

// checkFTPS reports how data connections of TLS sessions are handled.
func checkFTPS(_ Host, cfg config.Config) Result {
	if cfg.Passive.TLSPorts != (conntrack.PortRange{}) {
		if cfg.Firewall.Manage {
			return Result{Status: OK, Detail: fmt.Sprintf("clients of TLS sessions may connect to ports %s of their server", cfg.Passive.TLSPorts)}
		}
		return Result{Warn, "passive.tls_ports has no effect without the daemon's table", "set firewall.manage = true"}
	}
	return Result{
		OK, "data ports of TLS sessions cannot be read",
		"for servers with TLS, give the server a passive port range and set passive.tls_ports to it",
	}
}

// readFile returns the text of a file.
func readFile(files fs.FS, name string) (string, error) {
	text, err := fs.ReadFile(files, name)
	return string(text), err
}

// readNumber returns the number in a file.
func readNumber(files fs.FS, name string) (int, error) {
	text, err := readFile(files, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("/%s: %w", name, err)
	}
	return n, nil
}
