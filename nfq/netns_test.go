package nfq

import (
	"net"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// queue is where packets to lab.ControlPort go.
const queue = 21

// rules is a table that queues packets to lab.ControlPort with payload as they
// come in, and behind that counts what passes it with the conntrack mark set.
type rules struct {
	nft    *nftables.Conn
	table  *nftables.Table
	marked *nftables.Chain
}

func install(t *testing.T) rules {
	t.Helper()
	targets := []expr.Any{
		&expr.Queue{Num: queue, Flag: expr.QueueFlagBypass},
		// Kernels without nft_queue: struct xt_NFQ_info_v3 {num, total, flags}.
		&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &xt.Unknown{queue, 0, 1, 0, 1, 0}},
	}
	var err error
	for _, target := range targets {
		var r rules
		if r, err = installTarget(target); err == nil {
			return r
		}
	}
	labtest.Unmet(t, "cannot queue (CONFIG_NF_TABLES_INET; NFT_QUEUE, or NFT_COMPAT and NETFILTER_XT_TARGET_NFQUEUE): "+err.Error())
	return rules{}
}

func installTarget(target expr.Any) (rules, error) {
	nft, err := nftables.New()
	if err != nil {
		return rules{}, err
	}
	r := rules{nft: nft}
	r.table = nft.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyINet})
	input := nft.AddChain(&nftables.Chain{
		Table: r.table, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(-50),
	})
	nft.AddRule(&nftables.Rule{Table: r.table, Chain: input, Exprs: append(
		lab.ToControlPort(),
		&expr.Payload{DestRegister: 1, Base: unix.NFT_PAYLOAD_INNER_HEADER, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{0}},
		target,
	)})
	r.marked = nft.AddChain(&nftables.Chain{
		Table: r.table, Name: "marked", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	nft.AddRule(&nftables.Rule{Table: r.table, Chain: r.marked, Exprs: append(
		lab.ToControlPort(),
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
		&expr.Counter{},
	)})
	return r, nft.Flush()
}

// dropArriving drops packets to lab.ControlPort before they reach the queue, until
// pass is called. Packets that are held stay as they are.
func (r rules) dropArriving(t *testing.T) (pass func()) {
	t.Helper()
	chain := r.nft.AddChain(&nftables.Chain{
		Table: r.table, Name: "prerouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	r.nft.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: append(
		lab.ToControlPort(), &expr.Verdict{Kind: expr.VerdictDrop},
	)})
	if err := r.nft.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		r.nft.FlushChain(chain)
		r.nft.DelChain(chain)
		if err := r.nft.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// countMarked returns how many packets passed with the conntrack mark set.
func (r rules) countMarked(t *testing.T) uint64 {
	t.Helper()
	got, err := r.nft.GetRules(r.table, r.marked)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range got {
		for _, e := range rule.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				return c.Packets
			}
		}
	}
	t.Fatal("the rule has no counter")
	return 0
}

// connect opens a TCP connection to lab.ControlPort of host. Both ends are closed
// at the end of the test, and reading and writing fail after a while.
func connect(t *testing.T, host string) (client, server net.Conn) {
	t.Helper()
	l := labtest.ListenNetns(t, net.JoinHostPort(host, "21"))
	defer l.Close() // for the next connection
	return labtest.DialNetns(t, "", l)
}
