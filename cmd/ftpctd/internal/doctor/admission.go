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

func checkOwnHelper(h Host) Result {
	const fix = "modprobe nfnetlink_cthelper (CONFIG_NF_CT_NETLINK_HELPER)"
	err := h.OwnHelper()
	switch {
	case err == nil:
		return Result{Status: OK, Detail: "user-space helpers can be registered"}
	case errors.Is(err, ctnetlink.ErrNoCTHelper):
		return Result{Warn, "user-space helpers are not supported; falling back (see admission)", fix}
	default:
		return Result{Warn, err.Error(), fix}
	}
}

func checkCarrier(h Host, cfg config.Config) Result {
	name := cfg.Helper.Carrier
	if err := h.Carrier(name); err != nil {
		if h.OwnHelper() == nil {
			return Result{Status: OK, Detail: fmt.Sprintf("helper %q not available (not needed)", name)}
		}
		return Result{Warn, err.Error(), "modprobe nf_conntrack_" + name}
	}
	return Result{Status: OK, Detail: fmt.Sprintf("the built-in helper %q can be assigned to connections", name)}
}

func checkAdmission(h Host, cfg config.Config) Result {
	a, err := h.Choose(cfg)
	if err != nil {
		return Result{
			Fail, fmt.Sprintf("no admission mode works: %v", err),
			"modprobe -a nf_conntrack_netlink nfnetlink_cthelper, or set admit = \"auto\"",
		}
	}
	return Result{Status: OK, Detail: fmt.Sprintf("%s: %s", describe(a), a.Why)}
}

// describe names an admission mode.
func describe(a admit.Admission) string {
	switch {
	case a.Own:
		return fmt.Sprintf("expectations with the daemon's own helper, %q", a.Helper)
	case a.Mode == config.AdmitExpect:
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
