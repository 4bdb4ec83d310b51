package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack/ctnetlink"
)

// missing ends a test that lacks a prerequisite: it is skipped, except on CI.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// thisHost returns the machine that the test runs on.
func thisHost(t *testing.T) Host {
	t.Helper()
	h, err := ThisHost()
	if errors.Is(err, os.ErrPermission) {
		missing(t, "root is needed: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// snapshot lists what the checks might leave behind: tables and queues in the namespace
// of the calling thread, and the helpers of the kernel.
func snapshot() (list []string, err error) {
	nft, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := nft.ListTables()
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		list = append(list, "table "+table.Name)
	}
	err = withConntrack(func(c *ctnetlink.Conn) error {
		helpers, err := c.Helpers()
		for _, h := range helpers {
			list = append(list, fmt.Sprint("helper ", h.Name, h.Family))
		}
		return err
	})
	if err != nil && !errors.Is(err, ctnetlink.ErrNoCTHelper) {
		return nil, err
	}
	queues, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // the module may not be loaded yet
		return nil, err
	}
	return append(list, string(queues)), nil
}

// TestThisHost runs every check in a private namespace and makes sure that they leave
// it unchanged. No check may fail there; the kernel may lack helpers, and then "helper"
// must fail.
func TestThisHost(t *testing.T) {
	h := thisHost(t)
	tests := []struct {
		admit  config.Admit
		failed []string // the names of the checks
	}{
		{admit: config.AdmitAuto},
		{admit: config.AdmitEntry},
		{admit: config.AdmitHelper},
	}
	if h.OwnHelper() != nil {
		tests[2].failed = []string{"admission", "round-trip"}
	}
	for _, tt := range tests {
		t.Run(string(tt.admit), func(t *testing.T) {
			private(t, func(t *testing.T) {
				before, err := snapshot()
				if err != nil {
					t.Error(err)
				}
				cfg := config.Default()
				cfg.Admit = tt.admit
				var failed []string
				for _, c := range Checks(h, cfg) {
					r := c.Run(t.Context())
					t.Logf("%-4s %s: %s (%s)", r.Status, c.Name(), r.Detail, r.Fix)
					if r.Status == Fail {
						failed = append(failed, c.Name())
					}
				}
				if diff := cmp.Diff(tt.failed, failed); diff != "" {
					t.Errorf("failed checks (-want +got):\n%s", diff)
				}
				after, err := snapshot()
				if err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("the checks left something behind (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// private runs a test in a private network namespace, in its own goroutine: f must
// not call t.Fatal.
func private(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	err := inNetNS(func() error {
		defer close(done)
		f(t)
		return nil
	})
	<-done
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip makes sure that each admission mode that the kernel supports works,
// and that a mode that does not work is noticed.
func TestRoundTrip(t *testing.T) {
	h := thisHost(t)
	const carrier = "sane"
	entry := inNetNS(func() error { return withConntrack((*ctnetlink.Conn).ProbeEntry) })
	tests := []struct {
		name      string
		admission admit.Admission
		probed    error // of what the kernel may lack
	}{
		{"own helper", admit.Admission{Mode: config.AdmitHelper, Helper: "ftpctd"}, h.OwnHelper()},
		{"carrier", admit.Admission{Mode: config.AdmitExpect, Helper: carrier}, h.Carrier(carrier)},
		{"entry", admit.Admission{Mode: config.AdmitEntry}, entry},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			families, err := h.RoundTrip(t.Context(), tt.admission)
			if tt.probed != nil {
				if err == nil {
					t.Errorf("works, although the probe says %v", tt.probed)
				}
				return
			}
			if err != nil || len(families) == 0 {
				t.Errorf("families %q, error %v", families, err)
			}
		})
	}
	t.Run("no helper", func(t *testing.T) {
		if _, err := h.RoundTrip(t.Context(), admit.Admission{Mode: config.AdmitExpect}); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("error %v, want %v", err, unix.EOPNOTSUPP)
		}
	})
}

// TestInNetNS makes sure that the namespace is a new one, and ends.
func TestInNetNS(t *testing.T) {
	thisHost(t)
	const link = "/proc/thread-self/ns/net"
	outside, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		err := inNetNS(func() error {
			inside, err := os.Readlink(link)
			if inside == outside {
				return errors.New("the namespace is the test's")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != outside {
			t.Fatalf("the process is in %s, error %v; want %s", now, err, outside)
		}
	}
}

// TestReadTables reads rules back from the kernel.
func TestReadTables(t *testing.T) {
	thisHost(t)
	drop := nftables.ChainPolicyDrop
	state := &expr.Ct{Key: expr.CtKeySTATE, Register: 1}
	word := binaryutil.NativeEndian.PutUint32
	related := word(expr.CtStateBitRELATED)
	accept, dropping := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictDrop}
	mask := func(states uint32) *expr.Bitwise {
		return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: word(states), Xor: word(0)}
	}
	notZero := &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: word(0)}
	ftp := &nftables.NamedObj{
		Name: "control", Type: nftables.ObjTypeCtHelper,
		Obj: &expr.CtHelper{Name: "ftp", L3Proto: unix.NFPROTO_INET, L4Proto: unix.IPPROTO_TCP},
	}

	tests := []struct {
		name   string
		hook   *nftables.ChainHook
		policy *nftables.ChainPolicy
		rules  [][]expr.Any
		set    []nftables.SetElement // of states, looked up by the last rule
		verd   bool                  // the set is a map to verdicts
		helper bool
		want   Table
	}{
		{name: "empty", hook: nftables.ChainHookInput, want: Table{}},
		{name: "policy", hook: nftables.ChainHookForward, policy: &drop, want: Table{Dropping: []string{"base"}}},
		{name: "policy of another hook", hook: nftables.ChainHookPrerouting, policy: &drop, want: Table{}},
		{
			name: "established,related", hook: nftables.ChainHookInput, policy: &drop,
			rules: [][]expr.Any{{state, mask(expr.CtStateBitRELATED | expr.CtStateBitESTABLISHED), notZero, accept}},
			want:  Table{Dropping: []string{"base"}, Related: true},
		},
		{
			name: "established alone", hook: nftables.ChainHookInput, policy: &drop,
			rules: [][]expr.Any{{state, mask(expr.CtStateBitESTABLISHED), notZero, accept}},
			want:  Table{Dropping: []string{"base"}},
		},
		{
			name: "related as a whole", hook: nftables.ChainHookOutput,
			rules: [][]expr.Any{{state, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: related}, accept}},
			want:  Table{Related: true},
		},
		{
			name: "related, to drop it", hook: nftables.ChainHookOutput,
			rules: [][]expr.Any{{state, mask(expr.CtStateBitRELATED), notZero, dropping}},
			want:  Table{},
		},
		{
			name: "a mark that looks like related", hook: nftables.ChainHookOutput,
			rules: [][]expr.Any{{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, mask(expr.CtStateBitRELATED), notZero, accept}},
			want:  Table{},
		},
		{
			name: "a set of states", hook: nftables.ChainHookInput, rules: [][]expr.Any{{state}},
			set:  []nftables.SetElement{{Key: word(expr.CtStateBitESTABLISHED)}, {Key: related}},
			want: Table{Related: true},
		},
		{
			name: "a set without related", hook: nftables.ChainHookInput, rules: [][]expr.Any{{state}},
			set:  []nftables.SetElement{{Key: word(expr.CtStateBitESTABLISHED)}},
			want: Table{},
		},
		{
			name: "a map of states to verdicts", hook: nftables.ChainHookInput, rules: [][]expr.Any{{state}}, verd: true,
			set:  []nftables.SetElement{{Key: related, VerdictData: &expr.Verdict{Kind: expr.VerdictAccept}}},
			want: Table{Related: true},
		},
		{
			name: "a helper", hook: nftables.ChainHookPrerouting, helper: true,
			rules: [][]expr.Any{{&expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: "control"}}},
			want:  Table{Helpers: []string{"ftp"}},
		},
		{name: "a helper that no rule assigns", hook: nftables.ChainHookPrerouting, helper: true, want: Table{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			private(t, func(t *testing.T) {
				nft, err := nftables.New()
				if err != nil {
					t.Error(err)
					return
				}
				table := nft.AddTable(&nftables.Table{Name: "fw", Family: nftables.TableFamilyINet})
				if tt.helper {
					ftp.Table = table
					nft.AddObj(ftp)
				}
				chain := nft.AddChain(&nftables.Chain{
					Table: table, Name: "base", Type: nftables.ChainTypeFilter,
					Hooknum: tt.hook, Priority: nftables.ChainPriorityFilter, Policy: tt.policy,
				})
				rules := slices.Clone(tt.rules)
				if tt.set != nil {
					set := &nftables.Set{Table: table, Anonymous: true, Constant: true, KeyType: nftables.TypeCTState, IsMap: tt.verd, DataType: nftables.TypeVerdict}
					if err := nft.AddSet(set, tt.set); err != nil {
						t.Error(err)
						return
					}
					rules[0] = append(slices.Clone(rules[0]), &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, IsDestRegSet: tt.verd}, accept)
					if tt.verd {
						rules[0] = rules[0][:len(rules[0])-1]
					}
				}
				for _, exprs := range rules {
					nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
				}
				if err := nft.Flush(); err != nil {
					t.Error(err)
					return
				}
				got, err := readTables()
				if err != nil {
					t.Error(err)
				}
				tt.want.Name = "inet fw"
				if diff := cmp.Diff([]Table{tt.want}, got); diff != "" {
					t.Errorf("tables (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestReadTablesOfIptables reads rules that iptables-nft has written.
func TestReadTablesOfIptables(t *testing.T) {
	thisHost(t)
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		missing(t, "apt-get install iptables: "+err.Error())
	}
	tests := []struct {
		name, args string
		want       []Table
	}{
		{"conntrack", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", []Table{{Name: "ip filter", Related: true}}},
		{"state", "-A INPUT -m state --state NEW,RELATED -j ACCEPT", []Table{{Name: "ip filter", Related: true}}},
		{"established alone", "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT", []Table{{Name: "ip filter"}}},
		{"inverted", "-A INPUT -m conntrack ! --ctstate RELATED -j ACCEPT", []Table{{Name: "ip filter"}}},
		{"policy", "-P INPUT DROP", []Table{{Name: "ip filter", Dropping: []string{"INPUT"}}}},
		{"helper", "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp", []Table{{Name: "ip raw", Helpers: []string{"ftp"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			private(t, func(t *testing.T) {
				out, err := exec.Command("iptables-nft", strings.Fields(tt.args)...).CombinedOutput()
				if err != nil {
					t.Errorf("iptables-nft %s: %v: %s", tt.args, err, out)
					return
				}
				got, err := readTables()
				if err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("tables (-want +got):\n%s", diff)
				}
			})
		})
	}
}
