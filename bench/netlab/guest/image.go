package guest

import (
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed build.sh
var buildScript []byte

//go:embed init
var initScript []byte

// ErrNotBuilt means that kernel and initramfs are not in the user's cache.
var ErrNotBuilt = errors.New("there is no guest to boot: run bench/netlab/guest/build.sh")

// image is the folder that this version's build.sh made.
func image() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("look for the guest: %w", err)
	}
	sum := sha256.Sum256(buildScript)
	dir := filepath.Join(cache, "overtap", fmt.Sprintf("guest-%x", sum[:6]), "current")
	for _, name := range []string{"vmlinuz", "initrd"} {
		_, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: %w", dir, ErrNotBuilt)
		}
		if err != nil {
			return "", fmt.Errorf("look for the guest: %w", err)
		}
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotBuilt, err)
	}
	return dir, nil
}

// writeInitrd writes the image's initramfs to a file, and behind it an archive
// of what this package puts into the guest: its init, and the program of folder
// end, built for it.
func writeInitrd(image, dir string) (path string, err error) {
	all, err := os.ReadFile(filepath.Join(image, "initrd"))
	if err != nil {
		return "", fmt.Errorf("read the guest's initramfs: %w", err)
	}
	program := filepath.Join(dir, "end")
	cmd := exec.Command("go", "build", "-o", program, "overtap/bench/netlab/guest/end")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program for the guest: %w\n%s", err, out)
	}
	end, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("read the program for the guest: %w", err)
	}
	all = appendFile(all, "init", initScript)
	all = appendFile(all, "bin/end", end)
	all = appendFile(all, trailer, nil)
	path = filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, all, 0o600); err != nil {
		return "", fmt.Errorf("write the guest's initramfs: %w", err)
	}
	return path, nil
}

// trailer is the name that ends an archive.
const trailer = "TRAILER!!!"

// appendFile appends a member to an archive of the form newc, an executable
// file, as Linux Documentation/driver-api/early-userspace/buffer-format.rst has
// it.
func appendFile(b []byte, name string, content []byte) []byte {
	const executable = 0o100755
	b = padded(b)
	b = append(b, "070701"...)
	for _, field := range [13]int{
		1: executable, 4: 1, // links
		6: len(content), 11: len(name) + 1,
	} {
		b = fmt.Appendf(b, "%08X", field)
	}
	b = append(append(b, name...), 0)
	return append(padded(b), content...)
}

// padded fills up to the boundary of four bytes that headers and contents start
// at.
func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
