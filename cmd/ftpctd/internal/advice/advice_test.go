package advice

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

func conntrackErr(op ctnetlink.Op, errno unix.Errno) error {
	return &ctnetlink.Error{Op: op, Helper: "sane", Err: errno}
}

func queueErr(errno unix.Errno) error { return &nfq.Error{Op: "bind", Queue: 21, Err: errno} }

func firewallErr(op string, missing firewall.Feature, errno unix.Errno) error {
	return &firewall.Error{Op: op, Missing: missing, Helper: "sane", Err: errno}
}

// TestExplain holds that the advice about an error names what helps.
func TestExplain(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string // contained in the advice; empty if there is none
	}{
		{"expect without a helper", conntrackErr(ctnetlink.OpExpect, unix.EOPNOTSUPP), "the control connection has no helper"},
		{"expect the same tuple", conntrackErr(ctnetlink.OpExpect, unix.EEXIST), "already expected"},
		{"expect what overlaps", conntrackErr(ctnetlink.OpExpect, unix.EBUSY), "already expected"},
		{"expectation table full", conntrackErr(ctnetlink.OpExpect, unix.EMFILE), "raise net.netfilter.nf_conntrack_expect_max"},
		{"expect of an unknown master", conntrackErr(ctnetlink.OpExpect, unix.ENOENT), "not in the connection table"},
		{"delete what was used", conntrackErr(ctnetlink.OpDelete, unix.ENOENT), "the expectation was used"},
		{"connection table full", conntrackErr(ctnetlink.OpCreate, unix.ENOMEM), "raise net.netfilter.nf_conntrack_max"},
		{"entry is there", conntrackErr(ctnetlink.OpCreate, unix.EEXIST), "in the connection table already"},
		{"entry of an unknown master", conntrackErr(ctnetlink.OpCreate, unix.ENOENT), "the control connection is not in the connection table"},
		{"no carrier", conntrackErr(ctnetlink.OpProbe, unix.EOPNOTSUPP), "nf_conntrack_sane)"},
		{"no entries", &ctnetlink.Error{Op: ctnetlink.OpProbe, Err: unix.EOPNOTSUPP}, ""},
		{"list without privilege", conntrackErr(ctnetlink.OpList, unix.EPERM), "CAP_NET_ADMIN is needed in the user namespace that owns this network namespace"},
		{"no ctnetlink", conntrackErr(ctnetlink.OpLookup, unix.EINVAL), "load the module nf_conntrack_netlink"},
		{"no nfnetlink", conntrackErr(ctnetlink.OpDial, unix.EPROTONOSUPPORT), "load the module nfnetlink "},
		{"out of memory", conntrackErr(ctnetlink.OpList, unix.ENOMEM), "out of memory"},
		{"no answer that is known", conntrackErr(ctnetlink.OpDelete, unix.EBUSY), ""},
		{"helper's name taken", conntrackErr(ctnetlink.OpRegister, unix.EBUSY), "choose another name"},
		{"helper's name taken, before Linux 6.12", conntrackErr(ctnetlink.OpRegister, unix.EEXIST), "choose another name"},
		{"no user-space helpers", conntrackErr(ctnetlink.OpHelpers, unix.EINVAL), "load the module nfnetlink_cthelper (CONFIG_NF_CT_NETLINK_HELPER)"},
		{"no user-space helpers to list", &ctnetlink.Error{Op: ctnetlink.OpHelpers, Err: unix.EINVAL}, "load the module nfnetlink_cthelper (CONFIG_NF_CT_NETLINK_HELPER)"},
		{"helper in a user namespace", conntrackErr(ctnetlink.OpUnregister, unix.EPERM), "in the initial user namespace"},
		{"helper out of memory", conntrackErr(ctnetlink.OpRegister, unix.ENOMEM), "out of memory"},

		{"queue without privilege", queueErr(unix.EPERM), "CAP_NET_ADMIN"},
		{"queue bound by one who has let go", queueErr(unix.EBUSY), ""},
		{"queue bound", &nfq.Error{Op: "bind", Queue: 21, Owner: &nfq.Owner{PID: "7", Command: "x"}, Err: unix.EBUSY}, "stop it or set queue.num"},
		{"no packet queues", queueErr(unix.EINVAL), "load the module nfnetlink_queue"},
		{"no nfnetlink for a queue", queueErr(unix.EPROTONOSUPPORT), "load the module nfnetlink "},
		{"no fail-open", queueErr(unix.EOPNOTSUPP), "Linux 3.6"},

		{"rules without privilege", firewallErr(firewall.OpInstall, firewall.FeatureCT, unix.EPERM), "CAP_NET_ADMIN"},
		{"table removed", firewallErr(firewall.OpAdd, "", unix.ENOENT), "the daemon restores it"},
		{"no nftables", firewallErr(firewall.OpList, "", unix.EPROTONOSUPPORT), "load the module nf_tables"},
		{"no subsystem nftables", firewallErr(firewall.OpRemove, "", unix.EINVAL), "load the module nf_tables"},
		{"no queue expression", firewallErr(firewall.OpInstall, firewall.FeatureQueue, unix.ENOENT), "CONFIG_NFT_QUEUE"},
		{"no helper for the rules", firewallErr(firewall.OpInstall, firewall.FeatureHelper, unix.ENOENT), `helper "sane" for TCP: load its module (nf_conntrack_sane`},
		{"table busy", firewallErr(firewall.OpRemove, "", unix.EBUSY), ""},

		{"not the kernel", &ctnetlink.Error{Op: ctnetlink.OpList, Err: io.ErrUnexpectedEOF}, ""},
		{"not of these packages", os.NewSyscallError("socket", unix.EPERM), ""},
		{"wrapped with another", fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, queueErr(unix.EINVAL)), "load the module nfnetlink_queue"},
		{"wrapped", fmt.Errorf("at start: %w", queueErr(unix.EINVAL)), "load the module nfnetlink_queue"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Explain(tt.err)
			text, advice, _ := strings.Cut(got.Error(), tt.err.Error())
			if text != "" || !strings.Contains(advice, tt.want) || (tt.want == "") != (advice == "") {
				t.Errorf("text %q, want %q and what contains %q", got, tt.err, tt.want)
			}
			if strings.Contains(advice, nameOf) {
				t.Errorf("advice %q names no helper", advice)
			}
			if !errors.Is(got, tt.err) {
				t.Errorf("%v is not %v", got, tt.err)
			}
			if again := Explain(got); again.Error() != got.Error() {
				t.Errorf("explained again: %q, want %q", again, got)
			}
		})
	}
}

// TestFeatures holds that there is advice for every feature that rules may miss.
func TestFeatures(t *testing.T) {
	for _, f := range []firewall.Feature{
		firewall.FeatureTables, firewall.FeatureCT, firewall.FeaturePayload, firewall.FeatureQueue,
		firewall.FeatureObjects, firewall.FeatureFIB, firewall.FeatureMark, firewall.FeatureHelper,
	} {
		if missing[f] == "" {
			t.Errorf("no advice for %q", f)
		}
	}
}

// TestExplainJoined holds that each line of joined errors has its own advice.
func TestExplainJoined(t *testing.T) {
	queue, plain, rules := queueErr(unix.EINVAL), errors.New("no luck"), firewallErr(firewall.OpList, "", unix.EPERM)
	err := Explain(errors.Join(errors.Join(queue, plain), rules))
	want := strings.Join([]string{Explain(queue).Error(), "no luck", Explain(rules).Error()}, "\n")
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	if !errors.Is(err, unix.EINVAL) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v has lost an errno", err)
	}
	if err := Explain(nil); err != nil {
		t.Errorf("explained nil: %v", err)
	}
}

func TestAttr(t *testing.T) {
	err := queueErr(unix.EINVAL)
	for name, handler := range map[string]func(io.Writer, *slog.HandlerOptions) slog.Handler{
		"text": func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(w, o) },
		"JSON": func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(w, o) },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			slog.New(handler(&log, &slog.HandlerOptions{ReplaceAttr: Attr})).Error("it failed", "err", err, "n", 1)
			if !strings.Contains(log.String(), Explain(err).Error()) {
				t.Errorf("log %s, want it to contain %q", &log, Explain(err))
			}
		})
	}
}
