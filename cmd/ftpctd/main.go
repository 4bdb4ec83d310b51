// Command ftpctd is a user-space FTP connection-tracking helper for Linux: it
// inspects the control connections that a netfilter queue passes to it and adds
// conntrack expectations for the data connections that they announce, so that a
// default-drop firewall accepts them as RELATED.
package main

import (
	"context"
	"os"

	"ftpctd/cmd/ftpctd/internal/cli"
)

func main() { os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
