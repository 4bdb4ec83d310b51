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
	const mend = "modprobe nfnetlink_cthelper (CONFIG_NF_CT_NETLINK_HELPER)"
	err := h.OwnHelper()
	switch {
	case err == nil:
		return Result{Status: OK, Found: "helpers can be registered"}
	case errors.Is(err, ctnetlink.ErrNoCTHelper):
		return Result{Warn, "helpers cannot be registered: another way is needed, see admission", mend}
	default:
		return Result{Warn, err.Error(), mend}
	}
}

func checkCarrier(h Host, cfg config.Config) Result {
	name := cfg.Helper.Carrier
	if err := h.Carrier(name); err != nil {
		if h.OwnHelper() == nil {
			return Result{Status: OK, Found: fmt.Sprintf("the kernel has no helper %q, nor is it needed", name)}
		}
		return Result{Warn, err.Error(), "modprobe nf_conntrack_" + name}
	}
	return Result{Status: OK, Found: fmt.Sprintf("connections can be given the kernel's helper %q", name)}
}

func checkAdmission(h Host, cfg config.Config) Result {
	a, err := h.Choose(cfg)
	if err != nil {
		return Result{
			Fail, fmt.Sprintf("no way works: %v", err),
			"modprobe nf_conntrack_netlink nfnetlink_cthelper, or set admit to auto",
		}
	}
	return Result{Status: OK, Found: fmt.Sprintf("%s: %s", describe(a), a.Why)}
}

// describe names the mode of an admission.
func describe(a admit.Admission) string {
	switch {
	case a.Own:
		return fmt.Sprintf("expectations with the daemon's own helper, %q", a.Helper)
	case a.Mode == config.AdmitExpect:
		return fmt.Sprintf("expectations with the kernel's helper %q", a.Helper)
	default:
		return "entries for data connections"
	}
}

func checkRoundTrip(ctx context.Context, h Host, cfg config.Config) Result {
	a, err := h.Choose(cfg)
	if err != nil {
		return Result{Fail, "not tried: no way works", "mend admission first"}
	}
	families, err := h.RoundTrip(ctx, a)
	if err != nil {
		return Result{Fail, fmt.Sprintf("%s: %v", describe(a), err), "mend the checks above; if all are OK, report this as a bug with the kernel's release, " + h.Release}
	}
	return Result{Status: OK, Found: fmt.Sprintf("%s: data connections in a private network namespace were RELATED, over %s", describe(a), strings.Join(families, " and "))}
}
