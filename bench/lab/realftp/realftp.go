// Package realftp runs common FTP servers and clients on the hosts of a lab:
// vsftpd, ProFTPD and Pure-FTPd; curl, lftp and tnftp.
//
// bench/lab/install-deps.sh installs the clients. It unpacks the servers into a
// cache, because their packages conflict.
package realftp

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// MissingError reports a program that is not on this machine.
type MissingError struct {
	// Program is the name of the program.
	Program string

	// Err is the cause.
	Err error
}

// Error names the program and how to install it.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is missing: run sudo sh bench/lab/install-deps.sh (%v)", e.Program, e.Err)
}

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }

// installed returns the path of a client program.
func installed(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", &MissingError{Program: program, Err: err}
	}
	return path, nil
}

// cache returns the directory into which install-deps.sh unpacks the servers.
func cache() string {
	dir := os.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		dir = "/var/cache"
	}
	return filepath.Join(dir, "ftpctd-test")
}

// unpacked returns the path of a file from the servers' packages.
func unpacked(path string) (string, error) {
	path = filepath.Join(cache(), path)
	if _, err := os.Stat(path); err != nil {
		return "", &MissingError{Program: filepath.Base(path), Err: err}
	}
	return path, nil
}

// OpError is the error type of this package.
type OpError struct {
	// Op is the operation, such as "start vsftpd".
	Op string

	// Err is the cause.
	Err error
}

// Error describes the failure.
func (e *OpError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
