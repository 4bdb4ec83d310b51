package vm

import (
	"io"
	"strings"
)

// consoleTail is the number of bytes of the console that an error shows.
const consoleTail = 2 << 10

// console forwards its input and keeps the end of it.
type console struct {
	w    io.Writer
	tail []byte
}

// Write implements io.Writer. It never fails: the machine runs on when the
// console's reader is gone.
func (c *console) Write(p []byte) (int, error) {
	_, _ = c.w.Write(p)
	c.tail = append(c.tail, p...)
	if cut := len(c.tail) - consoleTail; cut > 0 {
		c.tail = append(c.tail[:0], c.tail[cut:]...)
	}
	return len(p), nil
}

// panicked returns the kernel's panic message (panic() of kernel/panic.c), or
// an empty string.
func (c *console) panicked() string {
	_, said, _ := strings.Cut(c.String(), "Kernel panic - not syncing: ")
	said, _, _ = strings.Cut(said, "\n")
	return strings.TrimSuffix(said, " ]---") // as the last line has it
}

// String returns the end of the output, from the start of a line if it was cut,
// with LF line ends.
func (c *console) String() string {
	s := string(c.tail)
	if len(c.tail) == consoleTail {
		_, s, _ = strings.Cut(s, "\n")
	}
	return strings.ReplaceAll(s, "\r", "")
}
