// Command packaging builds overtap's Debian packages:
//
//	go run ./cmd/overtap/packaging -version v1.2.3
//
// Each is made of the binary, its manual pages, completion and unit, and of the
// files beside this one; nfpm.yaml lists them. nfpm has some sixty dependencies that
// overtap does not use, so it is the tool of a module of its own, in folder nfpm.
//
// It builds for the architecture that it runs on; -arch amd64,arm64 builds both.
// Where -version is missing, git's tags say which it is (see release). The same
// sources, version, Go and SOURCE_DATE_EPOCH make the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run builds the packages that the arguments name, prints the packages' paths, and returns
// the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("packaging", flag.ContinueOnError)
	flags.SetOutput(stderr)
	version := flags.String("version", "", "of the package and the binary, such as `v1.2.3`; default: what git describes")
	archs := flags.String("arch", runtime.GOARCH, "`architectures`, in Debian's and Go's common words: some of "+strings.Join(architectures, ","))
	out := flags.String("out", "dist", "`directory` for the packages")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "packaging: %q: there are no arguments but flags\n", flags.Args())
		return 2
	}
	made, err := build(ctx, *version, strings.Split(*archs, ","), *out)
	if err != nil {
		fmt.Fprintf(stderr, "packaging: %v\n", err)
		return 1
	}
	for _, path := range made {
		fmt.Fprintln(stdout, path)
	}
	return 0
}
