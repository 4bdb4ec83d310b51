package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"ftpctd/bench/lab"
)

// variant is a setup of the router to measure.
type variant struct {
	name  string
	title string // in the report
	// open makes the firewall accept everything.
	open bool
	// helper is the conntrack helper that the firewall assigns to control
	// connections; none if empty.
	helper string
	// conntrackd runs conntrackd as that helper.
	conntrackd bool
	// ftpctd runs program with a configuration, the text of its file.
	ftpctd          bool
	program, config string
}

// builtIn returns the predefined variant of that name.
func builtIn(name string) (v variant, ok bool) {
	switch name {
	case "none":
		return variant{name: name, title: "no helper", open: true}, true
	case "kernel":
		return variant{name: name, title: "nf_conntrack_ftp", helper: "ftp"}, true
	case "conntrackd":
		return variant{name: name, title: name, helper: "ftp", conntrackd: true}, true
	case "expect", "entry":
		return variant{name: name, title: "ftpctd, " + name, ftpctd: true, config: fmt.Sprintf("admit = %q\n", name)}, true
	}
	return variant{}, false
}

// testbed is a variant in its own lab, isolated from the others' connections.
type testbed struct {
	variant  variant
	lab      *lab.Lab
	firewall *lab.Firewall
	server   *server
	daemon   *daemon // nil without one
}

// build builds the testbed.
func (v variant) build(ctx context.Context) (_ *testbed, err error) {
	tb := &testbed{variant: v}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", v.name, errors.Join(err, tb.close()))
		}
	}()
	if tb.lab, err = lab.New(lab.Config{}); err != nil {
		return nil, err
	}
	if v.open {
		tb.firewall, err = tb.lab.Router.OpenFirewall(lab.Forward)
	} else {
		tb.firewall, err = tb.lab.Router.DropFirewall(lab.Forward)
	}
	if err != nil {
		return nil, err
	}
	if v.conntrackd {
		if tb.daemon, err = startConntrackd(ctx, tb.lab.Router); err != nil {
			return nil, err
		}
	}
	if v.helper != "" {
		if err := tb.firewall.AssignHelper(v.helper); err != nil {
			return nil, err
		}
	}
	if tb.server, err = serve(tb.lab.Server); err != nil {
		return nil, err
	}
	if v.ftpctd {
		if tb.daemon, err = startFtpctd(ctx, tb.lab.Router, v.program, v.config); err != nil {
			return nil, err
		}
	}
	return tb, nil
}

func (tb *testbed) close() error {
	var errs []error
	if tb.firewall != nil { // first: a helper in use by rules cannot be removed
		errs = append(errs, tb.firewall.Close())
	}
	if tb.daemon != nil {
		errs = append(errs, tb.daemon.close())
	}
	if tb.server != nil {
		errs = append(errs, tb.server.close())
	}
	if tb.lab != nil {
		errs = append(errs, tb.lab.Close())
	}
	return errors.Join(errs...)
}

// measure measures a load with a number of control connections. It flushes the
// conntrack table: entries of earlier measurements would slow down later ones.
func (tb *testbed) measure(ld load, conns int, t timing) (m measurement, err error) {
	relatedBefore, err := tb.firewall.Related()
	if err != nil {
		return m, err
	}
	pid := 0
	if tb.daemon != nil {
		pid = tb.daemon.process.Pid()
	}
	var at []usage
	c, err := drive(tb.lab, ld, conns, t, func() error {
		u, err := readUsage(pid)
		at = append(at, u)
		return err
	})
	if err != nil {
		return m, fmt.Errorf("%s, %s with %d connections: %w", tb.variant.name, ld.name, conns, err)
	}
	relatedAfter, err := tb.firewall.Related()
	if err != nil {
		return m, err
	}
	m = newMeasurement(c.latencies, at[0], at[1])
	m.Variant, m.Load, m.Conns = tb.variant.name, ld.name, conns
	m.Blocked, m.Related = c.busy, int(relatedAfter-relatedBefore)
	if ld.data() {
		m.Data = c.cycles
	}
	return m, tb.lab.Router.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}
