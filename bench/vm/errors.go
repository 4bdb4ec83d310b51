package vm

import (
	"errors"
	"strings"
)

// ErrPanic is wrapped by the error of [Run] if the guest's kernel panicked. Under
// emulation that may be the emulator's fault.
var ErrPanic = errors.New("the guest's kernel panicked")

// OpError is the error type of this package: the operation that failed, the
// kernel and the cause.
type OpError struct {
	// Op is the operation, such as "boot".
	Op string

	// Kernel is the Name of the kernel, or empty before one was chosen.
	Kernel string

	// Err is the cause. If the context of Run ended, it is the context's cause.
	Err error

	// Console is the end of the output of the guest's console and of QEMU, in
	// lines. It is empty if the operation failed before QEMU ran.
	Console string
}

// Error describes the failure, followed by the lines of the console.
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString("vm: ")
	if e.Kernel != "" {
		b.WriteString("kernel " + e.Kernel + ": ")
	}
	b.WriteString(e.Op + ": ")
	b.WriteString(e.Err.Error())
	if console := strings.TrimSpace(e.Console); console != "" {
		b.WriteString("; the console's last lines:\n\t")
		b.WriteString(strings.ReplaceAll(console, "\n", "\n\t"))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
