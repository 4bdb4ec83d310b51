package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// removeStaleExpectations deletes the expectations that a killed daemon left.
func removeStaleExpectations(kernel *ctnetlink.Conn, cfg config.Config, log *slog.Logger) error {
	entries, err := kernel.Expectations()
	if err != nil {
		return err
	}
	registered := admit.IsRegistered(kernel, cfg.Helper.Name)
	isOwn := func(e ctnetlink.ExpectationEntry) bool { return registered && e.Helper == cfg.Helper.Name }
	if slices.ContainsFunc(entries, isOwn) {
		if err := kernel.DeleteExpectations(cfg.Helper.Name); err != nil {
			return fmt.Errorf("stale expectation: %w", err)
		}
	}
	for _, e := range entries {
		removed := isOwn(e)
		// Others may use the carrier. The port is that before NAT, which need not be a
		// control port.
		if !removed && e.Helper == cfg.Helper.Carrier && slices.Contains(cfg.Ports, e.Master.Dst.Port()) {
			if removed, err = deleteCarried(kernel, e); err != nil {
				return fmt.Errorf("stale expectation: %w", err)
			}
		}
		if removed {
			log.Info("removed stale expectation", "src", e.Tuple.Src.Addr(), "dst", e.Tuple.Dst)
		}
	}
	return nil
}

// deleteCarried deletes an expectation of the carrier that was listed. It may have
// been used since.
func deleteCarried(kernel *ctnetlink.Conn, e ctnetlink.ExpectationEntry) (deleted bool, err error) {
	err = kernel.Delete(&conntrack.Expectation{Master: e.Master, Tuple: e.Tuple})
	if !errors.Is(err, unix.ENOENT) {
		return err == nil, err
	}
	// It may be in a zone, that of its master.
	masters, err := kernel.FindConnections(e.Master)
	if err != nil {
		return false, err
	}
	for _, m := range masters {
		err := kernel.Delete(&conntrack.Expectation{Zone: m.Zone, Master: e.Master, Tuple: e.Tuple})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, err
		}
		deleted = deleted || err == nil
	}
	return deleted, nil
}
