package daemon

import (
	"log/slog"
	"os"
	"strconv"
	"strings"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// kernelTracking is the tracker's configuration, with what the kernel adds to it: the
// control connections that are older than the daemon, and the share of one client in
// the table of expectations.
func kernelTracking(kernel *ctnetlink.Conn, cfg config.Config, admission admit.Admission, log *slog.Logger) (conntrack.Config, error) {
	tracking := cfg.Tracker()
	connections, err := kernel.Servers(cfg.Ports)
	if err != nil {
		return conntrack.Config{}, err
	}
	tracking.Older = conntrack.NewOlder(connections, cfg.Ports, cfg.Limits.Connections)
	if n, leftOut := tracking.Older.Len(); n > 0 {
		log.Info("control connections predate the daemon; picking them up in the middle", "connections", n, "skipped", leftOut)
	}
	if admission.Mode != config.AdmitEntry {
		tracking.KernelShare = kernelShare()
	}
	return tracking, nil
}

// kernelShare is how many of the kernel's expectations one client may have: a quarter
// of the table.
func kernelShare() int {
	// The default of a kernel with little memory, where a sandbox hides /proc/sys.
	size := 1024
	if b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_expect_max"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			size = n
		}
	}
	return max(size/4, 1)
}
