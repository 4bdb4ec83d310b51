package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/config"
)

// Table is a table of nftables or iptables-nft, as far as the checks need it.
type Table struct {
	// Name is the family and the name, such as "inet filter".
	Name string
	// Dropping are its base chains at the hooks input, forward and output whose
	// policy is to drop.
	Dropping []string
	// Related reports whether one of its rules matches ct state related and does not
	// drop.
	Related bool
	// Helpers are the conntrack helpers that its rules assign.
	Helpers []string
}

// hooks are the names of those that a firewall filters at.
var hooks = map[nftables.ChainHook]string{
	*nftables.ChainHookInput:   "input",
	*nftables.ChainHookForward: "forward",
	*nftables.ChainHookOutput:  "output",
}

// families are the names of those that see whole IP packets.
var families = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip",
	nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyINet: "inet",
}

// readTables reads the rules of the calling thread's network namespace.
func readTables() ([]Table, error) {
	nft, err := nftables.New()
	if err != nil {
		return nil, err
	}
	list, err := nft.ListTables()
	if err != nil {
		return nil, fmt.Errorf("cannot list the tables: %w", err)
	}
	var tables []Table
	for _, t := range list {
		if families[t.Family] == "" {
			continue
		}
		read, err := readTable(nft, t)
		if err != nil {
			return nil, fmt.Errorf("cannot read the table %s %s: %w", families[t.Family], t.Name, err)
		}
		tables = append(tables, read)
	}
	return tables, nil
}

func readTable(nft *nftables.Conn, t *nftables.Table) (Table, error) {
	read := Table{Name: families[t.Family] + " " + t.Name}
	helpers, err := readHelpers(nft, t)
	if err != nil {
		return Table{}, err
	}
	chains, err := nft.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return Table{}, err
	}
	for _, chain := range chains {
		if chain.Table.Name != t.Name {
			continue
		}
		if chain.Type == nftables.ChainTypeFilter && chain.Hooknum != nil && hooks[*chain.Hooknum] != "" &&
			chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			read.Dropping = append(read.Dropping, chain.Name)
		}
		rules, err := nft.GetRules(t, chain)
		if err != nil {
			return Table{}, err
		}
		for _, rule := range rules {
			for _, e := range rule.Exprs {
				if name := assigned(e, helpers); name != "" && !slices.Contains(read.Helpers, name) {
					read.Helpers = append(read.Helpers, name)
				}
			}
			related, err := isForRelated(nft, t, rule.Exprs)
			if err != nil {
				return Table{}, err
			}
			read.Related = read.Related || related
		}
	}
	return read, nil
}

// readHelpers returns the helpers that a table's objects stand for, by the names
// of the objects.
func readHelpers(nft *nftables.Conn, t *nftables.Table) (map[string]string, error) {
	helpers := make(map[string]string)
	objects, err := nft.GetNamedObjects(t)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if named, ok := o.(*nftables.NamedObj); ok {
			if helper, ok := named.Obj.(*expr.CtHelper); ok {
				helpers[named.Name] = helper.Name
			}
		}
	}
	return helpers, nil
}

// assigned returns the helper that an expression assigns, or nothing: "ct helper
// set" of nft, "-j CT --helper" of iptables.
func assigned(e expr.Any, helpers map[string]string) string {
	switch e := e.(type) {
	case *expr.Objref:
		if e.Type == unix.NFT_OBJECT_CT_HELPER {
			return helpers[e.Name]
		}
	case *expr.Target:
		// struct xt_ct_target_info of include/uapi/linux/netfilter/xt_CT.h.
		const helper, length = 12, 16
		if info, ok := e.Info.(*xt.Unknown); ok && e.Name == "CT" && len(*info) >= helper+length {
			return unix.ByteSliceToString((*info)[helper : helper+length])
		}
	}
	return ""
}

// isForRelated reports whether a rule looks for the state related, alone or
// among others, and does not drop what it finds.
func isForRelated(nft *nftables.Conn, t *nftables.Table, exprs []expr.Any) (bool, error) {
	var state, related bool
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Ct:
			state = e.Key == expr.CtKeySTATE && !e.SourceRegister
		case *expr.Bitwise:
			related = related || state && hasRelated(e.Mask)
		case *expr.Cmp:
			related = related || state && e.Op == expr.CmpOpEq && hasRelated(e.Data)
		case *expr.Lookup: // a set of states, or a map of states to verdicts
			if !state {
				continue
			}
			elements, err := nft.GetSetElements(&nftables.Set{Table: t, Name: e.SetName})
			if err != nil {
				return false, err
			}
			related = related || slices.ContainsFunc(elements, func(element nftables.SetElement) bool {
				return hasRelated(element.Key)
			})
		case *expr.Match:
			related = related || matchesRelated(e)
		case *expr.Verdict:
			if e.Kind == expr.VerdictDrop {
				return false, nil
			}
		}
	}
	return related, nil
}

// hasRelated reports whether the bit is set in a word of states.
func hasRelated(b []byte) bool {
	return len(b) == 4 && binary.NativeEndian.Uint32(b)&expr.CtStateBitRELATED != 0
}

// matchesRelated reports whether a match of iptables is for the state, among
// others: conntrack or state, which have the same bits.
func matchesRelated(m *expr.Match) bool {
	// XT_CONNTRACK_STATE_BIT(IP_CT_RELATED), and where struct xt_conntrack_info
	// says that the match is inverted.
	const bit = 1 << 2
	mask, inverted := uint32(0), false
	base := func(b xt.ConntrackMtinfoBase) {
		inverted = b.InvertFlags&uint16(xt.ConntrackState) != 0
	}
	switch info := m.Info.(type) {
	case *xt.ConntrackMtinfo1:
		mask = uint32(info.StateMask)
		base(info.ConntrackMtinfoBase)
	case *xt.ConntrackMtinfo2:
		mask = uint32(info.StateMask)
		base(info.ConntrackMtinfoBase)
	case *xt.ConntrackMtinfo3:
		mask = uint32(info.StateMask)
		base(info.ConntrackMtinfoBase)
	case *xt.Unknown:
		if m.Name == "state" && len(*info) >= 4 {
			mask = binary.NativeEndian.Uint32(*info)
		}
	}
	return mask&bit != 0 != inverted && mask != 0
}

// checkKernelHelper looks for rules that give connections the kernel's own
// helper for FTP. If the daemon's helper has its name, the kernel's cannot be there.
func checkKernelHelper(h Host, cfg config.Config) Result {
	const conflict = "it conflicts with ftpctd"
	// Until Linux 6.0 the kernel could assign helpers automatically.
	if automatic, err := readNumber(h.Files(), "proc/sys/net/netfilter/nf_conntrack_helper"); err == nil && automatic != 0 {
		return Result{Warn, "the kernel assigns its ftp helper automatically: " + conflict, "sysctl -w net.netfilter.nf_conntrack_helper=0"}
	}
	tables, err := h.Tables()
	if err != nil {
		return unreadable(err)
	}
	own := cfg.Admit == config.AdmitHelper && cfg.Helper.Name == "ftp"
	for _, t := range tables {
		if !own && slices.Contains(t.Helpers, "ftp") {
			return Result{Warn, fmt.Sprintf("table %s assigns the kernel's ftp helper: %s", t.Name, conflict), "remove the rule from the table " + t.Name}
		}
	}
	return Result{Status: OK, Detail: "no rule assigns the kernel's ftp helper" + skippedTables(h)}
}

// checkRelatedRule looks for tables that drop by policy and have no rule for
// related packets.
func checkRelatedRule(h Host) Result {
	tables, err := h.Tables()
	if err != nil {
		return unreadable(err)
	}
	var closed, open []string
	for _, t := range tables {
		for _, chain := range t.Dropping {
			name := t.Name + " " + chain
			if t.Related {
				open = append(open, name)
			} else {
				closed = append(closed, name)
			}
		}
	}
	switch {
	case len(closed) > 0:
		chain := closed[0]
		return Result{
			Fail, "default-drop chains without a rule for ct state related: " + strings.Join(closed, ", "),
			"nft insert rule " + chain + " ct state established,related accept",
		}
	case len(open) > 0:
		return Result{Status: OK, Detail: "default-drop chains with a rule for ct state related: " + strings.Join(open, ", ") + skippedTables(h)}
	}
	return Result{Status: OK, Detail: "no nftables chain has policy drop" + skippedTables(h)}
}

// unreadable is the result of a check that cannot read the rules.
func unreadable(err error) Result {
	return Result{Warn, err.Error(), "inspect manually: nft list ruleset"}
}

// skippedTables names the iptables-legacy tables, which nftables does not list.
func skippedTables(h Host) string {
	var names []string
	for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
		text, err := readFile(h.Files(), "proc/thread-self/net/"+file)
		if err != nil {
			continue
		}
		for name := range strings.FieldsSeq(text) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; not checked: iptables-legacy tables " + strings.Join(names, ", ")
}
