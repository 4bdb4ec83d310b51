package doctor

import (
	"context"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// Host is what the checks see of a machine, a function for each thing that is
// asked of its kernel.
type Host struct {
	// Files is the file system, from the root directory.
	Files fs.FS
	// Release is the release of the kernel, such as "6.1.0-41-amd64".
	Release string

	// Queue binds a packet queue.
	Queue func() error
	// Rules makes the daemon's rules, with a check of source addresses or without, and
	// returns their mode.
	Rules func(antiSpoof bool) (mode string, err error)
	// Conntrack lists expectations.
	Conntrack func() error
	// OwnHelper asks whether helpers can be registered.
	OwnHelper func() error
	// Carrier asks whether connections can be given a helper of the kernel.
	Carrier func(name string) error
	// Choose chooses the way to have data connections admitted, as the daemon does.
	Choose func(cfg config.Config) (admit.Admission, error)
	// RoundTrip has a data connection admitted in the way given, over each family
	// that there is, and returns their names.
	RoundTrip func(ctx context.Context, a admit.Admission) (families []string, err error)

	// Owner names who has bound a queue.
	Owner func(num uint16) (nfq.Owner, bool)
	// KeptAway reads the counters of the rules of a daemon that runs. The error is
	// fs.ErrNotExist if there are none.
	KeptAway func() (firewall.Counters, error)
	// Tables reads the rules of the firewall.
	Tables func() ([]Table, error)
	// Expectations counts the expectations.
	Expectations func() (int, error)
}

// ThisHost returns the machine that the program runs on, as its network
// namespace sees it. It fails with os.ErrPermission where the process may not
// make network namespaces.
func ThisHost() (Host, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Host{}, os.NewSyscallError("uname", err)
	}
	if err := inPrivate(func() error { return nil }); err != nil {
		return Host{}, err
	}
	return Host{
		Files:   os.DirFS("/"),
		Release: unix.ByteSliceToString(name.Release[:]),
		Queue: func() error {
			return inPrivate(func() error {
				q, err := nfq.Open(nfq.Config{})
				if err != nil {
					return err
				}
				return q.Close()
			})
		},
		Rules: func(antiSpoof bool) (mode string, err error) {
			err = inPrivate(func() error {
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
		},
		Conntrack: func() error {
			return inPrivate(func() error {
				return withConntrack(func(c *ctnetlink.Conn) error {
					_, err := c.Expectations()
					return err
				})
			})
		},
		OwnHelper: func() error {
			return inPrivate(func() error {
				return withConntrack(func(c *ctnetlink.Conn) error {
					_, err := c.Helpers()
					return err
				})
			})
		},
		Carrier: func(name string) error {
			return inPrivate(func() error {
				return withConntrack(func(c *ctnetlink.Conn) error { return c.ProbeHelper(name) })
			})
		},
		Choose: func(cfg config.Config) (a admit.Admission, err error) {
			err = inPrivate(func() error {
				return withConntrack(func(c *ctnetlink.Conn) error {
					a, err = admit.Choose(c, cfg)
					return err
				})
			})
			return a, err
		},
		RoundTrip: func(ctx context.Context, a admit.Admission) (families []string, err error) {
			err = inPrivate(func() error {
				families, err = roundTrip(ctx, a)
				return err
			})
			return families, err
		},
		Owner:    nfq.FindOwner,
		KeptAway: firewall.ReadCounters,
		Tables:   readTables,
		Expectations: func() (n int, err error) {
			err = withConntrack(func(c *ctnetlink.Conn) error {
				list, err := c.Expectations()
				n = len(list)
				return err
			})
			return n, err
		},
	}, nil
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
