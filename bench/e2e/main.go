// E2e measures what ftpctd costs, side by side with the kernel's own helper: it
// puts each variant on the router of a lab in turn, in one run, and sends the same
// load through it.
//
//	go run ./bench/e2e -rounds 3 -loads pasv,noop -conns 1,16
//
// The variants are "none" (no helper and a firewall that accepts everything),
// "kernel" (nf_conntrack_ftp), "expect" and "entry" (ftpctd in its two modes of
// admission), and "conntrackd" with its helper in user space, where the kernel takes
// such helpers and has no nf_conntrack_ftp loaded. Two programs or two configurations are compared like this:
//
//	go run ./bench/e2e -variants kernel,old,new -program old=/tmp/ftpctd -config new=new.toml -against kernel,old
//
// Ratios are formed round by round between measurements that were made within
// seconds of each other, which is why they can be told on a machine that has other
// things to do. The report goes to standard output, in Markdown, and the progress
// to standard error. It needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// The exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p, err := parsePlan(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "e2e:", err)
		return exitUsage
	}
	r, err := p.run(ctx, stderr)
	if err == nil {
		err = r.write(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "e2e:", err)
		return exitFailure
	}
	return 0
}
