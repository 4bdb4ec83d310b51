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

// usage is how much CPU time was used up to a moment.
type usage struct {
	at time.Time
	// machine is what all CPUs of the machine have spent on anything but idling:
	// the client, the server and all other processes, the kernel and interrupts.
	// The kernel counts it in ticks of 1/100 s.
	machine time.Duration
	// lab is what this process has spent, which is the client and the server of all
	// labs, and the daemon: the kernel carries a packet from one end to the other
	// on the time of whoever has sent it. That is all there is to the CPU cost of
	// a cycle, but for what the kernel's own threads do, and nothing else is in it.
	lab time.Duration
	// daemon is what the daemon has spent, in user space and in the kernel. With
	// the verdict on a packet the daemon's thread carries the packet further on
	// its way, in the worst case up to the socket that it is for, which is part of
	// this too.
	daemon time.Duration
}

// userHZ is in which parts of a second the kernel tells times (USER_HZ); it is
// the same on all architectures that Go runs on.
const userHZ = 100

// readUsage reads it; without a daemon, pid is 0.
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

// machineTime adds up the first line of /proc/stat, proc(5): user, nice, system,
// idle, iowait, irq, softirq and steal time.
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

// processTime is the CPU time of a process from the clock of its CPU time,
// clock_getcpuclockid(3), which counts nanoseconds and not ticks.
func processTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of include/linux/posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
