package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

// build describes this binary.
type build struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func thisBuild() build {
	return build{Version: buildVersion(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
}

// String is the line that `overtap version` and `overtap --version` print.
func (b build) String() string {
	return fmt.Sprintf("overtap %s %s %s/%s", b.Version, b.Go, b.OS, b.Arch)
}

func newVersionCommand() *cobra.Command {
	var json jsonFlag
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this binary",
		Example: `  overtap version
  overtap version --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return json.print(c, thisBuild(), func(w io.Writer) error {
				_, err := fmt.Fprintln(w, thisBuild())
				return err
			})
		},
	}
	json.add(c)
	return c
}

// buildVersion returns the version that the linker or the Go command stamped.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
