// Package doctor checks whether ftpctd can run on this host and suggests fixes.
//
// A check that has to create something does so in a private network namespace. The
// namespace of the caller is only read.
package doctor
