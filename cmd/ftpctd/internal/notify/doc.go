// Package notify reports the state of the daemon to systemd: the protocols of
// sd_notify(3) and sd_watchdog_enabled(3).
package notify
