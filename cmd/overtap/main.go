// Command overtap joins containers on different hosts into one network, in user
// space: a TAP device per network, VXLAN over UDP to the other hosts.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
