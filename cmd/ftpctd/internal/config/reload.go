package config

// Reload returns c with those settings of next that may change while the daemon
// runs: the policy and the log level. restart names the keys that differ but need a
// restart, in the order of the file; they stay as they were.
func (c Config) Reload(next Config) (reloaded Config, restart []string) {
	for _, k := range keys() {
		switch {
		case k.reload:
			k.copy(&c, &next)
		case k.differs(&c, &next):
			restart = append(restart, k.name)
		}
	}
	return c, restart
}
