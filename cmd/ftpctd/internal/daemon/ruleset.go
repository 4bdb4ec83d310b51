package daemon

import (
	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
)

// ruleset is the daemon's table and the helper that its rules assign.
type ruleset struct {
	table     *firewall.Table
	kernel    *ctnetlink.Conn
	cfg       config.Config
	admission admit.Admission
}

func installRules(kernel *ctnetlink.Conn, cfg config.Config, admission admit.Admission) (*ruleset, error) {
	r := &ruleset{kernel: kernel, cfg: cfg, admission: admission}
	err := admission.Install(kernel, cfg, func() (err error) {
		r.table, err = firewall.Install(firewall.Config{
			Ports: cfg.Ports, Helper: admission.Helper,
			TLSPorts: cfg.TLSPorts(), SkipMark: cfg.Queue.SkipMark,
			QueueNum: cfg.Queue.Num, QueueCount: cfg.Queue.Count,
			AntiSpoof: cfg.Firewall.AntiSpoof,
		})
		return err
	})
	return r, err
}

// restore recreates the table if it was removed, and reports whether it was.
func (r *ruleset) restore() (gone bool, err error) {
	err = r.admission.Install(r.kernel, r.cfg, func() (err error) {
		gone, err = r.table.Restore()
		return err
	})
	return gone, err
}
