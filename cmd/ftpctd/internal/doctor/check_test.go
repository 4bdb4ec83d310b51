package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// kernelConfig is of a kernel that has everything as a module.
const kernelConfig = `# Linux
CONFIG_NF_CONNTRACK=m
CONFIG_NF_CT_NETLINK=m
CONFIG_NETFILTER_NETLINK_QUEUE=m
CONFIG_NF_TABLES=m
CONFIG_NF_TABLES_INET=y
CONFIG_NFT_CT=m
CONFIG_NFT_FIB_INET=m
CONFIG_NFT_QUEUE=m
CONFIG_NFT_COMPAT=m
CONFIG_NETFILTER_XT_TARGET_NFQUEUE=m
CONFIG_NF_CT_NETLINK_HELPER=m
CONFIG_NF_CONNTRACK_SANE=m
CONFIG_NETFILTER_NETLINK_GLUE_CT=y
`

// healthy returns a host with everything that a distribution provides.
func healthy() fakeHost {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	var modules strings.Builder
	for _, o := range options {
		if o.module != "" {
			modules.WriteString(o.module + " 16384 0 - Live 0x0\n")
		}
	}
	return fakeHost{
		files: fstest.MapFS{
			"proc/self/uid_map": file("         0          0 4294967295\n"),
			"boot/config-6.1.0": file(kernelConfig),
			"proc/modules":      file(modules.String()),
			"proc/sys/net/netfilter/nf_conntrack_expect_max": file("1000\n"),
			"proc/sys/net/netfilter/nf_conntrack_max":        file("2000\n"),
			"proc/sys/net/netfilter/nf_conntrack_count":      file("3\n"),
		},
		rules: func(bool) (string, error) { return "nft queue", nil },
		choose: func() (admit.Admission, error) {
			return admit.Admission{Mode: config.AdmitHelper, Helper: "ftpctd", Why: "it is the best"}, nil
		},
		roundTrip: func(admit.Admission) ([]string, error) { return []string{"IPv4", "IPv6"}, nil },
		owner:     func(uint16) (nfq.Owner, bool) { return nfq.Owner{}, false },
		keptAway:  func() (firewall.Counters, error) { return firewall.Counters{}, nil },
		tables:    func() ([]Table, error) { return nil, nil },
		count:     func() (int, error) { return 2, nil },
	}
}

// fakeHost is a Host whose answers are fields.
type fakeHost struct {
	files                             fstest.MapFS
	queue, conntrack, ownHelper, sane error
	rules                             func(antiSpoof bool) (string, error)
	choose                            func() (admit.Admission, error)
	roundTrip                         func(admit.Admission) ([]string, error)
	owner                             func(num uint16) (nfq.Owner, bool)
	keptAway                          func() (firewall.Counters, error)
	tables                            func() ([]Table, error)
	count                             func() (int, error) // of expectations
}

func (h fakeHost) Files() fs.FS                                  { return h.files }
func (h fakeHost) Release() string                               { return "6.1.0" }
func (h fakeHost) Queue() error                                  { return h.queue }
func (h fakeHost) Rules(antiSpoof bool) (string, error)          { return h.rules(antiSpoof) }
func (h fakeHost) Conntrack() error                              { return h.conntrack }
func (h fakeHost) OwnHelper() error                              { return h.ownHelper }
func (h fakeHost) Carrier(string) error                          { return h.sane }
func (h fakeHost) Choose(config.Config) (admit.Admission, error) { return h.choose() }
func (h fakeHost) Owner(num uint16) (nfq.Owner, bool)            { return h.owner(num) }
func (h fakeHost) KeptAway() (firewall.Counters, error)          { return h.keptAway() }
func (h fakeHost) Tables() ([]Table, error)                      { return h.tables() }
func (h fakeHost) Expectations() (int, error)                    { return h.count() }

func (h fakeHost) RoundTrip(_ context.Context, a admit.Admission) ([]string, error) {
	return h.roundTrip(a)
}

// with replaces a file; without text it removes it.
func (h fakeHost) with(name, text string) fakeHost {
	files := fstest.MapFS{}
	for n, f := range h.files {
		if n != name {
			files[n] = f
		}
	}
	if text != "" {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	h.files = files
	return h
}

// without returns the list of a host's modules without some.
func without(h fakeHost, modules ...string) string {
	var b strings.Builder
	for line := range strings.Lines(string(h.files["proc/modules"].Data)) {
		if !slices.Contains(modules, strings.Fields(line)[0]) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// chooses returns what makes a host choose an admission.
func chooses(a admit.Admission) func(fakeHost) fakeHost {
	return func(h fakeHost) fakeHost {
		h.choose = func() (admit.Admission, error) { return a, nil }
		return h
	}
}

func choosesNothing(h fakeHost) fakeHost {
	h.choose = func() (admit.Admission, error) { return admit.Admission{}, errNothing }
	return h
}

// keptAway returns what makes a host's rules count c.
func keptAway(c firewall.Counters, err error) func(fakeHost) fakeHost {
	return func(h fakeHost) fakeHost {
		h.keptAway = func() (firewall.Counters, error) { return c, err }
		return h
	}
}

var errNothing = errors.New("no such thing")

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestHealthyHost(t *testing.T) {
	var got []string
	for _, c := range Checks(healthy(), config.Default()) {
		r := c.Run(t.Context())
		if r.Status != OK {
			t.Errorf("%s: %v", c.Name(), r)
		}
		got = append(got, c.Name())
	}
	want := []string{
		"capabilities", "kernel-config", "kernel-modules", "packet-queue", "queue-rule", "ctnetlink",
		"own-helper", "carrier-helper", "admission", "round-trip", "queue-owner", "kept-away", "kernel-ftp-helper",
		"related-rule", "expectation-table", "connection-table", "ftps",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// TestCheck takes something from a healthy host and runs the one check that must
// notice.
func TestCheck(t *testing.T) {
	const ownHelper = `admit = "helper"`
	noHelpers := &ctnetlink.Error{Op: ctnetlink.OpHelpers, Err: unix.EINVAL}
	tests := []struct {
		name   string
		check  string
		host   func(h fakeHost) fakeHost
		cfg    string
		want   Status
		detail string // part of it
		fix    string // part of it
	}{
		{name: "a user namespace", check: "capabilities", host: func(h fakeHost) fakeHost {
			return h.with("proc/self/uid_map", "         0       1000          1\n")
		}, want: Warn, detail: "user namespace", fix: "load the modules"},

		{name: "no configuration of the kernel", check: "kernel-config", host: func(h fakeHost) fakeHost { return h.with("boot/config-6.1.0", "") }, want: Warn, detail: "/boot/config-6.1.0", fix: "modprobe configs"},
		{name: "the kernel lacks something", check: "kernel-config", host: func(h fakeHost) fakeHost {
			return h.with("boot/config-6.1.0", strings.ReplaceAll(kernelConfig, "CONFIG_NF_CT_NETLINK=m", "# CONFIG_NF_CT_NETLINK is not set"))
		}, want: Fail, detail: "/boot/config-6.1.0 lacks CONFIG_NF_CT_NETLINK", fix: "kernel"},
		{name: "the kernel can queue only by xt", check: "kernel-config", host: func(h fakeHost) fakeHost {
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(kernelConfig, "CONFIG_NFT_QUEUE=m\n", "")))
		}, want: OK, detail: "/proc/config.gz has every required option; optional, not set: CONFIG_NF_CONNTRACK_LABELS, CONFIG_NFT_QUEUE"},
		{name: "the kernel cannot queue", check: "kernel-config", host: func(h fakeHost) fakeHost {
			config := strings.ReplaceAll(kernelConfig, "CONFIG_NFT_QUEUE=m\n", "")
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(config, "CONFIG_NFT_COMPAT=m\n", "")))
		}, want: Fail, detail: "lacks CONFIG_NFT_QUEUE", fix: "kernel"},
		{name: "the kernel cannot look up the way back", check: "kernel-config", host: func(h fakeHost) fakeHost {
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(kernelConfig, "CONFIG_NFT_FIB_INET=m\n", "")))
		}, want: Fail, detail: "lacks CONFIG_NFT_FIB_INET", fix: `firewall.anti_spoof = "off"`},
		{name: "the kernel cannot look up the way back, not needed", check: "kernel-config", host: func(h fakeHost) fakeHost {
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(kernelConfig, "CONFIG_NFT_FIB_INET=m\n", "")))
		}, cfg: "[firewall]\nanti_spoof = \"off\"", want: OK, detail: "optional, not set: CONFIG_NFT_FIB_INET"},
		{name: "a broken configuration of the kernel", check: "kernel-config", host: func(h fakeHost) fakeHost { return h.with("proc/config.gz", "x") }, want: Warn, detail: "cannot read"},

		{name: "modules not loaded", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			return h.with("proc/modules", "nf_conntrack 1 0 - Live 0x0\nnf_tables 1 0 - Live 0x0\n")
		}, want: Warn, detail: "nfnetlink_queue", fix: "modprobe -a nf_conntrack_netlink nfnetlink_queue nft_ct nft_fib_inet nft_queue nf_conntrack_sane"},
		{name: "not loaded, and not useful beside those that are", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			return h.with("proc/modules", without(h, "nft_compat", "xt_NFQUEUE", "nfnetlink_cthelper"))
		}, want: OK, detail: "useful modules are loaded"},
		{name: "not loaded, and nothing better", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			h = h.with("proc/modules", without(h, "nft_compat", "nft_queue", "xt_NFQUEUE"))
			return h.with("boot/config-6.1.0", strings.Replace(kernelConfig, "CONFIG_NFT_QUEUE=m", "", 1))
		}, want: Warn, detail: "not loaded", fix: "modprobe -a nft_compat xt_NFQUEUE"},
		{name: "the carrier not loaded, and not used", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			return h.with("proc/modules", without(h, "nf_conntrack_sane"))
		}, cfg: ownHelper, want: OK, detail: "useful modules are loaded"},
		{name: "the carrier not loaded", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			return h.with("proc/modules", without(h, "nf_conntrack_sane"))
		}, cfg: `admit = "expect"`, want: Warn, detail: "not loaded", fix: "modprobe -a nf_conntrack_sane"},
		{name: "user-space helpers not loaded", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			return h.with("proc/modules", without(h, "nfnetlink_cthelper"))
		}, cfg: ownHelper, want: Warn, detail: "not loaded", fix: "modprobe -a nfnetlink_cthelper"},
		{name: "all built in, no modules", check: "kernel-modules", host: func(h fakeHost) fakeHost {
			return h.with("proc/modules", "").with("boot/config-6.1.0", strings.ReplaceAll(kernelConfig, "=m", "=y"))
		}, want: OK, detail: "built in"},
		{name: "kernel configuration unknown", check: "kernel-modules", host: func(h fakeHost) fakeHost { return h.with("boot/config-6.1.0", "") }, want: OK, detail: "unknown"},

		{name: "no queue", check: "packet-queue", host: func(h fakeHost) fakeHost { h.queue = errNothing; return h }, want: Fail, detail: "no such thing", fix: "modprobe nfnetlink_queue"},
		{name: "no rule", check: "queue-rule", host: func(h fakeHost) fakeHost {
			h.rules = func(bool) (string, error) { return "", errNothing }
			return h
		}, want: Fail, detail: "no such thing", fix: "modprobe -a nft_ct nft_fib_inet nft_queue"},
		{name: "the other rule", check: "queue-rule", host: func(h fakeHost) fakeHost {
			h.rules = func(bool) (string, error) { return "xt NFQUEUE", nil }
			return h
		}, want: OK, detail: "xt NFQUEUE"},
		{name: "the rule as the configuration has it", check: "queue-rule", host: func(h fakeHost) fakeHost {
			h.rules = func(antiSpoof bool) (string, error) { return fmt.Sprint("anti-spoof ", antiSpoof), nil }
			return h
		}, cfg: "[firewall]\nanti_spoof = \"off\"", want: OK, detail: "anti-spoof false"},
		{name: "no ctnetlink", check: "ctnetlink", host: func(h fakeHost) fakeHost { h.conntrack = errNothing; return h }, want: Fail, detail: "no such thing", fix: "modprobe nf_conntrack_netlink"},

		{name: "no user-space helpers", check: "own-helper", host: func(h fakeHost) fakeHost { h.ownHelper = noHelpers; return h }, cfg: ownHelper, want: Warn, detail: "not supported", fix: "modprobe nfnetlink_cthelper"},
		{name: "another error", check: "own-helper", host: func(h fakeHost) fakeHost { h.ownHelper = errNothing; return h }, cfg: ownHelper, want: Warn, detail: "no such thing", fix: "modprobe nfnetlink_cthelper"},
		{name: "no user-space helpers, not needed", check: "own-helper", host: func(h fakeHost) fakeHost { h.ownHelper = noHelpers; return h }, want: OK, detail: "not needed"},
		{name: "no carrier, not needed", check: "carrier-helper", host: func(h fakeHost) fakeHost { h.sane = errNothing; return h }, cfg: ownHelper, want: OK, detail: `helper "sane" not available`},
		{name: "no carrier, needed", check: "carrier-helper", host: func(h fakeHost) fakeHost {
			h.sane = errNothing
			return h
		}, want: Warn, detail: "no such thing", fix: "modprobe nf_conntrack_sane"},

		{name: "own helper", check: "admission", host: func(h fakeHost) fakeHost { return h }, want: OK, detail: `own helper, "ftpctd": it is the best`},
		{name: "carrier", check: "admission", host: chooses(admit.Admission{Mode: config.AdmitExpect, Helper: "sane", Why: "there is no other"}), want: OK, detail: `built-in helper "sane": there is no other`},
		{name: "entry", check: "admission", host: chooses(admit.Admission{Mode: config.AdmitEntry, Why: "there is no other"}), want: OK, detail: "entries for data connections: there is no other"},
		{name: "no mode", check: "admission", host: choosesNothing, want: Fail, detail: "no admission mode works: no such thing", fix: "modprobe -a nf_conntrack_netlink nf_conntrack_sane"},
		{name: "no mode, own helper", check: "admission", host: choosesNothing, cfg: ownHelper, want: Fail, detail: "no such thing", fix: "modprobe -a nf_conntrack_netlink nfnetlink_cthelper"},
		{name: "no mode, entry", check: "admission", host: choosesNothing, cfg: `admit = "entry"`, want: Fail, detail: "no such thing", fix: `modprobe nf_conntrack_netlink, or set admit = "auto"`},
		{name: "no mode, entry without the table", check: "admission", host: choosesNothing, cfg: "admit = \"entry\"\n[firewall]\nmanage = false", want: Fail, detail: "no such thing", fix: `set firewall.manage = true, or set admit = "auto"`},

		{name: "no round trip", check: "round-trip", host: func(h fakeHost) fakeHost {
			h.roundTrip = func(admit.Admission) ([]string, error) { return nil, errNothing }
			return h
		}, want: Fail, detail: `own helper, "ftpctd": no such thing`, fix: "6.1.0"},
		{name: "round trip skipped", check: "round-trip", host: choosesNothing, want: Fail, detail: "skipped", fix: "admission"},
		{name: "round trip with what was chosen", check: "round-trip", host: func(h fakeHost) fakeHost {
			h = chooses(admit.Admission{Mode: config.AdmitExpect, Helper: "irc"})(h)
			h.roundTrip = func(a admit.Admission) ([]string, error) { return []string{"IPv4", a.Helper}, nil }
			return h
		}, want: OK, detail: "over IPv4 and irc"},

		{name: "the queue is the daemon's", check: "queue-owner", host: func(h fakeHost) fakeHost {
			h.owner = func(num uint16) (nfq.Owner, bool) {
				return nfq.Owner{PortID: "1", PID: "42", Command: "ftpctd"}, num == 8
			}
			return h
		}, cfg: "[queue]\nnum = 7\ncount = 2", want: OK, detail: "queue 8 is bound by process 42 (ftpctd)"},
		{name: "the queue is another program's", check: "queue-owner", host: func(h fakeHost) fakeHost {
			h.owner = func(uint16) (nfq.Owner, bool) {
				return nfq.Owner{PortID: "1", PID: "42", Command: "suricata"}, true
			}
			return h
		}, want: Fail, detail: "queue 21 is bound by process 42 (suricata)", fix: "kill 42, or set queue.num"},
		{name: "the queue is of an unknown process", check: "queue-owner", host: func(h fakeHost) fakeHost {
			h.owner = func(uint16) (nfq.Owner, bool) { return nfq.Owner{PortID: "77"}, true }
			return h
		}, want: Fail, detail: "port ID 77", fix: "set queue.num"},

		{name: "forged addresses", check: "kept-away", host: keptAway(firewall.Counters{Spoofed: 7, FastOpens: 1}, nil), want: Warn, detail: "7 packets failed the source address check", fix: `firewall.anti_spoof = "loose"`},
		{name: "requests to the carrier", check: "kept-away", host: keptAway(firewall.Counters{SANERequests: 3}, nil), want: Warn, detail: "3 requests to the kernel's sane helper", fix: "which host sends them"},
		{name: "Fast Open", check: "kept-away", host: keptAway(firewall.Counters{FastOpens: 2}, nil), want: OK, detail: "2 SYNs with data"},
		{name: "addresses are not checked", check: "kept-away", host: keptAway(firewall.Counters{}, nil), cfg: "[firewall]\nanti_spoof = \"off\"", want: OK, detail: "source addresses are not checked"},
		{name: "no daemon runs", check: "kept-away", host: keptAway(firewall.Counters{}, &firewall.Error{Op: "list", Err: unix.ENOENT}), want: OK, detail: "no daemon is running"},
		{name: "counters that cannot be read", check: "kept-away", host: keptAway(firewall.Counters{}, errNothing), want: Warn, detail: "no such thing", fix: "nft list counters"},

		{name: "the kernel assigns its helper", check: "kernel-ftp-helper", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) {
				return []Table{{Name: "inet a", Helpers: []string{"sane"}}, {Name: "ip raw", Helpers: []string{"tftp", "ftp"}}}, nil
			}
			return h
		}, want: Warn, detail: "ip raw", fix: "remove the rule from the table ip raw"},
		{name: "the daemon's helper is called ftp", check: "kernel-ftp-helper", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) { return []Table{{Name: "inet ftpctd", Helpers: []string{"ftp"}}}, nil }
			return h
		}, cfg: ownHelper + "\nhelper.name = \"ftp\"", want: OK, detail: "no rule"},
		{name: "the daemon would call its helper ftp, in another mode", check: "kernel-ftp-helper", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) { return []Table{{Name: "ip raw", Helpers: []string{"ftp"}}}, nil }
			return h
		}, cfg: `helper.name = "ftp"`, want: Warn, detail: "ip raw"},
		{name: "the kernel assigns helpers automatically", check: "kernel-ftp-helper", host: func(h fakeHost) fakeHost {
			return h.with("proc/sys/net/netfilter/nf_conntrack_helper", "1\n")
		}, want: Warn, detail: "automatically", fix: "sysctl -w net.netfilter.nf_conntrack_helper=0"},
		{name: "the kernel could assign helpers automatically", check: "kernel-ftp-helper", host: func(h fakeHost) fakeHost {
			return h.with("proc/sys/net/netfilter/nf_conntrack_helper", "0\n").with("proc/thread-self/net/ip_tables_names", "raw\nfilter\n").with("proc/thread-self/net/ip6_tables_names", "filter\n")
		}, want: OK, detail: "not checked: iptables-legacy tables raw, filter"},
		{name: "rules that cannot be read", check: "kernel-ftp-helper", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) { return nil, errNothing }
			return h
		}, want: Warn, detail: "no such thing", fix: "nft list ruleset"},

		{name: "no rule for related", check: "related-rule", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) {
				return []Table{{Name: "ip filter", Dropping: []string{"FORWARD"}, Related: true}, {Name: "inet fw", Dropping: []string{"in", "fwd"}}}, nil
			}
			return h
		}, want: Fail, detail: "inet fw in, inet fw fwd", fix: "nft insert rule inet fw in ct state established,related accept"},
		{name: "a firewall as it should be", check: "related-rule", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) {
				return []Table{{Name: "ip filter", Dropping: []string{"FORWARD"}, Related: true}, {Name: "inet other"}}, nil
			}
			return h
		}, want: OK, detail: "ip filter FORWARD"},
		{name: "rules that cannot be read", check: "related-rule", host: func(h fakeHost) fakeHost {
			h.tables = func() ([]Table, error) { return nil, errNothing }
			return h
		}, want: Warn, detail: "no such thing", fix: "nft list ruleset"},

		{name: "many expectations", check: "expectation-table", host: func(h fakeHost) fakeHost {
			h.count = func() (int, error) { return 800, nil }
			return h
		}, want: Warn, detail: "800 of 1000 expectations", fix: "sysctl -w net.netfilter.nf_conntrack_expect_max=2000"},
		{name: "expectations that cannot be counted", check: "expectation-table", host: func(h fakeHost) fakeHost {
			h.count = func() (int, error) { return 0, errNothing }
			return h
		}, want: Warn, detail: "no such thing", fix: "modprobe"},
		{name: "no bound of expectations", check: "expectation-table", host: func(h fakeHost) fakeHost {
			return h.with("proc/sys/net/netfilter/nf_conntrack_expect_max", "")
		}, want: Warn, detail: "nf_conntrack_expect_max", fix: "modprobe nf_conntrack"},
		{name: "many connections", check: "connection-table", host: func(h fakeHost) fakeHost {
			return h.with("proc/sys/net/netfilter/nf_conntrack_count", "1999\n")
		}, want: Warn, detail: "1999 of 2000 connections", fix: "sysctl -w net.netfilter.nf_conntrack_max=4000"},
		{name: "not a number", check: "connection-table", host: func(h fakeHost) fakeHost {
			return h.with("proc/sys/net/netfilter/nf_conntrack_count", "many\n")
		}, want: Warn, detail: "/proc/sys/net/netfilter/nf_conntrack_count", fix: "modprobe"},

		{name: "FTPS without a range", check: "ftps", host: func(h fakeHost) fakeHost { return h }, want: OK, detail: "data ports of TLS sessions cannot be read", fix: "passive.tls_ports"},
		{name: "FTPS with a range", check: "ftps", host: func(h fakeHost) fakeHost { return h }, cfg: "[passive]\ntls_ports = \"30000-30999\"", want: OK, detail: "30000-30999"},
		{name: "FTPS with a range but without the table", check: "ftps", host: func(h fakeHost) fakeHost { return h }, cfg: "[passive]\ntls_ports = \"30000-30999\"\n[firewall]\nmanage = false", want: Warn, detail: "no effect", fix: "firewall.manage"},
	}
	for _, tt := range tests {
		t.Run(tt.check+" "+tt.name, func(t *testing.T) {
			cfg, err := config.Parse("ftpctd.toml", []byte(tt.cfg))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range Checks(tt.host(healthy()), cfg) {
				if c.Name() != tt.check {
					continue
				}
				got := c.Run(t.Context())
				if got.Status != tt.want || !strings.Contains(got.Detail, tt.detail) || !strings.Contains(got.Fix, tt.fix) || got.Fix != "" && tt.fix == "" && tt.want == OK {
					t.Errorf("got %+v, want %s, %q, %q", got, tt.want, tt.detail, tt.fix)
				}
				return
			}
			t.Fatal("no such check")
		})
	}
}

func TestAppendJSON(t *testing.T) {
	tests := []struct {
		result Result
		want   string
	}{
		{Result{Fail, `queue "21"`, "kill 1"}, `x{"check":"queue-owner","status":"FAIL","found":"queue \"21\"","fix":"kill 1"}`},
		{Result{Status: OK, Detail: "all is well"}, `x{"check":"queue-owner","status":"OK","found":"all is well"}`},
	}
	for _, tt := range tests {
		got, err := AppendJSON([]byte("x"), "queue-owner", tt.result)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.result, diff)
		}
	}
}
