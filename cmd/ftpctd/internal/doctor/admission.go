package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack/ctnetlink"
)

// cthelper is the module for user-space helpers.
const cthelper = "nfnetlink_cthelper"

func checkOwnHelper(h Host, cfg config.Config) Result {
	err := h.OwnHelper()
	switch {
	case err == nil:
		return Result{Status: OK, Detail: "user-space helpers can be registered"}
	case cfg.Admit != config.AdmitHelper:
		return Result{Status: OK, Detail: "user-space helpers are not supported (not needed)"}
	case errors.Is(err, ctnetlink.ErrNoCTHelper):
		return Result{Warn, "user-space helpers are not supported", "modprobe " + cthelper + " (CONFIG_NF_CT_NETLINK_HELPER)"}
	default:
		return Result{Warn, err.Error(), "modprobe " + cthelper}
	}
}

func checkCarrier(h Host, cfg config.Config) Result {
	name := cfg.Helper.Carrier
	err := h.Carrier(name)
	switch {
	case err == nil:
		return Result{Status: OK, Detail: fmt.Sprintf("the built-in helper %q can be assigned to connections", name)}
	case cfg.Admit == config.AdmitEntry || cfg.Admit == config.AdmitHelper:
		return Result{Status: OK, Detail: fmt.Sprintf("helper %q not available (not needed)", name)}
	default:
		return Result{Warn, err.Error(), "modprobe " + carrierModule(cfg)}
	}
}

// carrierModule is the module of the carrier.
func carrierModule(cfg config.Config) string { return "nf_conntrack_" + cfg.Helper.Carrier }

func checkAdmission(h Host, cfg config.Config) Result {
	a, err := h.Choose(cfg)
	if err != nil {
		return Result{Fail, fmt.Sprintf("no admission mode works: %v", err), fixAdmission(cfg)}
	}
	return Result{Status: OK, Detail: fmt.Sprintf("%s: %s", describe(a), a.Why)}
}

// fixAdmission is the fix where the kernel or the configuration does not allow the mode.
func fixAdmission(cfg config.Config) string {
	const (
		load = "modprobe -a nf_conntrack_netlink "
		auto = `, or set admit = "auto"`
	)
	switch {
	case cfg.Admit == config.AdmitAuto:
		return load + carrierModule(cfg)
	case cfg.Admit == config.AdmitHelper:
		return load + cthelper + auto
	case cfg.Admit == config.AdmitExpect:
		return load + carrierModule(cfg) + auto
	case !cfg.Firewall.Manage:
		return "set firewall.manage = true" + auto
	}
	return "modprobe nf_conntrack_netlink" + auto
}

// describe names an admission mode.
func describe(a admit.Admission) string {
	switch a.Mode {
	case config.AdmitHelper:
		return fmt.Sprintf("expectations with the daemon's own helper, %q", a.Helper)
	case config.AdmitExpect:
		return fmt.Sprintf("expectations with the built-in helper %q", a.Helper)
	default:
		return "conntrack entries for data connections"
	}
}

func checkRoundTrip(ctx context.Context, h Host, cfg config.Config) Result {
	a, err := h.Choose(cfg)
	if err != nil {
		return Result{Fail, "skipped: no admission mode works", "fix admission first"}
	}
	families, err := h.RoundTrip(ctx, a)
	if err != nil {
		return Result{Fail, fmt.Sprintf("%s: %v", describe(a), err), "fix the checks above; if all are OK, report a bug for kernel " + h.Release()}
	}
	return Result{Status: OK, Detail: fmt.Sprintf("%s: data connections over %s were RELATED in a private network namespace", describe(a), strings.Join(families, " and "))}
}
