package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaceDir is where iproute2 keeps the namespaces that have names.
const namespaceDir = "/run/netns"

// maxTarget bounds a target's text in bytes: with the longest network's name
// before it, it must fit a link alias (Linux IFALIASZ, 256 with the closing
// zero).
const maxTarget = 170

// CheckTarget refuses a text that cannot name a target, or that the mark on a
// link could not hold.
func CheckTarget(target string) error {
	switch {
	case target == "":
		return errors.New("the target is empty: want a namespace's name or path, a PID, or a container's name")
	case len(target) > maxTarget:
		return fmt.Errorf("the target %.20s… is longer than %d bytes: name it by a PID of its", target, maxTarget)
	case strings.ContainsFunc(target, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }):
		return fmt.Errorf("the target %q holds control characters: name it by a PID of its", target)
	}
	return nil
}

// Resolve opens the network namespace of a target, as the calling process sees
// it: with a slash it is a path, all digits are a PID; else it is a name in
// /run/netns, or else a container of Docker or Podman, which is asked at its
// socket. The caller closes it.
func Resolve(ctx context.Context, target string) (*os.File, error) {
	if err := CheckTarget(target); err != nil {
		return nil, err
	}
	if strings.Contains(target, "/") {
		return openNamespace(target, target)
	}
	if strings.Trim(target, "0123456789") == "" {
		f, err := openNamespace(target, filepath.Join("/proc", target, "ns/net"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("target %s: no process has this PID", target)
		}
		return f, err
	}
	f, err := openNamespace(target, filepath.Join(namespaceDir, target))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	return ofContainer(target, func() (int, error) { return containerPID(ctx, engineSockets(), target) })
}

// ofContainer opens the namespace of the process that find names. The process may end
// before it is opened, and another get its PID; so find must name it once more after
// that, and is tried a few times.
func ofContainer(target string, find func() (pid int, err error)) (*os.File, error) {
	pid, err := find()
	for range 3 {
		if err != nil {
			break
		}
		var f *os.File
		f, err = openNamespace(target, filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		again, ferr := find()
		switch {
		case ferr == nil && err == nil && again == pid:
			return f, nil
		case ferr == nil && err != nil && again == pid:
			return nil, fmt.Errorf("target %s: its engine says that it runs as PID %d, which is no process here: "+
				"run the command where the engine's processes are seen", target, pid)
		}
		if f != nil {
			f.Close()
		}
		pid, err = again, ferr
	}
	if err == nil {
		err = errors.New("it is being restarted again and again: try when it runs")
	}
	return nil, fmt.Errorf("target %s: %w", target, err)
}

// openNamespace opens what must be a network namespace.
func openNamespace(target, path string) (*os.File, error) {
	// Without O_NONBLOCK the open of a FIFO would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("target %s: may not open %s: run the command as root", target, path)
	case err != nil:
		return nil, fmt.Errorf("target %s: opening its network namespace: %w", target, err)
	}
	if err := checkNamespace(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("target %s: %s: %w", target, path, err)
	}
	return f, nil
}
