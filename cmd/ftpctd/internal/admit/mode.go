package admit

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack/ctnetlink"
)

// HelperAPI is what the choice of a mode asks of the kernel. It is ctnetlink.Conn.
type HelperAPI interface {
	Helpers() ([]ctnetlink.Helper, error)
	ProbeHelper(name string) error
	ProbeEntry() error
	RegisterHelper(ctnetlink.HelperConfig) error
	DeleteHelper(name string) error
}

// Admission is the mode that was chosen.
type Admission struct {
	// Mode is config.AdmitExpect, config.AdmitEntry or config.AdmitHelper.
	Mode config.Admit
	// Helper is the conntrack helper that the rules assign to control connections: one
	// of the kernel's, or in the mode "helper" the daemon's own. Empty in the mode
	// "entry".
	Helper string
	// Why is the reason for the mode.
	Why string
}

// Choose returns the mode that cfg asks for, if the kernel supports it. "auto" is
// "expect", or "entry" on a kernel without the carrier: the daemon's own helper is used
// only where it is asked for. Choose changes nothing.
func Choose(kernel HelperAPI, cfg config.Config) (Admission, error) {
	switch cfg.Admit {
	case config.AdmitEntry:
		return chooseEntry(kernel, cfg, asked(cfg))
	case config.AdmitHelper:
		return chooseHelper(kernel, cfg)
	}
	carrierErr := kernel.ProbeHelper(cfg.Helper.Carrier)
	switch {
	case carrierErr == nil:
		return Admission{
			Mode: config.AdmitExpect, Helper: cfg.Helper.Carrier,
			Why: fmt.Sprintf("the kernel has the helper %q", cfg.Helper.Carrier),
		}, nil
	case cfg.Admit == config.AdmitExpect:
		return Admission{}, fmt.Errorf("%s: helper.carrier = %q cannot be used: %w", asked(cfg), cfg.Helper.Carrier, carrierErr)
	}
	a, entryErr := chooseEntry(kernel, cfg, fmt.Sprintf("the kernel has no helper %q", cfg.Helper.Carrier))
	if entryErr != nil {
		return Admission{}, fmt.Errorf("%w; %w", carrierErr, entryErr)
	}
	return a, nil
}

// asked is the configuration's line.
func asked(cfg config.Config) string { return fmt.Sprintf("admit = %q", cfg.Admit) }

func chooseHelper(kernel HelperAPI, cfg config.Config) (Admission, error) {
	if _, ownErr := kernel.Helpers(); ownErr != nil {
		return Admission{}, fmt.Errorf("%s: the kernel does not support user-space helpers: %w", asked(cfg), ownErr)
	}
	return Admission{Mode: config.AdmitHelper, Helper: cfg.Helper.Name, Why: asked(cfg)}, nil
}

func chooseEntry(kernel HelperAPI, cfg config.Config, why string) (Admission, error) {
	if !cfg.Firewall.Manage {
		return Admission{}, fmt.Errorf(`%s: the mode "entry" requires firewall.manage = true`, why)
	}
	if err := kernel.ProbeEntry(); err != nil {
		return Admission{}, fmt.Errorf("%s, and conntrack entries cannot be created: %w", why, err)
	}
	return Admission{Mode: config.AdmitEntry, Why: why}, nil
}

// Prepare is Choose for a daemon that starts: it registers the daemon's helper if the
// mode is "helper". Otherwise it deletes one that a killed daemon left, unless a rule
// still assigns it.
func Prepare(kernel HelperAPI, cfg config.Config) (Admission, error) {
	a, err := Choose(kernel, cfg)
	switch {
	case err != nil:
		return Admission{}, err
	case a.Mode == config.AdmitHelper:
		err = register(kernel, cfg)
	default:
		err = deleteStale(kernel, cfg.Helper.Name)
	}
	if err != nil {
		return Admission{}, err
	}
	return a, nil
}

func register(kernel HelperAPI, cfg config.Config) error {
	return kernel.RegisterHelper(ctnetlink.HelperConfig{
		Name: cfg.Helper.Name, MaxExpected: cfg.Helper.MaxExpected, Timeout: cfg.Helper.Timeout,
	})
}

func deleteStale(kernel HelperAPI, name string) error {
	if !IsRegistered(kernel, name) {
		return nil
	}
	return kernel.DeleteHelper(name)
}

// IsRegistered reports whether the helper name is one that a daemon has registered, and
// not the kernel's own or another program's.
func IsRegistered(kernel HelperAPI, name string) bool {
	helpers, err := kernel.Helpers() // it fails where the kernel has no user-space helpers
	return err == nil && slices.ContainsFunc(helpers, func(h ctnetlink.Helper) bool {
		return h.Name == name && !h.Enabled
	})
}

// registerTries is how often Install registers a helper that is gone: each of its two
// families may go separately.
const registerTries = 2

// Install calls install, which makes the rules that assign the helper and fails with
// ENOENT if there is no such helper. Helpers are global, and no rule keeps ours before
// install returns: a daemon that ends in another network namespace may have deleted it
// since Prepare. Then Install registers it again and calls install again.
func (a Admission) Install(kernel HelperAPI, cfg config.Config, install func() error) error {
	err := install()
	for tries := 0; a.Mode == config.AdmitHelper && errors.Is(err, unix.ENOENT) && tries < registerTries; tries++ {
		if err := register(kernel, cfg); err != nil {
			return err
		}
		err = install()
	}
	return err
}

// Close deletes the helper that Prepare registered. The rules that assign it must be
// gone.
func (a Admission) Close(kernel HelperAPI) error {
	if a.Mode != config.AdmitHelper {
		return nil
	}
	return kernel.DeleteHelper(a.Helper)
}
