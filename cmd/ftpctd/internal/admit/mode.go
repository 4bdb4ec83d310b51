package admit

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack/ctnetlink"
)

// Helpers is what the choice of an admission mode asks the kernel. It is
// ctnetlink.Conn.
type Helpers interface {
	Helpers() ([]ctnetlink.Helper, error)
	ProbeHelper(name string) error
	ProbeEntry() error
	RegisterHelper(ctnetlink.HelperConfig) error
	DeleteHelper(name string) error
}

// Admission is the way in which data connections are made RELATED.
type Admission struct {
	// Mode is config.AdmitExpect or config.AdmitEntry.
	Mode config.Admit
	// Helper is the helper that control connections are given; none if empty.
	Helper string
	// Own tells that Helper is one that the daemon registers.
	Own bool
	// Why says in words why it is this way and not another.
	Why string
}

// Choose asks the kernel which of the ways it has that the configuration allows,
// and takes the best: expectations with a helper of our own, expectations with a
// helper of the kernel's to carry them, entries. It changes nothing.
func Choose(kernel Helpers, cfg config.Config) (Admission, error) {
	if cfg.Admit == config.AdmitEntry {
		return chooseEntry(kernel, cfg, `admit = "entry"`)
	}
	_, noOwn := kernel.Helpers()
	if noOwn == nil {
		return Admission{
			Mode: config.AdmitExpect, Helper: cfg.Helper.Name, Own: true,
			Why: "the kernel takes user-space helpers",
		}, nil
	}
	return chooseWithoutOwn(kernel, cfg, "the kernel takes no user-space helpers")
}

func chooseWithoutOwn(kernel Helpers, cfg config.Config, why string) (Admission, error) {
	noCarrier := kernel.ProbeHelper(cfg.Helper.Carrier)
	if noCarrier == nil {
		return Admission{
			Mode: config.AdmitExpect, Helper: cfg.Helper.Carrier,
			Why: fmt.Sprintf("%s, but has the helper %q", why, cfg.Helper.Carrier),
		}, nil
	}
	if cfg.Admit == config.AdmitExpect {
		return Admission{}, fmt.Errorf(`admit = "expect": %s, and helper.carrier = %q cannot be used: %w`, why, cfg.Helper.Carrier, noCarrier)
	}
	return chooseEntry(kernel, cfg, fmt.Sprintf("%s and has no helper %q", why, cfg.Helper.Carrier))
}

func chooseEntry(kernel Helpers, cfg config.Config, why string) (Admission, error) {
	if !cfg.Firewall.Manage {
		return Admission{}, fmt.Errorf("%s: the admission mode \"entry\" fills sets of the daemon's own table: set firewall.manage = true", why)
	}
	if err := kernel.ProbeEntry(); err != nil {
		return Admission{}, fmt.Errorf("%s, and entries cannot be made: %w", why, err)
	}
	return Admission{Mode: config.AdmitEntry, Why: why}, nil
}

// Prepare chooses, and registers the daemon's helper if that is the way. Where
// the kernel has a helper of that name by itself, auto goes on without.
func Prepare(kernel Helpers, cfg config.Config) (Admission, error) {
	a, err := Choose(kernel, cfg)
	if err != nil || !a.Own {
		return a, err
	}
	err = register(kernel, cfg)
	if err == nil {
		return a, nil
	}
	a, fallback := chooseWithoutOwn(kernel, cfg, fmt.Sprintf("the helper %q could not be registered (%v)", cfg.Helper.Name, err))
	if fallback != nil {
		return Admission{}, errors.Join(err, fallback)
	}
	return a, nil
}

func register(kernel Helpers, cfg config.Config) error {
	return kernel.RegisterHelper(ctnetlink.HelperConfig{
		Name: cfg.Helper.Name, MaxExpected: cfg.Helper.MaxExpected, Timeout: cfg.Helper.Timeout,
	})
}

// registerTries is how often Install registers a helper that is gone. Each of the
// two families may go by itself.
const registerTries = 2

// Install calls install, which makes the rules that assign the helper and fails
// with ENOENT if there is none. A helper is global, and no rule keeps it before
// install: a daemon that ends in another network namespace may have deleted it
// since Prepare. Then it is registered again, and so is install tried.
func (a Admission) Install(kernel Helpers, cfg config.Config, install func() error) error {
	err := install()
	for tries := 0; a.Own && errors.Is(err, unix.ENOENT) && tries < registerTries; tries++ {
		if err := register(kernel, cfg); err != nil {
			return err
		}
		err = install()
	}
	return err
}

// Close takes back what Prepare has registered. The rules that assign the helper
// must be gone.
func (a Admission) Close(kernel Helpers) error {
	if !a.Own {
		return nil
	}
	return kernel.DeleteHelper(a.Helper)
}
