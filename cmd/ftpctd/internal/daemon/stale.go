package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// withdrawStale deletes the expectations of control connections that a daemon
// left behind which could not end properly.
func withdrawStale(kernel *ctnetlink.Conn, cfg config.Config, log *slog.Logger) error {
	entries, err := kernel.Expectations()
	if err != nil {
		return err
	}
	isOwn := func(e ctnetlink.Listed) bool { return e.Helper == cfg.Helper.Name }
	if slices.ContainsFunc(entries, isOwn) {
		if err := kernel.DeleteExpectations(cfg.Helper.Name); err != nil {
			return fmt.Errorf("stale expectation: %w", err)
		}
	}
	for _, e := range entries {
		withdrawn := isOwn(e)
		// Others may use the carrier. The port is that before NAT, which need not be a
		// control port.
		if !withdrawn && e.Helper == cfg.Helper.Carrier && slices.Contains(cfg.Ports, e.Master.Dst.Port()) {
			if withdrawn, err = withdrawCarried(kernel, e); err != nil {
				return fmt.Errorf("stale expectation: %w", err)
			}
		}
		if withdrawn {
			log.Info("withdrew an expectation of an earlier run", "src", e.Tuple.Src.Addr(), "dst", e.Tuple.Dst)
		}
	}
	return nil
}

// withdrawCarried deletes an expectation that was listed, unless it was used
// meanwhile.
func withdrawCarried(kernel *ctnetlink.Conn, e ctnetlink.Listed) (withdrawn bool, err error) {
	err = kernel.Delete(&conntrack.Expectation{Master: e.Master, Tuple: e.Tuple})
	if !errors.Is(err, unix.ENOENT) {
		return err == nil, err
	}
	// It may be in a zone, which is its control connection's.
	masters, err := kernel.Masters(e.Master)
	if err != nil {
		return false, err
	}
	for _, m := range masters {
		err := kernel.Delete(&conntrack.Expectation{Zone: m.Zone, Master: e.Master, Tuple: e.Tuple})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, err
		}
		withdrawn = withdrawn || err == nil
	}
	return withdrawn, nil
}
