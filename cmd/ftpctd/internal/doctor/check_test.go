package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
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

// healthy returns a host where nothing is wanting, as a distribution's is.
func healthy() Host {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	var modules strings.Builder
	for _, o := range options {
		if o.module != "" {
			modules.WriteString(o.module + " 16384 0 - Live 0x0\n")
		}
	}
	return Host{
		Files: fstest.MapFS{
			"proc/self/uid_map": file("         0          0 4294967295\n"),
			"boot/config-6.1.0": file(kernelConfig),
			"proc/modules":      file(modules.String()),
			"proc/sys/net/netfilter/nf_conntrack_expect_max": file("1000\n"),
			"proc/sys/net/netfilter/nf_conntrack_max":        file("2000\n"),
			"proc/sys/net/netfilter/nf_conntrack_count":      file("3\n"),
		},
		Release:   "6.1.0",
		Queue:     func() error { return nil },
		Rules:     func(bool) (string, error) { return "nft queue", nil },
		Conntrack: func() error { return nil },
		OwnHelper: func() error { return nil },
		Carrier:   func(string) error { return nil },
		Choose: func(config.Config) (admit.Admission, error) {
			return admit.Admission{Mode: config.AdmitExpect, Helper: "ftpctd", Own: true, Why: "it is the best"}, nil
		},
		RoundTrip: func(context.Context, admit.Admission) ([]string, error) {
			return []string{"IPv4", "IPv6"}, nil
		},
		Owner:        func(uint16) (nfq.Owner, bool) { return nfq.Owner{}, false },
		KeptAway:     func() (firewall.Counters, error) { return firewall.Counters{}, nil },
		Tables:       func() ([]Table, error) { return nil, nil },
		Expectations: func() (int, error) { return 2, nil },
	}
}

// with replaces a file; without text it removes it.
func (h Host) with(name, text string) Host {
	files := fstest.MapFS{}
	for n, f := range h.Files.(fstest.MapFS) {
		if n != name {
			files[n] = f
		}
	}
	if text != "" {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	h.Files = files
	return h
}

// without returns the list of a host's modules without some.
func without(h Host, modules ...string) string {
	var b strings.Builder
	for line := range strings.Lines(string(h.Files.(fstest.MapFS)["proc/modules"].Data)) {
		if !slices.Contains(modules, strings.Fields(line)[0]) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// chooses returns what makes a host choose an admission.
func chooses(a admit.Admission) func(Host) Host {
	return func(h Host) Host {
		h.Choose = func(config.Config) (admit.Admission, error) { return a, nil }
		return h
	}
}

func choosesNothing(h Host) Host {
	h.Choose = func(config.Config) (admit.Admission, error) { return admit.Admission{}, errNothing }
	return h
}

// keptAway returns what makes a host's rules count c.
func keptAway(c firewall.Counters, err error) func(Host) Host {
	return func(h Host) Host {
		h.KeptAway = func() (firewall.Counters, error) { return c, err }
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

// TestCheck makes something wanting on a healthy host and looks at the one check
// that is to notice.
func TestCheck(t *testing.T) {
	noHelpers := &ctnetlink.Error{Op: ctnetlink.OpHelpers, Err: unix.EINVAL}
	tests := []struct {
		name  string
		check string
		host  func(h Host) Host
		cfg   string
		want  Status
		found string // part of it
		mend  string // part of it
	}{
		{"a user namespace", "capabilities", func(h Host) Host {
			return h.with("proc/self/uid_map", "         0       1000          1\n")
		}, "", Warn, "user namespace", "load modules outside"},

		{"no configuration of the kernel", "kernel-config", func(h Host) Host { return h.with("boot/config-6.1.0", "") }, "", Warn, "/boot/config-6.1.0", "modprobe configs"},
		{"the kernel lacks something", "kernel-config", func(h Host) Host {
			return h.with("boot/config-6.1.0", strings.ReplaceAll(kernelConfig, "CONFIG_NF_CT_NETLINK=m", "# CONFIG_NF_CT_NETLINK is not set"))
		}, "", Fail, "/boot/config-6.1.0 lacks CONFIG_NF_CT_NETLINK", "kernel"},
		{"the kernel can queue only by xt", "kernel-config", func(h Host) Host {
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(kernelConfig, "CONFIG_NFT_QUEUE=m\n", "")))
		}, "", OK, "/proc/config.gz has all that is needed; not there, and not needed: CONFIG_NF_CONNTRACK_LABELS, CONFIG_NFT_QUEUE", ""},
		{"the kernel cannot queue", "kernel-config", func(h Host) Host {
			config := strings.ReplaceAll(kernelConfig, "CONFIG_NFT_QUEUE=m\n", "")
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(config, "CONFIG_NFT_COMPAT=m\n", "")))
		}, "", Fail, "lacks CONFIG_NFT_QUEUE", "kernel"},
		{"the kernel cannot look up the way back", "kernel-config", func(h Host) Host {
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(kernelConfig, "CONFIG_NFT_FIB_INET=m\n", "")))
		}, "", Fail, "lacks CONFIG_NFT_FIB_INET", `firewall.anti_spoof = "off"`},
		{"the kernel cannot look up the way back, nor need it", "kernel-config", func(h Host) Host {
			return h.with("proc/config.gz", zipped(t, strings.ReplaceAll(kernelConfig, "CONFIG_NFT_FIB_INET=m\n", "")))
		}, "[firewall]\nanti_spoof = \"off\"", OK, "not needed: CONFIG_NFT_FIB_INET", ""},
		{"a broken configuration of the kernel", "kernel-config", func(h Host) Host { return h.with("proc/config.gz", "x") }, "", Warn, "can be read", ""},

		{"modules not loaded", "kernel-modules", func(h Host) Host {
			return h.with("proc/modules", "nf_conntrack 1 0 - Live 0x0\nnf_tables 1 0 - Live 0x0\n")
		}, "", Warn, "nfnetlink_queue", "modprobe -a nf_conntrack_netlink nfnetlink_queue nft_ct nft_fib_inet nft_queue nfnetlink_cthelper"},
		{"not loaded, nor of use beside what is", "kernel-modules", func(h Host) Host {
			return h.with("proc/modules", without(h, "nft_compat", "xt_NFQUEUE", "nf_conntrack_sane"))
		}, "", OK, "of use are loaded", ""},
		{"not loaded, and nothing better", "kernel-modules", func(h Host) Host {
			h = h.with("proc/modules", without(h, "nft_compat", "nft_queue", "xt_NFQUEUE"))
			return h.with("boot/config-6.1.0", strings.Replace(kernelConfig, "CONFIG_NFT_QUEUE=m", "", 1))
		}, "", Warn, "not loaded", "modprobe -a nft_compat xt_NFQUEUE"},
		{"all built in, no modules", "kernel-modules", func(h Host) Host {
			return h.with("proc/modules", "").with("boot/config-6.1.0", strings.ReplaceAll(kernelConfig, "=m", "=y"))
		}, "", OK, "built in", ""},
		{"modules, and nothing known of them", "kernel-modules", func(h Host) Host { return h.with("boot/config-6.1.0", "") }, "", OK, "not told", ""},

		{"no queue", "packet-queue", func(h Host) Host { h.Queue = func() error { return errNothing }; return h }, "", Fail, "no such thing", "modprobe nfnetlink_queue"},
		{"no rule", "queue-rule", func(h Host) Host {
			h.Rules = func(bool) (string, error) { return "", errNothing }
			return h
		}, "", Fail, "no such thing", "modprobe -a nft_ct nft_fib_inet nft_queue"},
		{"the other rule", "queue-rule", func(h Host) Host {
			h.Rules = func(bool) (string, error) { return "xt NFQUEUE", nil }
			return h
		}, "", OK, "xt NFQUEUE", ""},
		{"the rule as the configuration has it", "queue-rule", func(h Host) Host {
			h.Rules = func(antiSpoof bool) (string, error) { return fmt.Sprint("anti-spoof ", antiSpoof), nil }
			return h
		}, "[firewall]\nanti_spoof = \"off\"", OK, "anti-spoof false", ""},
		{"no ctnetlink", "ctnetlink", func(h Host) Host { h.Conntrack = func() error { return errNothing }; return h }, "", Fail, "no such thing", "modprobe nf_conntrack_netlink"},

		{"no helper of one's own", "own-helper", func(h Host) Host { h.OwnHelper = func() error { return noHelpers }; return h }, "", Warn, "cannot be registered", "modprobe nfnetlink_cthelper"},
		{"another error", "own-helper", func(h Host) Host { h.OwnHelper = func() error { return errNothing }; return h }, "", Warn, "no such thing", "modprobe nfnetlink_cthelper"},
		{"no carrier, not needed", "carrier-helper", func(h Host) Host { h.Carrier = func(string) error { return errNothing }; return h }, "", OK, `no helper "sane"`, ""},
		{"no carrier, needed", "carrier-helper", func(h Host) Host {
			h.OwnHelper = func() error { return noHelpers }
			h.Carrier = func(string) error { return errNothing }
			return h
		}, "", Warn, "no such thing", "modprobe nf_conntrack_sane"},

		{"own helper", "admission", func(h Host) Host { return h }, "", OK, `own helper, "ftpctd": it is the best`, ""},
		{"carrier", "admission", chooses(admit.Admission{Mode: config.AdmitExpect, Helper: "sane", Why: "there is no other"}), "", OK, `kernel's helper "sane": there is no other`, ""},
		{"entry", "admission", chooses(admit.Admission{Mode: config.AdmitEntry, Why: "there is no other"}), "", OK, "entries for data connections: there is no other", ""},
		{"no way", "admission", choosesNothing, "", Fail, "no way works: no such thing", "modprobe"},

		{"no round trip", "round-trip", func(h Host) Host {
			h.RoundTrip = func(context.Context, admit.Admission) ([]string, error) { return nil, errNothing }
			return h
		}, "", Fail, `own helper, "ftpctd": no such thing`, "6.1.0"},
		{"round trip not tried", "round-trip", choosesNothing, "", Fail, "not tried", "admission"},
		{"round trip with what was chosen", "round-trip", func(h Host) Host {
			h = chooses(admit.Admission{Mode: config.AdmitExpect, Helper: "irc"})(h)
			h.RoundTrip = func(_ context.Context, a admit.Admission) ([]string, error) { return []string{"IPv4", a.Helper}, nil }
			return h
		}, "", OK, "over IPv4 and irc", ""},

		{"the queue is the daemon's", "queue-owner", func(h Host) Host {
			h.Owner = func(num uint16) (nfq.Owner, bool) {
				return nfq.Owner{PortID: "1", PID: "42", Command: "ftpctd"}, num == 8
			}
			return h
		}, "[queue]\nnum = 7\ncount = 2", OK, "queue 8 is bound by process 42 (ftpctd)", ""},
		{"the queue is somebody else's", "queue-owner", func(h Host) Host {
			h.Owner = func(uint16) (nfq.Owner, bool) {
				return nfq.Owner{PortID: "1", PID: "42", Command: "suricata"}, true
			}
			return h
		}, "", Fail, "queue 21 is bound by process 42 (suricata)", "kill 42, or set queue.num"},
		{"the queue is nobody's to be seen", "queue-owner", func(h Host) Host {
			h.Owner = func(uint16) (nfq.Owner, bool) { return nfq.Owner{PortID: "77"}, true }
			return h
		}, "", Fail, "port ID 77", "set queue.num"},

		{"forged addresses", "kept-away", keptAway(firewall.Counters{Spoofed: 7, FastOpens: 1}, nil), "", Warn, "7 packets were not read", `firewall.anti_spoof = "loose"`},
		{"requests to the carrier", "kept-away", keptAway(firewall.Counters{SANERequests: 3}, nil), "", Warn, "3 requests to the kernel's helper sane", "who sends them"},
		{"Fast Open", "kept-away", keptAway(firewall.Counters{FastOpens: 2}, nil), "", OK, "2 SYNs with data", ""},
		{"every address is believed", "kept-away", keptAway(firewall.Counters{}, nil), "[firewall]\nanti_spoof = \"off\"", OK, "any source address is believed", ""},
		{"no daemon runs", "kept-away", keptAway(firewall.Counters{}, &firewall.Error{Op: "list", Err: unix.ENOENT}), "", OK, "no daemon's rules", ""},
		{"counters not to be read", "kept-away", keptAway(firewall.Counters{}, errNothing), "", Warn, "no such thing", "nft list counters"},

		{"the kernel assigns its helper", "kernel-ftp-helper", func(h Host) Host {
			h.Tables = func() ([]Table, error) {
				return []Table{{Name: "inet a", Helpers: []string{"sane"}}, {Name: "ip raw", Helpers: []string{"tftp", "ftp"}}}, nil
			}
			return h
		}, "", Warn, "ip raw", "remove the rule from the table ip raw"},
		{"the kernel assigns helpers by itself", "kernel-ftp-helper", func(h Host) Host {
			return h.with("proc/sys/net/netfilter/nf_conntrack_helper", "1\n")
		}, "", Warn, "by itself", "sysctl -w net.netfilter.nf_conntrack_helper=0"},
		{"the kernel could assign helpers by itself", "kernel-ftp-helper", func(h Host) Host {
			return h.with("proc/sys/net/netfilter/nf_conntrack_helper", "0\n").with("proc/thread-self/net/ip_tables_names", "raw\nfilter\n").with("proc/thread-self/net/ip6_tables_names", "filter\n")
		}, "", OK, "not looked into: iptables-legacy's raw, filter", ""},
		{"no rules to be read", "kernel-ftp-helper", func(h Host) Host {
			h.Tables = func() ([]Table, error) { return nil, errNothing }
			return h
		}, "", Warn, "no such thing", "nft list ruleset"},

		{"nothing would be admitted", "related-rule", func(h Host) Host {
			h.Tables = func() ([]Table, error) {
				return []Table{{Name: "ip filter", Dropping: []string{"FORWARD"}, Related: true}, {Name: "inet fw", Dropping: []string{"in", "fwd"}}}, nil
			}
			return h
		}, "", Fail, "inet fw in, inet fw fwd", "nft insert rule inet fw in ct state established,related accept"},
		{"a firewall as it should be", "related-rule", func(h Host) Host {
			h.Tables = func() ([]Table, error) {
				return []Table{{Name: "ip filter", Dropping: []string{"FORWARD"}, Related: true}, {Name: "inet other"}}, nil
			}
			return h
		}, "", OK, "ip filter FORWARD", ""},
		{"no rules for the state", "related-rule", func(h Host) Host {
			h.Tables = func() ([]Table, error) { return nil, errNothing }
			return h
		}, "", Warn, "no such thing", "nft list ruleset"},

		{"many expectations", "expectation-table", func(h Host) Host {
			h.Expectations = func() (int, error) { return 800, nil }
			return h
		}, "", Warn, "800 of 1000 expectations", "sysctl -w net.netfilter.nf_conntrack_expect_max=2000"},
		{"expectations not to be counted", "expectation-table", func(h Host) Host {
			h.Expectations = func() (int, error) { return 0, errNothing }
			return h
		}, "", Warn, "no such thing", "modprobe"},
		{"no bound of expectations", "expectation-table", func(h Host) Host {
			return h.with("proc/sys/net/netfilter/nf_conntrack_expect_max", "")
		}, "", Warn, "nf_conntrack_expect_max", "modprobe nf_conntrack"},
		{"many connections", "connection-table", func(h Host) Host {
			return h.with("proc/sys/net/netfilter/nf_conntrack_count", "1999\n")
		}, "", Warn, "1999 of 2000 connections", "sysctl -w net.netfilter.nf_conntrack_max=4000"},
		{"a number that is none", "connection-table", func(h Host) Host {
			return h.with("proc/sys/net/netfilter/nf_conntrack_count", "many\n")
		}, "", Warn, "/proc/sys/net/netfilter/nf_conntrack_count", "modprobe"},

		{"FTPS without a range", "ftps", func(h Host) Host { return h }, "", OK, "no data port can be read", "passive.tls_ports"},
		{"FTPS with a range", "ftps", func(h Host) Host { return h }, "[passive]\ntls_ports = \"30000-30999\"", OK, "30000-30999", ""},
		{"FTPS with a range in vain", "ftps", func(h Host) Host { return h }, "[passive]\ntls_ports = \"30000-30999\"\n[firewall]\nmanage = false", Warn, "no effect", "firewall.manage"},
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
				if got.Status != tt.want || !strings.Contains(got.Found, tt.found) || !strings.Contains(got.Mend, tt.mend) || got.Mend != "" && tt.mend == "" && tt.want == OK {
					t.Errorf("got %+v, want %s, %q, %q", got, tt.want, tt.found, tt.mend)
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
		{Result{Fail, `queue "21"`, "kill 1"}, `x{"check":"queue-owner","status":"FAIL","found":"queue \"21\"","mend":"kill 1"}`},
		{Result{Status: OK, Found: "all is well"}, `x{"check":"queue-owner","status":"OK","found":"all is well"}`},
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
