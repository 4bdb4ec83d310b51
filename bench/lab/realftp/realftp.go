// Package realftp runs the FTP servers and clients that people use in the
// hosts of a lab: vsftpd, ProFTPD and Pure-FTPd; curl, lftp and tnftp.
//
// bench/lab/install-deps.sh installs the clients, and unpacks the servers into
// a cache of their own, because their packages conflict.
package realftp

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// MissingError says that a program is not on this machine.
type MissingError struct {
	// Program is the name of the program.
	Program string

	// Err is why it was not found.
	Err error
}

// Error names the program and the way to get it.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is missing: run sudo sh bench/lab/install-deps.sh (%v)", e.Program, e.Err)
}

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }

// installed finds a program of the clients' packages.
func installed(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", &MissingError{Program: program, Err: err}
	}
	return path, nil
}

// cache is where install-deps.sh unpacks the servers.
func cache() string {
	dir := os.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		dir = "/var/cache"
	}
	return filepath.Join(dir, "ftpctd-test")
}

// unpacked finds a program of the servers' packages.
func unpacked(path string) (string, error) {
	path = filepath.Join(cache(), path)
	if _, err := os.Stat(path); err != nil {
		return "", &MissingError{Program: filepath.Base(path), Err: err}
	}
	return path, nil
}

// OpError is the error type of this package.
type OpError struct {
	// Op says what was attempted, such as "start vsftpd".
	Op string

	// Err is the cause.
	Err error
}

// Error describes the failure.
func (e *OpError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
