// Vmrun runs a command on other kernels: it boots each under QEMU, over this
// machine's files, and runs the command line in it as root.
//
//	vmrun -kernel 6.1 -- uname -r
//
// It exits with the code of the command, the first that is not 0 if there are
// several kernels. It exits with 2 if its own arguments are wrong, and with 125
// if a machine did not run the command to its end. If its kernel panicked, which
// may be the emulator's fault, vmrun says so and starts it once more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"ftpctd/bench/vm"
)

// The exit codes of vmrun's own. That for a failed machine is the one of other
// programs that run a program, such as env and timeout.
const (
	exitUsage  = 2
	exitFailed = 125
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("vmrun", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: vmrun [flags] [--] COMMAND [ARGUMENT...]")
		flags.PrintDefaults()
	}
	var (
		name    = flags.String("kernel", "all", "the `version` to boot, such as 6.1, or all of them one after the other")
		modules = flags.String("modules", "", "kernel modules to load first, separated by commas; others load when they are needed")
		systemd = flags.Bool("systemd", false, "make systemd PID 1; the command is a service then")
		timeout = flags.Duration("timeout", 30*time.Minute, "how long one kernel may take, its boot included")
		verbose = flags.Bool("v", false, "print the machine's console and how long things took")
	)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case flags.NArg() == 0:
		fmt.Fprintln(stderr, "vmrun: no command")
		flags.Usage()
		return exitUsage
	}

	kernels, err := vm.Kernels()
	if err != nil {
		fmt.Fprintln(stderr, "vmrun:", err)
		return exitFailed
	}
	if *name != "all" {
		i := slices.IndexFunc(kernels, func(k vm.Kernel) bool { return k.Name == *name })
		if i < 0 {
			fmt.Fprintf(stderr, "vmrun: there is no kernel %s, but: %s\n", *name, names(kernels))
			return exitUsage
		}
		kernels = kernels[i : i+1]
	}

	o := vm.Options{Command: flags.Args(), Systemd: *systemd, Stdout: stdout, Stderr: stderr}
	if *modules != "" {
		o.Modules = strings.Split(*modules, ",")
	}
	if *verbose {
		o.Console = stderr
	}
	code := 0
	for _, k := range kernels {
		fmt.Fprintf(stderr, "vmrun: Linux %s\n", k.Release())
		result, err := boot(ctx, k, o, *timeout)
		if errors.Is(err, vm.ErrPanic) {
			fmt.Fprintf(stderr, "vmrun: %v\nvmrun: this may be the emulator's fault, and is none of the command's result: once more\n", err)
			result, err = boot(ctx, k, o, *timeout)
		}
		if err != nil {
			fmt.Fprintln(stderr, "vmrun:", err)
			return exitFailed
		}
		if *verbose {
			fmt.Fprintf(stderr, "vmrun: booted in %s, ran %s, exit code %d\n",
				result.Boot.Round(time.Millisecond), result.Elapsed.Round(time.Millisecond), result.ExitCode)
		}
		if code == 0 {
			code = result.ExitCode
		}
	}
	return code
}

func boot(ctx context.Context, k vm.Kernel, o vm.Options, timeout time.Duration) (vm.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return vm.Run(ctx, k, o)
}

func names(kernels []vm.Kernel) string {
	var names []string
	for _, k := range kernels {
		names = append(names, k.Name)
	}
	return strings.Join(names, ", ")
}
