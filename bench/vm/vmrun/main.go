// Vmrun runs a command on other kernels: it boots each under QEMU, on this machine's
// files, and runs the command line in it as root.
//
//	vmrun -kernel 6.1 -- uname -r
//
// It exits with the exit code of the command, the first that is not 0 if there are
// several kernels, with 2 if its own arguments are wrong, and with 125 if a virtual
// machine did not run the command to its end. If the guest's kernel panicked, which may
// be the emulator's fault, vmrun reports that and retries once.
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

// The exit codes of vmrun itself. Like env and timeout, it uses 125 for its own failure.
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

// options are the arguments of vmrun.
type options struct {
	vm.Options
	kernel  string
	timeout time.Duration
	verbose bool
}

// parse reads the command line. It prints what is wrong with it.
func parse(args []string, stdout, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("vmrun", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: vmrun [flags] [--] COMMAND [ARGUMENT...]")
		flags.PrintDefaults()
	}
	flags.StringVar(&o.kernel, "kernel", "all", "`version` of the kernel to boot, such as 6.1, or all, one after the other")
	modules := flags.String("modules", "", "kernel modules to load first, separated by commas; others load on demand")
	flags.BoolVar(&o.Systemd, "systemd", false, "make systemd PID 1 and the command a service")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Minute, "limit for one kernel, including its boot")
	flags.BoolVar(&o.verbose, "v", false, "print the guest's console and the times")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(stderr, "vmrun: no command")
		flags.Usage()
		return o, errNoCommand
	}
	o.Command, o.Stdout, o.Stderr = flags.Args(), stdout, stderr
	if *modules != "" {
		o.Modules = strings.Split(*modules, ",")
	}
	if o.verbose {
		o.Console = stderr
	}
	return o, nil
}

var errNoCommand = errors.New("no command")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}
	kernels, err := vm.Kernels()
	if err != nil {
		fmt.Fprintln(stderr, "vmrun:", err)
		return exitFailed
	}
	if o.kernel != "all" {
		i := slices.IndexFunc(kernels, func(k vm.Kernel) bool { return k.Name == o.kernel })
		if i < 0 {
			fmt.Fprintf(stderr, "vmrun: unknown kernel %s: want one of %s\n", o.kernel, names(kernels))
			return exitUsage
		}
		kernels = kernels[i : i+1]
	}
	code := 0
	for _, k := range kernels {
		result, err := o.runOn(ctx, k)
		if err != nil {
			fmt.Fprintln(stderr, "vmrun:", err)
			return exitFailed
		}
		if code == 0 {
			code = result.ExitCode
		}
	}
	return code
}

// runOn runs the command on a kernel, and once more if that panics.
func (o options) runOn(ctx context.Context, k vm.Kernel) (vm.Result, error) {
	fmt.Fprintf(o.Stderr, "vmrun: Linux %s\n", k.Release())
	result, err := boot(ctx, k, o.Options, o.timeout)
	if errors.Is(err, vm.ErrPanic) {
		fmt.Fprintf(o.Stderr, "vmrun: %v\nvmrun: this may be the emulator's fault and not the command's: retrying\n", err)
		result, err = boot(ctx, k, o.Options, o.timeout)
	}
	if err == nil && o.verbose {
		fmt.Fprintf(o.Stderr, "vmrun: booted in %s, ran %s, exit code %d\n",
			result.Boot.Round(time.Millisecond), result.Elapsed.Round(time.Millisecond), result.ExitCode)
	}
	return result, err
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
