package firewall

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

const tableName = "ftpctd"

// Places in the order of the hooks. Packets are queued after the translation of
// the destination (-100), so that they show the server itself, and before filters
// (0), which must see the data connection's packet as RELATED.
//
// A helper is assigned after all that, and after the translation of the source
// (100): a packet that comes back from a queue is confirmed there and then if its
// connection has a user-space helper (nf_confirm_cthelper in
// net/netfilter/nf_conntrack_core.c), and the source of a connection that is
// confirmed is not translated any more.
//
// The SYN of a data connection is queued ahead of conntrack: the daemon makes its
// connection's entry before conntrack looks for one.
const (
	priorityData   = -300
	priorityQueue  = -50
	priorityAssign = 200
)

// Of the TCP header.
const (
	offsetSport = 0
	offsetDport = 2
	offsetFlags = 13

	flagSYN   = 0b10
	flagsEnds = 0b111   // FIN, SYN and RST
	flagsSYN  = 0b10111 // the same and ACK: of these a connection's first packet has SYN alone
)

// Of conntrack: enum ip_conntrack_status and enum ip_conntrack_dir.
const (
	statusExpected = 1 << 0 // an expectation or an entry with a master made the connection

	dirOriginal = 0
	dirReply    = 1
)

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX).
const loopback = 1

// The registers of nftables hold what an expression compares. A concatenation
// begins in register, which is four of 4 bytes each, the first of them register32.
const (
	register   = unix.NFT_REG_1
	register32 = unix.NFT_REG32_00
)

// builder adds the content of the table to a batch.
type builder struct {
	nft   *nftables.Conn
	table *nftables.Table
	ports []expr.Any // compare a port with the control ports
	queue expr.Any
	// labels reports that connections have labels: see addControlChain.
	labels bool
}

// addRuleset adds the whole table, in nft's words, with the helper "sane",
// SkipMark 0x100 and TLSPorts 30000-30999:
//
//	table inet ftpctd {
//		counter fast-open { }
//		counter spoofed { }
//		counter sane-request { }
//		ct helper helper4 { type "sane" protocol tcp; l3proto ip; }
//		ct helper helper6 { type "sane" protocol tcp; l3proto ip6; }
//		chain assign {
//			ct state new ct helper set "helper4" ct helper set "helper6"
//			@ih,64,8 >= 0 return
//			@ih,0,32 7 @ih,56,8 >= 0 counter name "sane-request" drop
//		}
//		chain assign-input {
//			type filter hook input priority 200;
//			th dport 21 meta l4proto tcp jump assign
//		}
//		chain assign-postrouting { type filter hook postrouting priority 200; … }
//		chain control-arriving {
//			ct status expected return
//			tcp flags & (fin|syn|rst|ack) == syn @ih,0,8 >= 0 ct direction original counter name "fast-open" drop
//			tcp flags & (fin|syn|rst|ack) == syn ct direction reply ct label set 127
//			tcp flags & (fin|syn|rst|ack) == syn iif != "lo" fib saddr . iif oif 0 fib saddr . mark . iif oif 0 ct label set 127
//			iif != "lo" fib saddr . iif oif 0 fib saddr . mark . iif oif 0 counter name "spoofed" return
//			tcp flags & (fin|syn|rst|ack) == syn ct direction original ct label set 126
//			ct state ! established return
//			tcp flags & (fin|syn|rst) == syn ct label != 126 / 126,127 return
//			@ih,0,8 >= 0 ct label ! 125 ct mark & 0x100 == 0 queue flags bypass to 21
//			tcp flags & (fin|syn|rst) != 0 queue flags bypass to 21
//		}
//		chain control { … the same without the rules that look the way back up }
//		chain queue-input {
//			type filter hook input priority -50;
//			th dport 21 meta l4proto tcp ct direction original jump control-arriving
//			th sport 21 meta l4proto tcp ct direction reply jump control-arriving
//			ct state related meta l4proto tcp ct helper "sane" iif != "lo" fib saddr . iif oif 0 fib saddr . mark . iif oif 0 counter name "spoofed" drop
//		}
//		chain queue-forward { type filter hook forward priority -50; … }
//		chain queue-output { type filter hook output priority -50; … jump control }
//		set expected4 { type ipv4_addr . ipv4_addr . inet_service; flags timeout; }
//		set expected6 { type ipv6_addr . ipv6_addr . inet_service; flags timeout; }
//		set opaque4 { type ipv4_addr . ipv4_addr; flags timeout; }
//		set opaque6 { type ipv6_addr . ipv6_addr; flags timeout; }
//		chain data {
//			meta nfproto ipv4 ip saddr . ip daddr . tcp dport @expected4 queue flags bypass to 21
//			meta nfproto ipv6 ip6 saddr . ip6 daddr . tcp dport @expected6 queue flags bypass to 21
//			meta nfproto ipv4 ip saddr . ip daddr @opaque4 tcp dport 30000-30999 queue flags bypass to 21
//			meta nfproto ipv6 ip6 saddr . ip6 daddr @opaque6 tcp dport 30000-30999 queue flags bypass to 21
//		}
//		chain data-trusted {
//			iif != "lo" fib saddr . iif oif 0 fib saddr . mark . iif oif 0 counter name "spoofed" return
//			queue flags bypass to 21
//		}
//		chain data-arriving { … the same as data, and "jump data-trusted" instead of the queue }
//		chain data-prerouting {
//			type filter hook prerouting priority -300;
//			tcp flags & (fin|syn|rst|ack) == syn jump data-arriving
//		}
//		chain data-output { type filter hook output priority -300; … jump data }
//	}
//
// Several ports are in a set, "@ports". data-prerouting and data-output are not added here:
// they exist while one of the last four sets has elements, or had some a minute or two ago
// (see hooks).
func addRuleset(nft *nftables.Conn, cfg Config, queue expr.Any, labels bool) error {
	r := builder{nft: nft, table: nft.AddTable(newTable(tableName)), queue: queue, labels: labels}
	if err := r.addPorts(cfg.Ports); err != nil {
		return err
	}
	if cfg.Helper != "" {
		r.addAssignment(cfg.Helper)
	}
	r.addControl(cfg)
	return r.addData(cfg)
}

// addAssignment adds the rules that assign the helper to new control connections.
func (r builder) addAssignment(helper string) {
	r.addHelpers(helper)
	chain := r.chain("assign")
	r.add(chain, ctState(expr.CtStateBitNEW), assign())
	if helper == carrierSANE {
		r.dropSANERequests(chain)
	}
	for _, base := range []*nftables.Chain{
		r.baseChain("assign-input", nftables.ChainHookInput, priorityAssign),
		r.baseChain("assign-postrouting", nftables.ChainHookPostrouting, priorityAssign),
	} {
		r.add(base, r.port(offsetDport), jumpTo(chain.Name))
	}
}

// carrierSANE is the kernel's helper that reacts to a request.
const carrierSANE = "sane"

// dropSANERequests keeps from the kernel's helper the one thing that it reads: a
// packet to the server with exactly 8 bytes, of which the first 4 are the number 7
// (SANE_NET_START; help in net/netfilter/nf_conntrack_sane.c). After it the helper
// would open the port that it finds in the server's next packet, whatever port
// that is. No FTP command begins with a NUL.
//
// The rules are the last before the helper, behind the queue: a packet that the
// network driver has put together from several (GRO) comes back from a queue in
// its pieces, and each of them is read by the helper for itself.
func (r builder) dropSANERequests(chain *nftables.Chain) {
	const request = 8
	r.addCounter(counterSANERequest)
	r.add(chain, payloadByte(request), verdict(expr.VerdictReturn))
	r.add(chain, payloadIs([]byte{0, 0, 0, 7}), payloadByte(request-1), r.count(counterSANERequest), verdict(expr.VerdictDrop))
}

// addControl adds the rules that queue the packets of control connections.
func (r builder) addControl(cfg Config) {
	r.addCounter(counterFastOpen)
	local := r.addControlChain("control", cfg, nil)
	arriving := local
	if spoofed := cfg.AntiSpoof.spoofed(); spoofed != nil {
		r.addCounter(counterSpoofed)
		arriving = r.addControlChain("control-arriving", cfg, spoofed)
	}
	for _, base := range []struct {
		chain   *nftables.Chain
		control *nftables.Chain
	}{
		{r.baseChain("queue-input", nftables.ChainHookInput, priorityQueue), arriving},
		{r.baseChain("queue-forward", nftables.ChainHookForward, priorityQueue), arriving},
		{r.baseChain("queue-output", nftables.ChainHookOutput, priorityQueue), local},
	} {
		// The side that opened the connection is its client. A packet from a control
		// port in the original direction is no server's.
		r.add(base.chain, r.port(offsetDport), direction(dirOriginal), jumpTo(base.control.Name))
		r.add(base.chain, r.port(offsetSport), direction(dirReply), jumpTo(base.control.Name))
		if base.control != local && cfg.Helper != "" {
			r.dropForgedData(base.chain, cfg)
		}
	}
}

// dropForgedData drops the first packet of an expected connection if its source is not
// trusted. Conntrack would take it for the one that was announced: who expects a
// connection from a host could have begun one from any port of that host, and go on
// with a SYN of his own to that port, which belongs to the connection then.
func (r builder) dropForgedData(chain *nftables.Chain, cfg Config) {
	r.add(chain, ctState(expr.CtStateBitRELATED), tcp(), ctHelper(cfg.Helper), cfg.AntiSpoof.spoofed(),
		r.count(counterSpoofed), verdict(expr.VerdictDrop))
}

// addControlChain adds a chain that queues a packet to or from a control port, if
// it matters and conntrack vouches for it, unless spoofed matches it; nil matches nothing.
func (r builder) addControlChain(name string, cfg Config, spoofed []expr.Any) *nftables.Chain {
	chain := r.chain(name)
	// What was expected is a data connection, whatever its ports are.
	r.add(chain, ctStatus(statusExpected, expr.CmpOpNeq), verdict(expr.VerdictReturn))
	// TCP Fast Open: nobody but the server knows how much of what a SYN carries it
	// has taken, so that there is no saying where its stream begins. The client sends
	// the SYN again without data (RFC 7413 section 4.2.2).
	r.add(chain, flags(flagsSYN, expr.CmpOpEq, flagSYN), payloadByte(0), direction(dirOriginal), r.count(counterFastOpen), verdict(expr.VerdictDrop))
	// Conntrack takes any SYN/ACK that acknowledges the last SYN for a new handshake,
	// whoever sent that SYN, and also while the connection lives. So its entry bears
	// whether a SYN came from where the client is, and whether any other one came.
	syn := flags(flagsSYN, expr.CmpOpEq, flagSYN)
	if r.labels {
		r.add(chain, syn, direction(dirReply), setLabel(labelForged))
		if spoofed != nil {
			r.add(chain, syn, spoofed, setLabel(labelForged))
		}
	}
	if spoofed != nil {
		r.add(chain, spoofed, r.count(counterSpoofed), verdict(expr.VerdictReturn))
	}
	if r.labels {
		r.add(chain, syn, direction(dirOriginal), setLabel(labelSYN))
	}
	// Seen both ways: the server's SYN/ACK is the first packet that matters. A flood of
	// SYNs, or of packets that belong to nothing, wakes nobody.
	r.add(chain, ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED, expr.CmpOpEq), verdict(expr.VerdictReturn))
	if r.labels {
		r.add(chain, flags(flagsEnds, expr.CmpOpEq, flagSYN), notBegun(), verdict(expr.VerdictReturn))
	}
	r.add(chain, payloadByte(0), r.read(), unmarked(cfg.SkipMark), []expr.Any{r.queue})
	r.add(chain, flags(flagsEnds, expr.CmpOpNeq, 0), []expr.Any{r.queue})
	return chain
}

// Labels of a connection, the last three of 128: the daemon does not read it; a SYN of
// its client's came; a SYN came that is not its client's.
const (
	labelUnread = conntrack.UnreadLabel
	labelSYN    = 126
	labelForged = 127
)

// read matches connections that the daemon reads, or has not seen yet.
func (r builder) read() []expr.Any {
	if !r.labels {
		return nil
	}
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeyLABELS, Register: register}},
		bitwiseCmp(label(labelUnread), expr.CmpOpEq, label())...)
}

// notBegun matches connections whose SYN may be another's than their client's.
func notBegun() []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeyLABELS, Register: register}},
		bitwiseCmp(label(labelSYN, labelForged), expr.CmpOpNeq, label(labelSYN))...)
}

// setLabel sets a label of the connection.
func setLabel(bit uint) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: label(bit)},
		&expr.Ct{Key: expr.CtKeyLABELS, Register: register, SourceRegister: true},
	}
}

// label is a bitmap for a register.
func label(labels ...uint) []byte {
	bitmap := ctnetlink.Labels(labels...)
	return bitmap[:]
}

// hasLabels reports whether the kernel's connections can have labels.
func hasLabels() bool {
	return feature{add: func(r builder, chain *nftables.Chain) { r.add(chain, setLabel(labelSYN)) }}.probe() == nil
}

// spoofed matches packets whose source address is not trusted, and is nil where
// all are. It works where packets arrive, in input and forward.
func (a AntiSpoof) spoofed() []expr.Any {
	var lookup []expr.Any
	switch a {
	case AntiSpoofStrict:
		// The way back, without the packet's mark and with it: of the two directions
		// of a connection that is routed by mark each has one of them.
		lookup = slices.Concat(noWayBack(false), noWayBack(true))
	case AntiSpoofLoose:
		lookup = []expr.Any{
			&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_UNICAST)},
		}
	case AntiSpoofOff:
		return nil
	}
	return slices.Concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(loopback)},
	}, lookup)
}

// noWayBack matches packets whose source is not reached through the link that they
// came from.
func noWayBack(mark bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, FlagMARK: mark, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: make([]byte, 4)},
	}
}

// addPorts sets r.ports. Every packet of the host is compared several times, and
// with one port a comparison is cheaper than a look into a set.
func (r *builder) addPorts(ports []uint16) error {
	if len(ports) == 1 {
		r.ports = []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(ports[0])}}
		return nil
	}
	set := &nftables.Set{Table: r.table, Name: "ports", KeyType: nftables.TypeInetService}
	elements := make([]nftables.SetElement, 0, len(ports))
	for _, port := range ports {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(port)})
	}
	r.ports = lookup(set.Name)
	return r.nft.AddSet(set, elements)
}

// addData adds the sets of data connections and the chains that queue their first packets.
// One whose source is not trusted is left out: see dropForgedData. It then meets the
// filters as any other.
func (r builder) addData(cfg Config) error {
	for _, f := range families {
		if err := r.addSet(f.expected, f.addr, f.addr, nftables.TypeInetService); err != nil {
			return err
		}
		if err := r.addSet(f.opaque, f.addr, f.addr); err != nil {
			return err
		}
	}
	r.addDataChain(chainData, cfg.TLSPorts, []expr.Any{r.queue})
	if spoofed := cfg.AntiSpoof.spoofed(); spoofed != nil {
		trusted := r.chain("data-trusted")
		r.add(trusted, spoofed, r.count(counterSpoofed), verdict(expr.VerdictReturn))
		r.add(trusted, []expr.Any{r.queue})
		r.addDataChain(chainDataArriving, cfg.TLSPorts, jumpTo(trusted.Name))
	}
	return nil
}

// The chains that the hooks jump to.
const (
	chainData         = "data"
	chainDataArriving = "data-arriving"
)

// dataSYN jumps to a chain with the first packets of TCP connections.
func dataSYN(chain string) []expr.Any {
	return slices.Concat(tcp(), flags(flagsSYN, expr.CmpOpEq, flagSYN), jumpTo(chain))
}

// addDataChain adds a chain that does something with the SYNs that the sets name.
func (r builder) addDataChain(name string, tlsPorts conntrack.PortRange, do []expr.Any) {
	chain := r.chain(name)
	for _, f := range families {
		r.add(chain, f.matchAddrs(), load(expr.PayloadBaseTransportHeader, offsetDport, 2, f.port), lookup(f.expected), do)
	}
	if tlsPorts != (conntrack.PortRange{}) {
		for _, f := range families {
			r.add(chain, f.matchAddrs(), lookup(f.opaque), dportIn(tlsPorts), do)
		}
	}
}

// addSet adds an empty set whose elements have a timeout each.
func (r builder) addSet(name string, types ...nftables.SetDatatype) error {
	key, err := nftables.ConcatSetType(types...)
	if err != nil {
		return err
	}
	return r.nft.AddSet(&nftables.Set{
		Table: r.table, Name: name, KeyType: key, Concatenation: true, HasTimeout: true,
	}, nil)
}

// family is what sets the rules for IPv4 and IPv6 apart.
type family struct {
	expected, opaque string // names of sets
	helper           string // name of the object that stands for the helper
	addr             nftables.SetDatatype
	nfproto          byte
	src, dst         uint32 // offsets of the addresses in the IP header
	// Registers behind each other, for the concatenation of the two addresses
	// and the port.
	srcReg, dstReg, port uint32
}

var (
	ipv4 = family{
		expected: "expected4", opaque: "opaque4", helper: "helper4", addr: nftables.TypeIPAddr, nfproto: unix.NFPROTO_IPV4,
		src: 12, dst: 16, srcReg: register32, dstReg: register32 + 1, port: register32 + 2,
	}
	ipv6 = family{
		expected: "expected6", opaque: "opaque6", helper: "helper6", addr: nftables.TypeIP6Addr, nfproto: unix.NFPROTO_IPV6,
		src: 8, dst: 24, srcReg: register, dstReg: register + 1, port: register32 + 8,
	}
	families = [...]*family{&ipv4, &ipv6}
)

// matchAddrs loads the addresses of a packet of the family.
func (f *family) matchAddrs() []expr.Any {
	return slices.Concat(
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{f.nfproto}},
		},
		load(expr.PayloadBaseNetworkHeader, f.src, f.addr.Bytes, f.srcReg),
		load(expr.PayloadBaseNetworkHeader, f.dst, f.addr.Bytes, f.dstReg),
	)
}

func load(base expr.PayloadBase, offset, n, reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: n}}
}

func lookup(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: register, SetName: set}}
}

func dportIn(r conntrack.PortRange) []expr.Any {
	return append(load(expr.PayloadBaseTransportHeader, offsetDport, 2, register),
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: binaryutil.BigEndian.PutUint16(r.Min)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: binaryutil.BigEndian.PutUint16(r.Max)},
	)
}

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind}}
}

func jumpTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func newTable(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// chain adds a chain that others jump to.
func (r builder) chain(name string) *nftables.Chain {
	return r.nft.AddChain(&nftables.Chain{Table: r.table, Name: name})
}

// baseChain adds a chain at a hook. Its policy is to accept.
func (r builder) baseChain(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	return r.nft.AddChain(&nftables.Chain{
		Table: r.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority,
	})
}

// add adds a rule.
func (r builder) add(chain *nftables.Chain, parts ...[]expr.Any) {
	rule := &nftables.Rule{Table: r.table, Chain: chain}
	for _, part := range parts {
		rule.Exprs = append(rule.Exprs, part...)
	}
	r.nft.AddRule(rule)
}

func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// port matches TCP with a control port at offset. Every packet of the host comes
// here, and most have another port, whatever their protocol: that is seen first.
func (r builder) port(offset uint32) []expr.Any {
	return slices.Concat(load(expr.PayloadBaseTransportHeader, offset, 2, register), r.ports, tcp())
}

// flags compares those of the TCP flags that are in mask.
func flags(mask byte, op expr.CmpOp, value byte) []expr.Any {
	return append(load(expr.PayloadBaseTransportHeader, offsetFlags, 1, register), bitwiseCmp([]byte{mask}, op, []byte{value})...)
}

// bitwiseCmp compares those bits of the register that are in mask.
func bitwiseCmp(mask []byte, op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: register, Data: value},
	}
}

// payloadByte matches packets that have byte i behind the TCP header, the first one
// being 0: where there is none, loading it ends the rule.
func payloadByte(i uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: unix.NFT_PAYLOAD_INNER_HEADER, Offset: i, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: []byte{0}},
	}
}

// payloadIs matches packets whose payload begins with b.
func payloadIs(b []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: unix.NFT_PAYLOAD_INNER_HEADER, Offset: 0, Len: uint32(len(b))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: b},
	}
}

// ctState matches packets in one of the states.
func ctState(states uint32) []expr.Any {
	return ct(expr.CtKeySTATE, states, expr.CmpOpNeq)
}

// ctHelper matches connections whose master has the helper.
func ctHelper(name string) []expr.Any {
	const size = 16 // NF_CT_HELPER_NAME_LEN
	padded := make([]byte, size)
	copy(padded, name)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyHELPER, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: padded},
	}
}

// ctStatus compares those bits of the connection's status that are in mask with 0.
func ctStatus(mask uint32, op expr.CmpOp) []expr.Any {
	return ct(expr.CtKeySTATUS, mask, op)
}

// direction matches packets that go the same way as the connection's first one, or
// the other way.
func direction(dir byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{dir}},
	}
}

// unmarked matches packets whose connection has no bit of mask in its mark.
func unmarked(mask uint32) []expr.Any {
	if mask == 0 {
		return nil // everything
	}
	return ct(expr.CtKeyMARK, mask, expr.CmpOpEq)
}

// ct compares with 0 those bits of what conntrack knows that are in mask.
func ct(key expr.CtKey, mask uint32, op expr.CmpOp) []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: key, Register: register}}, bitwiseCmp(binaryutil.NativeEndian.PutUint32(mask), op, make([]byte, 4))...)
}

// addHelpers adds the objects that name the kernel's helper, one a family: one
// for both would do with a helper that the kernel has for either.
func (r builder) addHelpers(helper string) {
	for _, f := range families {
		r.nft.AddObj(&nftables.NamedObj{
			Table: r.table, Name: f.helper, Type: nftables.ObjTypeCtHelper,
			Obj: &expr.CtHelper{Name: helper, L3Proto: uint16(f.nfproto), L4Proto: unix.IPPROTO_TCP},
		})
	}
}

// assign assigns the helper of its family to a connection; the other one does nothing.
func assign() []expr.Any {
	var exprs []expr.Any
	for _, f := range families {
		exprs = append(exprs, &expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: f.helper})
	}
	return exprs
}

// nftQueue is the statement "queue num N-M bypass".
func nftQueue(cfg Config) expr.Any {
	return &expr.Queue{Num: cfg.QueueNum, Total: cfg.QueueCount, Flag: expr.QueueFlagBypass}
}

// xtQueue is the same through the target of xtables: struct xt_NFQ_info_v3 of
// include/uapi/linux/netfilter/xt_NFQUEUE.h, three 16-bit numbers of the host.
// Both choose among several queues by a hash of the two addresses that is the
// same in both directions.
func xtQueue(cfg Config) expr.Any {
	const bypass = 1 // NFQ_FLAG_BYPASS
	info := binary.NativeEndian.AppendUint16(nil, cfg.QueueNum)
	info = binary.NativeEndian.AppendUint16(info, cfg.QueueCount)
	info = binary.NativeEndian.AppendUint16(info, bypass)
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: (*xt.Unknown)(&info)}
}

// feature is something that the kernel may lack.
type feature struct {
	name Feature
	// add adds a rule, or more, that uses it to chain.
	add func(r builder, chain *nftables.Chain)
}

// features are those that the table for cfg needs, each building on those before.
func features(cfg Config, queue expr.Any) []feature {
	list := []feature{
		{FeatureTables, func(builder, *nftables.Chain) {}},
		{
			FeatureCT,
			func(r builder, chain *nftables.Chain) { r.add(chain, ctState(expr.CtStateBitNEW)) },
		},
		{
			FeaturePayload,
			func(r builder, chain *nftables.Chain) { r.add(chain, payloadByte(0)) },
		},
		{
			FeatureQueue,
			func(r builder, chain *nftables.Chain) { r.add(chain, []expr.Any{queue}) },
		},
		{
			FeatureObjects,
			func(r builder, chain *nftables.Chain) {
				r.addCounter(counterFastOpen)
				r.add(chain, r.count(counterFastOpen))
			},
		},
	}
	if spoofed := cfg.AntiSpoof.spoofed(); spoofed != nil {
		list = append(list, feature{
			FeatureFIB,
			func(r builder, chain *nftables.Chain) {
				r.add(chain, spoofed)
				// Older kernels look the way back up in prerouting alone (nft_fib_validate).
				r.add(r.baseChain("probe-forward", nftables.ChainHookForward, priorityQueue), jumpTo(chain.Name))
			},
		})
	}
	if cfg.SkipMark != 0 {
		list = append(list, feature{
			FeatureMark,
			func(r builder, chain *nftables.Chain) { r.add(chain, unmarked(cfg.SkipMark)) },
		})
	}
	if cfg.Helper != "" {
		list = append(list, feature{
			FeatureHelper,
			func(r builder, _ *nftables.Chain) { r.addHelpers(cfg.Helper) },
		})
	}
	return list
}

// probe reports whether the kernel has f. It adds a table that uses it and
// deletes the table in the same batch, which the kernel carries out as a whole
// or not at all, so that nothing of it is ever to be seen.
func (f feature) probe() error {
	nft, err := nftables.New()
	if err != nil {
		return err
	}
	r := builder{nft: nft, table: nft.AddTable(newTable(tableName + "-probe"))}
	f.add(r, nft.AddChain(&nftables.Chain{Table: r.table, Name: "probe"}))
	nft.DelTable(r.table)
	return nft.Flush()
}
