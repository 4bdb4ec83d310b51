package main

import (
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/engine"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
)

// ruleset is the daemon's table and the helper that its rules assign.
type ruleset struct {
	table *firewall.Table
}

func installRules(kernel *ctnetlink.Conn, cfg config.Config, admission engine.Admission) (*ruleset, error) {
	r := &ruleset{}
	err := admission.Install(kernel, cfg, func() (err error) {
		r.table, err = firewall.Install(firewall.Config{
			Ports: cfg.Ports, Helper: admission.Helper,
			TLSPorts: tlsPorts(cfg),
			QueueNum: cfg.Queue.Num, QueueCount: cfg.Queue.Count,
		})
		return err
	})
	return r, err
}
