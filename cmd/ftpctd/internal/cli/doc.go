// Package cli is the command line of ftpctd: the root command, its subcommands, and
// the exit status of each. A subcommand parses its flags, loads the configuration and
// calls the package that does the work.
package cli
