// Package confine gives up what the daemon does not need: capabilities, the way
// to get new ones, and most of the file system. What is given up holds for every
// thread, those of the path among them, and cannot be taken back.
package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Kept are the capabilities that the daemon keeps, each with what it is for.
var Kept = []struct {
	Value cap.Value
	For   string
}{
	{cap.NET_ADMIN, "TAPs, bridges, addresses, routes, neighbours; large socket buffers; the uplink"},
	{cap.NET_RAW, "sockets of IP-in-IP, bound to a device, or that look whether an address is free"},
	{cap.NET_BIND_SERVICE, "a port below 1024"},
	{cap.BPF, "the programs of the uplink and of the TAPs' queues"},
	{cap.PERFMON, "the same: they compute with pointers"},
	{cap.SYS_ADMIN, "entering containers' network namespaces, for attach and detach"},
}

// Paths are the files that the daemon needs beside those of the system.
type Paths struct {
	Config string   // read again by a reload
	Read   []string // other files that the daemon reads, also again
	Socket string   // of control: made, and removed at the end, in its directory
	Made   []string // directories that were made for the socket, and are removed at the end
}

// Privileges leaves the process those capabilities of Kept that it has, and no way
// to others: neither by executing a file nor by becoming another user. A process
// that lacks CAP_SETPCAP keeps its bounding set, which gives nothing without that.
func Privileges() error {
	has := cap.GetProc()
	keep := cap.NewSet()
	var drop []cap.Value
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if !slices.ContainsFunc(Kept, func(k struct {
			Value cap.Value
			For   string
		}) bool {
			return k.Value == v
		}) {
			drop = append(drop, v)
			continue
		}
		if on, err := has.GetFlag(cap.Permitted, v); err != nil || !on {
			continue
		}
		if err := errors.Join(keep.SetFlag(cap.Permitted, true, v), keep.SetFlag(cap.Effective, true, v)); err != nil {
			return fmt.Errorf("keeping %s: %w", v, err)
		}
	}
	if _, _, e := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("giving up new privileges: %w", e)
	}
	if on, _ := has.GetFlag(cap.Effective, cap.SETPCAP); on {
		if err := cap.DropBound(drop...); err != nil {
			return fmt.Errorf("dropping capabilities from the bounding set: %w", err)
		}
	}
	if err := cap.ResetAmbient(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("dropping ambient capabilities: %w", err)
	}
	if err := keep.SetProc(); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}

// Files leaves the process the files it needs (Landlock). It may write below
// /proc/sys/net and in the directory of the socket, which must be there, and to the TUN
// device. It may read /proc, /sys, programs and libraries, what name resolution and
// times need of /etc, and the directory of the configuration; of a configuration that
// lies in / or /etc itself, the file alone. A kernel without Landlock, or with an older
// one, restricts less or nothing; Landlock says how much. None before Linux 7.1 keeps a
// process from connecting to a socket that it may not open.
func Files(p Paths) error {
	var rules []landlock.Rule
	add := func(rule func(...string) landlock.FSRule, paths ...string) {
		for _, path := range paths {
			// What is not there needs no rule, and must not be named in one.
			if _, err := os.Stat(path); err == nil {
				rules = append(rules, rule(path))
			} else if !errors.Is(err, fs.ErrNotExist) {
				rules = append(rules, rule(path).IgnoreIfMissing())
			}
		}
	}
	add(landlock.RODirs, "/proc", "/sys", "/usr", "/lib")
	add(landlock.ROFiles, "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/localtime")
	if dir := absoluteDir(p.Config); dir == "/" || dir == "/etc" {
		add(landlock.ROFiles, p.Config)
	} else {
		add(landlock.RODirs, dir)
	}
	add(landlock.ROFiles, p.Read...)
	dir := absoluteDir(p.Socket)
	add(landlock.RWDirs, "/proc/sys/net", dir)
	// The daemon removes directories that were made for the socket.
	add(func(paths ...string) landlock.FSRule {
		return landlock.PathAccess(landlock.AccessFSSet(ll.AccessFSRemoveDir), paths...)
	}, append([]string{filepath.Dir(dir)}, parents(p.Made)...)...)
	rules = append(rules, landlock.RWFiles("/dev/net/tun").WithIoctlDev().IgnoreIfMissing(),
		landlock.RWFiles("/dev/null", "/dev/urandom").IgnoreIfMissing())
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("restricting file access (Landlock): %w", err)
	}
	return nil
}

// absoluteDir is the directory of a file.
func absoluteDir(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return filepath.Dir(path)
}

func parents(dirs []string) []string {
	out := make([]string, len(dirs))
	for i, dir := range dirs {
		out[i] = filepath.Dir(dir)
	}
	return out
}

// Landlock is the version of the kernel's Landlock, 0 without it.
func Landlock() int {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if e != 0 {
		return 0
	}
	return int(v)
}
