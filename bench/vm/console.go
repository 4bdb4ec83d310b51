package vm

import (
	"io"
	"strings"
)

// consoleTail is how much of the console an error shows, in bytes.
const consoleTail = 2 << 10

// console passes on what it is written, and remembers the end of it.
type console struct {
	w    io.Writer
	tail []byte
}

// Write implements io.Writer. It never fails: a reader of the console that is
// gone is no reason to stop the machine.
func (c *console) Write(p []byte) (int, error) {
	_, _ = c.w.Write(p)
	c.tail = append(c.tail, p...)
	if cut := len(c.tail) - consoleTail; cut > 0 {
		c.tail = append(c.tail[:0], c.tail[cut:]...)
	}
	return len(p), nil
}

// panicked returns what the kernel said when it panicked (panic() of
// kernel/panic.c), or nothing.
func (c *console) panicked() string {
	_, said, _ := strings.Cut(c.String(), "Kernel panic - not syncing: ")
	said, _, _ = strings.Cut(said, "\n")
	return strings.TrimSuffix(said, " ]---") // as the last line has it
}

// String returns the end of the output, from the start of a line if it was
// cut, with the line ends of a terminal made those of a file.
func (c *console) String() string {
	s := string(c.tail)
	if len(c.tail) == consoleTail {
		_, s, _ = strings.Cut(s, "\n")
	}
	return strings.ReplaceAll(s, "\r", "")
}
