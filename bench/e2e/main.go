// E2e measures the cost of ftpctd next to the kernel's own helper: in one run it
// sends the same load through a lab (package lab) of each variant in turn.
//
//	go run ./bench/e2e -rounds 3 -loads pasv,noop -conns 1,16
//
// The variants are "none" (no helper and a firewall that accepts everything),
// "kernel" (nf_conntrack_ftp), "expect" and "entry" (ftpctd in these admission
// modes), and "conntrackd" with its user-space helper. The last needs a kernel with
// support for such helpers and without nf_conntrack_ftp loaded. To compare two
// programs or two configurations:
//
//	go run ./bench/e2e -variants kernel,old,new -program old=/tmp/ftpctd -config new=new.toml -against kernel,old
//
// Ratios are formed round by round between measurements made within seconds of each
// other, so that they hold on a machine with other work to do. The report goes to
// standard output, in Markdown, and the progress to standard error. It needs root.
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
