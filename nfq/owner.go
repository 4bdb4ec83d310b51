package nfq

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Owner is the socket that a queue is bound to, and its process.
type Owner struct {
	PortID  string // the socket's netlink address
	PID     string // the process that has it open, or empty if it is not visible
	Command string // of the process
}

// String implements fmt.Stringer.
func (o Owner) String() string {
	if o.PID == "" {
		return fmt.Sprintf("the netlink socket with port ID %s, of a process that is not visible from here", o.PortID)
	}
	return fmt.Sprintf("process %s (%s), port ID %s", o.PID, o.Command, o.PortID)
}

// FindOwner returns the owner of queue num in the network namespace of the calling
// thread: the queue's port ID leads to the socket's inode, and that to the process that
// has it open. ok is false if the queue is not bound.
func FindOwner(num uint16) (o Owner, ok bool) {
	// Columns: queue number, port ID, and others (nfnetlink_queue.c, seq_show).
	queue := findLine("/proc/thread-self/net/netfilter/nfnetlink_queue", func(f []string) bool {
		return len(f) > 1 && f[0] == strconv.Itoa(int(num))
	})
	if queue == nil {
		return Owner{}, false
	}
	o.PortID = queue[1]
	// Columns: address, protocol (12 is NETLINK_NETFILTER), port ID, …, inode
	// (net/netlink/af_netlink.c, netlink_native_seq_show).
	socket := findLine("/proc/thread-self/net/netlink", func(f []string) bool {
		return len(f) > 2 && f[1] == "12" && f[2] == o.PortID
	})
	if socket == nil {
		return o, true
	}
	link := "socket:[" + socket[len(socket)-1] + "]"
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != link {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		o.PID = filepath.Base(process)
		command, _ := os.ReadFile(filepath.Join(process, "comm"))
		o.Command = strings.TrimSpace(string(command))
		break
	}
	return o, true
}

// findLine returns the fields of the first line of the file that match accepts,
// or nil.
func findLine(path string, match func(fields []string) bool) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); match(fields) {
			return fields
		}
	}
	return nil
}
