// Package advice tells an administrator what to do about an error of the kernel:
// which module to load, which limit to raise, which key of the configuration to
// change. The packages that talk to the kernel report an operation and an errno, and
// know nothing of these.
package advice
