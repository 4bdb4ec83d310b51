package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usage is a reading of CPU times.
type usage struct {
	at time.Time
	// machine is the time that all CPUs spent on anything but idling: on all
	// processes, the kernel and interrupts. Its resolution is 1/100 s.
	machine time.Duration
	// lab is the time of this process (the client and the server of all labs) and
	// of the daemon. The kernel forwards a packet on the time of its sender, so
	// this is the whole CPU cost of the cycles, except for kernel threads.
	lab time.Duration
	// daemon is the time of the daemon in user space and in the kernel. On a
	// verdict the daemon's thread carries the packet on, up to the receiver's
	// socket, which is included.
	daemon time.Duration
}

// userHZ is the kernel's USER_HZ: ticks per second in /proc/stat. It is 100 on every
// architecture that Go supports.
const userHZ = 100

// readUsage reads the CPU times; pid is the daemon's, or 0 without one.
func readUsage(pid int) (u usage, err error) {
	u.at = time.Now()
	if u.machine, err = machineTime(); err != nil {
		return u, err
	}
	if u.lab, err = processTime(os.Getpid()); err != nil {
		return u, err
	}
	if pid != 0 {
		u.daemon, err = processTime(pid)
		u.lab += u.daemon
	}
	return u, err
}

var errProcStat = errors.New("/proc/stat does not begin with the times of the CPUs")

// machineTime returns the sum of the first line of /proc/stat, proc_stat(5), without
// the idle times: user, nice, system, idle, iowait, irq, softirq and steal.
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 8 || string(fields[0]) != "cpu" {
		return 0, errProcStat
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errProcStat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// processTime returns the CPU time of a process from its CPU-time clock,
// clock_getcpuclockid(3), in nanoseconds instead of ticks.
func processTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of include/linux/posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
