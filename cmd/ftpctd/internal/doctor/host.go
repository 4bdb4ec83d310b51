package doctor

import (
	"context"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/advice"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// Host is the machine that the checks examine: each method asks its kernel for one
// thing.
type Host interface {
	// Files is the file system, from the root directory.
	Files() fs.FS
	// Release is the release of the kernel, such as "6.1.0-41-amd64".
	Release() string

	// Queue binds a packet queue.
	Queue() error
	// Rules installs the daemon's rules, with the source address check or without, and
	// returns how they queue packets.
	Rules(antiSpoof bool) (mode string, err error)
	// Conntrack lists expectations.
	Conntrack() error
	// OwnHelper asks whether helpers can be registered.
	OwnHelper() error
	// Carrier asks whether a built-in helper can be assigned to connections.
	Carrier(name string) error
	// Choose chooses the admission mode, as the daemon does.
	Choose(cfg config.Config) (admit.Admission, error)
	// RoundTrip admits a data connection in the mode given, over each address family
	// that the host has, and returns their names.
	RoundTrip(ctx context.Context, a admit.Admission) (families []string, err error)

	// Owner returns the process that has bound a queue.
	Owner(num uint16) (nfq.Owner, bool)
	// KeptAway reads the counters of the rules of a running daemon. The error is
	// fs.ErrNotExist if there is none.
	KeptAway() (firewall.Counters, error)
	// Tables reads the rules of the firewall.
	Tables() ([]Table, error)
	// Expectations counts the expectations.
	Expectations() (int, error)
}

// machine is the Host that the program runs on, as its network namespace sees it.
// What needs something to be created is tried in a private network namespace.
type machine struct{ release string }

// ThisHost returns the machine that the program runs on. It fails with
// os.ErrPermission where the process may not create network namespaces.
func ThisHost() (Host, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, os.NewSyscallError("uname", err)
	}
	if err := inNetNS(func() error { return nil }); err != nil {
		return nil, err
	}
	return machine{release: unix.ByteSliceToString(name.Release[:])}, nil
}

// Files implements Host.
func (machine) Files() fs.FS { return os.DirFS("/") }

// Release implements Host.
func (m machine) Release() string { return m.release }

// Queue implements Host.
func (machine) Queue() error {
	return inNetNS(func() error {
		q, err := nfq.Open(nfq.Config{})
		if err != nil {
			return err
		}
		return q.Close()
	})
}

// Rules implements Host.
func (machine) Rules(antiSpoof bool) (mode string, err error) {
	err = inNetNS(func() error {
		cfg := privateRules("")
		if antiSpoof {
			cfg.AntiSpoof = firewall.AntiSpoofStrict
		}
		table, err := firewall.Install(cfg)
		if err != nil {
			return err
		}
		mode = table.Mode()
		return table.Remove()
	})
	return mode, err
}

// Conntrack implements Host.
func (machine) Conntrack() error {
	return probe(func(c *ctnetlink.Conn) error {
		_, err := c.Expectations()
		return err
	})
}

// OwnHelper implements Host.
func (machine) OwnHelper() error {
	return probe(func(c *ctnetlink.Conn) error {
		_, err := c.Helpers()
		return err
	})
}

// Carrier implements Host.
func (machine) Carrier(name string) error {
	return probe(func(c *ctnetlink.Conn) error { return c.ProbeHelper(name) })
}

// Choose implements Host.
func (machine) Choose(cfg config.Config) (a admit.Admission, err error) {
	err = probe(func(c *ctnetlink.Conn) error {
		a, err = admit.Choose(c, cfg)
		return err
	})
	return a, err
}

// RoundTrip implements Host.
func (machine) RoundTrip(ctx context.Context, a admit.Admission) (families []string, err error) {
	err = inNetNS(func() error {
		families, err = roundTrip(ctx, a)
		return err
	})
	return families, err
}

// Owner implements Host.
func (machine) Owner(num uint16) (nfq.Owner, bool) { return nfq.FindOwner(num) }

// KeptAway implements Host.
func (machine) KeptAway() (firewall.Counters, error) {
	c, err := firewall.ReadCounters()
	return c, advice.Explain(err)
}

// Tables implements Host.
func (machine) Tables() ([]Table, error) { return readTables() }

// Expectations implements Host.
func (machine) Expectations() (n int, err error) {
	err = withConntrack(func(c *ctnetlink.Conn) error {
		list, err := c.Expectations()
		n = len(list)
		return err
	})
	return n, advice.Explain(err)
}

// probe calls f with a socket of a private network namespace.
func probe(f func(*ctnetlink.Conn) error) error {
	return inNetNS(func() error { return withConntrack(f) })
}

// withConntrack calls f with a socket of the calling thread's network namespace.
func withConntrack(f func(*ctnetlink.Conn) error) error {
	c, err := ctnetlink.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}
