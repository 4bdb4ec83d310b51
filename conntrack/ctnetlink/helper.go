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

// HelperConfig describes a helper to register.
type HelperConfig struct {
	// Name is the name by which rules assign the helper: 1 to 15 bytes.
	Name string
	// MaxExpected is how many unused expectations one connection may have, 1 to
	// 255. One more replaces the oldest.
	MaxExpected uint32
	// Timeout is the lifetime of an unused expectation, in whole seconds, at least 1.
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
		return fmt.Errorf("helper name must be 1 to %d bytes", maxHelperName)
	case h.MaxExpected < 1 || h.MaxExpected > maxExpected:
		return fmt.Errorf("MaxExpected must be 1 to %d, got %d", maxExpected, h.MaxExpected)
	case h.Timeout < time.Second:
		return fmt.Errorf("timeout must be at least 1s, got %v", h.Timeout)
	}
	return nil
}

// Helper is a user-space helper as the kernel lists it, for one family.
type Helper struct {
	HelperConfig
	// Family is unix.AF_INET or unix.AF_INET6, Protocol the IP protocol number.
	Family   uint16
	Protocol uint8
	// Enabled reports whether packets are passed to it, which RegisterHelper does not ask
	// for: it is another program's then.
	Enabled bool
}

// ErrNoCTHelper matches, with errors.Is, the error of an operation on helpers if the
// kernel does not support user-space helpers, or if the process lacks CAP_NET_ADMIN in
// the initial user namespace.
var ErrNoCTHelper = errors.New("no user-space helpers")

// families are the address families that a helper is registered for.
var families = [...]uint16{unix.AF_INET, unix.AF_INET6}

// RegisterHelper registers a helper for TCP over IPv4 and IPv6. No packets are passed
// to it (its status is disabled): its policy is what a connection needs to have
// expectations.
//
// Helpers are global: they belong to no network namespace, and stay until they are
// deleted. If there is one of the same name, which a killed daemon left behind or a
// daemon in another namespace uses, its policy becomes that of cfg; it is replaced if
// it differs in anything else.
//
// It fails with EBUSY (EEXIST before Linux 6.12) if the name is one of the kernel's own
// helpers, or if the helper to be replaced is in use; with [ErrNoCTHelper] if the kernel
// registers none. It then deletes what it has registered, unless that is in use.
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
			return wrapHelperError(OpRegister, cfg.Name, err)
		}
	}
	return nil
}

// The kernel releases the objects of a deleted ruleset with a delay, and a helper is in
// use until then.
const (
	releaseWait  = 500 * time.Millisecond
	releaseEvery = 10 * time.Millisecond
)

// DeleteHelper deletes a helper that RegisterHelper has registered. Connections lose it,
// and their expectations.
//
// It is no error if there is none, or if a rule in any network namespace still assigns
// it: then it stays. (Linux 7.x, which counts the users of a helper, deletes it anyway.)
// It waits up to half a second for rules that were removed just before.
func (c *Conn) DeleteHelper(name string) error {
	deadline := time.Now().Add(releaseWait)
	for _, family := range families {
		err := c.deleteHelper(name, family, deadline)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			return wrapHelperError(OpUnregister, name, err)
		}
	}
	return nil
}

// deleteHelper retries until the deadline while rules use the helper.
func (c *Conn) deleteHelper(name string, family uint16, deadline time.Time) error {
	for {
		_, err := c.execute(appendDeleteHelper(nil, name, family), netlink.Acknowledge)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(releaseEvery)
	}
}

// Helpers lists the user-space helpers, those of other programs included. It changes
// nothing, so it also serves to find out whether helpers can be registered: if not, its
// error is [ErrNoCTHelper].
func (c *Conn) Helpers() ([]Helper, error) {
	msgs, err := c.execute(appendHelperDump(nil), 0)
	if err != nil {
		return nil, wrapHelperError(OpHelpers, "", err)
	}
	helpers := make([]Helper, 0, len(msgs))
	for _, m := range msgs {
		h, err := parseHelper(m.Data)
		if err != nil {
			return nil, wrapHelperError(OpHelpers, "", err)
		}
		helpers = append(helpers, h)
	}
	return helpers, nil
}

// ProbeHelper reports whether the helper name, the kernel's or a registered one, can be
// assigned to TCP connections over IPv4 and IPv6. It fails with EOPNOTSUPP if not.
//
// It creates nothing: it asks for an entry that has the helper and is RELATED to a
// connection that does not exist. The kernel looks up the helper first, and loads its
// module if it can (ctnetlink_create_conntrack).
func (c *Conn) ProbeHelper(name string) error {
	return c.probe(name)
}

// ProbeEntry reports, like ProbeHelper, whether the entries of data connections can be
// created.
func (c *Conn) ProbeEntry() error {
	return c.probe("")
}

func (c *Conn) probe(helper string) error {
	for _, probed := range [...]struct{ data, master conntrack.Tuple }{
		{testNetTuple("192.0.2.1"), testNetTuple("192.0.2.2")},
		{testNetTuple("2001:db8::1"), testNetTuple("2001:db8::2")},
	} {
		_, err := c.execute(appendProbe(nil, helper, probed.data, probed.master), netlink.Acknowledge)
		if !errors.Is(err, unix.ENOENT) {
			return wrapHelperError(OpProbe, helper, err)
		}
	}
	return nil
}

// testNetTuple returns the tuple of a connection that cannot exist: its address is
// reserved for documentation (RFC 5737, RFC 3849).
func testNetTuple(addr string) conntrack.Tuple {
	end := netip.AddrPortFrom(netip.MustParseAddr(addr), 1)
	return conntrack.Tuple{Src: end, Dst: end}
}

// parseHelper decodes the body of an NFNL_MSG_CTHELPER_NEW message. Of several
// policies it takes the first.
func parseHelper(body []byte) (h Helper, err error) {
	err = eachAttr(body, func(a nfnetlink.Attr) error {
		switch a.Type {
		case nfcthName:
			h.Name = a.Text()
		case nfcthTuple:
			return h.parseTuple(a.Value)
		case nfcthPolicy:
			return h.parsePolicies(a.Value)
		case nfcthStatus:
			status, err := a.Uint32()
			h.Enabled = status != statusDisabled
			return err
		}
		return nil
	})
	if err != nil {
		return Helper{}, err
	}
	return h, nil
}

func (h *Helper) parseTuple(b []byte) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) (err error) {
		switch a.Type {
		case nfcthTupleL3Proto:
			h.Family, err = a.Uint16()
		case nfcthTupleL4Proto:
			h.Protocol, err = a.Uint8()
		}
		return err
	})
}

func (h *Helper) parsePolicies(b []byte) error {
	return nfnetlink.EachAttr(b, func(a nfnetlink.Attr) error {
		if a.Type != nfcthPolicySet1 {
			return nil
		}
		return nfnetlink.EachAttr(a.Value, func(a nfnetlink.Attr) (err error) {
			switch a.Type {
			case nfcthPolicyMax:
				h.MaxExpected, err = a.Uint32()
			case nfcthPolicyTimeout:
				h.Timeout, err = seconds(a)
			}
			return err
		})
	})
}

func wrapHelperError(op Op, name string, err error) error {
	e, ok := errors.AsType[*Error](WrapError(op, conntrack.Tuple{}, err))
	if !ok {
		return nil
	}
	e.Helper = name
	return e
}
