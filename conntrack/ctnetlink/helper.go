package ctnetlink

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// HelperConfig says which helper to register.
type HelperConfig struct {
	// Name is the name that rules assign the helper by: 1 to 15 bytes.
	Name string
	// MaxExpected is how many unused expectations one connection may have, 1 to
	// 255. One more takes the place of the oldest.
	MaxExpected uint32
	// Timeout is the life of an expectation that is not used. The kernel counts
	// whole seconds, at least 1.
	Timeout time.Duration
}

// Limits of include/net/netfilter/nf_conntrack_helper.h and nf_conntrack_expect.h.
const (
	maxHelperName = 15
	maxExpected   = 255
)

func (h HelperConfig) validate() error {
	switch {
	case h.Name == "" || len(h.Name) > maxHelperName || strings.Contains(h.Name, "\x00"):
		return fmt.Errorf("the name of a helper has 1 to %d bytes", maxHelperName)
	case h.MaxExpected < 1 || h.MaxExpected > maxExpected:
		return fmt.Errorf("a helper may have 1 to %d expectations, not %d", maxExpected, h.MaxExpected)
	case h.Timeout < time.Second:
		return fmt.Errorf("expectations live for at least a second, not %v", h.Timeout)
	}
	return nil
}

// Helper is a user-space helper as the kernel lists it, for one family.
type Helper struct {
	HelperConfig
	// Family is unix.AF_INET or unix.AF_INET6, Protocol the IP protocol number.
	Family   uint16
	Protocol uint8
}

// ErrNoCTHelper is what errors.Is finds in the error of an operation on helpers
// if the kernel knows no user-space helpers, or leaves them to processes with
// CAP_NET_ADMIN in the initial user namespace and this is none.
var ErrNoCTHelper = errors.New("no user-space helpers")

// families are those that a helper is registered for.
var families = [...]uint16{unix.AF_INET, unix.AF_INET6}

// RegisterHelper registers a helper for TCP over IPv4 and IPv6. It sees no
// packets (its status is disabled): it gives connections that a rule assigns it
// to the policy that expectations need.
//
// Helpers are global: they belong to no network namespace, and last until they
// are deleted. One of the same name that is there already, left by a daemon that
// was killed or used by one in another namespace, is given the policy of cfg; if
// the kernel cannot do that because it differs in more than that, it is replaced.
//
// It fails with EBUSY (EEXIST before Linux 6.12) if the kernel has a helper of
// that name by itself, or if one that would have to be replaced is in use; with
// [ErrNoCTHelper] where none can be registered. Then it leaves none of one family,
// unless that is in use.
func (c *Conn) RegisterHelper(cfg HelperConfig) error {
	if err := cfg.validate(); err != nil {
		return &Error{Op: OpRegister, Helper: cfg.Name, Err: err}
	}
	for i, family := range families {
		_, err := c.execute(appendHelper(nil, cfg, family), netlink.Acknowledge)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			if deadline := time.Now().Add(releaseWait); c.deleteHelper(cfg.Name, family, deadline) == nil {
				_, err = c.execute(appendHelper(nil, cfg, family), netlink.Acknowledge)
			}
		}
		if err != nil {
			for _, registered := range families[:i] {
				_ = c.deleteHelper(cfg.Name, registered, time.Now()) // stays if it is in use
			}
			return explainHelper(OpRegister, cfg.Name, err)
		}
	}
	return nil
}

// The kernel gives up the objects of a deleted ruleset a little later, and a
// helper is in use until then.
const (
	releaseWait  = 500 * time.Millisecond
	releaseEvery = 10 * time.Millisecond
)

// DeleteHelper deletes a helper that RegisterHelper has registered. Connections
// lose it, and their expectations with it.
//
// It is no error if there is none, nor if a rule of whatever network namespace
// still assigns it: then it stays. (Kernels that count the users of a helper,
// Linux 7.x, delete it all the same.) Rules that were removed just before are
// waited for, half a second at most.
func (c *Conn) DeleteHelper(name string) error {
	deadline := time.Now().Add(releaseWait)
	for _, family := range families {
		err := c.deleteHelper(name, family, deadline)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			return explainHelper(OpUnregister, name, err)
		}
	}
	return nil
}

// deleteHelper waits until the deadline for rules that use the helper to go.
func (c *Conn) deleteHelper(name string, family uint16, deadline time.Time) error {
	for {
		_, err := c.execute(appendDeleteHelper(nil, name, family), netlink.Acknowledge)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(releaseEvery)
	}
}

// Helpers lists the user-space helpers, those of other programs included. It asks
// for nothing but that, and so is the way to find out whether helpers can be
// registered here: if not, its error is [ErrNoCTHelper].
func (c *Conn) Helpers() ([]Helper, error) {
	msgs, err := c.execute(appendHelperDump(nil), 0)
	if err != nil {
		return nil, explainHelper(OpHelpers, "", err)
	}
	helpers := make([]Helper, 0, len(msgs))
	for _, m := range msgs {
		h, err := parseHelper(m.Data)
		if err != nil {
			return nil, explainHelper(OpHelpers, "", err)
		}
		helpers = append(helpers, h)
	}
	return helpers, nil
}

// ProbeHelper asks whether connections can be given the helper name, one of the
// kernel's or one that was registered, for TCP over IPv4 and IPv6, so that
// expectations can be made of them. It fails with EOPNOTSUPP if not.
//
// Nothing is made: it asks for an entry with the helper that is RELATED to a
// connection that is not there. The kernel looks for the helper first, and loads
// its module if it can (ctnetlink_create_conntrack).
func (c *Conn) ProbeHelper(name string) error {
	return c.probe(name)
}

// ProbeEntry asks whether entries can be made for data connections, in the way of
// ProbeHelper.
func (c *Conn) ProbeEntry() error {
	return c.probe("")
}

func (c *Conn) probe(helper string) error {
	for _, probed := range [...]struct{ data, master conntrack.Tuple }{
		{documented("192.0.2.1"), documented("192.0.2.2")},
		{documented("2001:db8::1"), documented("2001:db8::2")},
	} {
		_, err := c.execute(appendProbe(nil, helper, probed.data, probed.master), netlink.Acknowledge)
		if !errors.Is(err, unix.ENOENT) {
			return explainHelper(OpProbe, helper, err)
		}
	}
	return nil
}

// documented returns a tuple that is of no real connection: its address is
// reserved for documentation (RFC 5737, RFC 3849).
func documented(addr string) conntrack.Tuple {
	end := netip.AddrPortFrom(netip.MustParseAddr(addr), 1)
	return conntrack.Tuple{Src: end, Dst: end}
}

// parseHelper decodes the body of an NFNL_MSG_CTHELPER_NEW message. Of several
// policies it takes the first.
func parseHelper(body []byte) (h Helper, err error) {
	a := nfnetlink.Message{Body: body}.Attributes()
	for a.Next() {
		switch a.Type() {
		case nfcthName:
			h.Name = a.String()
		case nfcthTuple:
			a.Do(h.parseTuple)
		case nfcthPolicy:
			a.Do(h.parsePolicies)
		}
	}
	if err := a.Err(); err != nil {
		return Helper{}, err
	}
	return h, nil
}

func (h *Helper) parseTuple(b []byte) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case nfcthTupleL3Proto:
			h.Family = a.Uint16()
		case nfcthTupleL4Proto:
			h.Protocol = a.Uint8()
		}
	}
	return a.Err()
}

func (h *Helper) parsePolicies(b []byte) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		if a.Type() == nfcthPolicySet1 {
			a.Do(h.parsePolicy)
		}
	}
	return a.Err()
}

func (h *Helper) parsePolicy(b []byte) error {
	a := nfnetlink.ParseAttributes(b)
	for a.Next() {
		switch a.Type() {
		case nfcthPolicyMax:
			h.MaxExpected = a.Uint32()
		case nfcthPolicyTimeout:
			h.Timeout = time.Duration(a.Uint32()) * time.Second
		}
	}
	return a.Err()
}

func explainHelper(op Op, name string, err error) error {
	e, ok := errors.AsType[*Error](Explain(op, conntrack.Tuple{}, err))
	if !ok {
		return nil
	}
	e.Helper = name
	return e
}
