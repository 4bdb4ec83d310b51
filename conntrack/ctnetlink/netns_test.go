package ctnetlink

import (
	"net"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// assignSane adds the rule that gives new connections to port 21 the helper
// "sane", which ignores FTP.
func assignSane(t *testing.T) {
	t.Helper()
	if _, err := assignHelper(t, "sane"); err != nil {
		labtest.Unmet(t, "cannot assign the helper sane (CONFIG_NF_TABLES_INET, NFT_CT, NF_CONNTRACK_SANE): "+err.Error())
	}
}

// assignHelper adds the rule that gives new connections to port 21 a helper, and
// returns what removes it.
func assignHelper(t *testing.T, name string) (remove func(), err error) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyINet})
	nft.AddObj(&nftables.NamedObj{
		Table: table, Name: "carrier", Type: nftables.ObjTypeCtHelper,
		Obj: &expr.CtHelper{Name: name, L3Proto: unix.NFPROTO_INET, L4Proto: unix.IPPROTO_TCP},
	})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(
		lab.ToControlPort(),
		&expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: "carrier"},
	)})
	// Conntrack is on in a namespace only where a rule asks for it.
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
	}})
	return func() {
		t.Helper()
		nft.DelTable(table)
		if err := nft.Flush(); err != nil {
			t.Fatal(err)
		}
	}, nft.Flush()
}

// zone has conntrack track new connections in a zone.
func zone(t *testing.T, zone uint16) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Name: "zone", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
	})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(zone)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true},
	}})
	if err := nft.Flush(); err != nil {
		labtest.Unmet(t, "cannot put connections into a zone (CONFIG_NF_CONNTRACK_ZONES): "+err.Error())
	}
}

// countRelated counts the RELATED packets that come in, and returns the reader of
// the counter. There is no helper in the namespace by this.
func countRelated(t *testing.T) func() uint64 {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Name: "related", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(lab.CtState(expr.CtStateBitRELATED), &expr.Counter{})})
	if err := nft.Flush(); err != nil {
		labtest.Unmet(t, "cannot count RELATED packets (CONFIG_NF_TABLES_INET, NFT_CT): "+err.Error())
	}
	return func() uint64 {
		t.Helper()
		rules, err := nft.GetRules(table, chain)
		if err != nil || len(rules) != 1 {
			t.Fatalf("%d rules, error %v", len(rules), err)
		}
		return rules[0].Exprs[len(rules[0].Exprs)-1].(*expr.Counter).Packets
	}
}

// dial opens a TCP connection to l, both ends of which stay open until the end
// of the test.
func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, _ := labtest.DialNetns(t, "", l)
	return c
}
