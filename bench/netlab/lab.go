package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// prefix stands before every namespace's name; the name of the lab and that of
// the host follow, joined by dashes.
const prefix = "ot-"

// The last dash parts lab from host, so only a lab's name may have dashes. The
// lengths leave room in a file name; a host's name is a device's too (15 bytes).
var (
	labName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	hostName = regexp.MustCompile(`^[a-z0-9]{1,15}$`)
)

// Errors that callers tell apart.
var (
	ErrExists   = errors.New("already there")
	ErrNotFound = errors.New("not there")
)

// Lab is a named set of hosts. Its methods may be called from any goroutine.
type Lab struct {
	name string

	mu    sync.Mutex
	hosts map[string]*Host
}

// New starts an empty lab. The error is ErrExists when the machine has a
// namespace of a lab of that name, whole or left by a crash: Open it, or Open
// and Destroy it.
func New(name string) (*Lab, error) {
	if err := checkLabName(name); err != nil {
		return nil, err
	}
	there, err := hostsOf(name)
	if err != nil {
		return nil, err
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("lab %s: %w", name, ErrExists)
	}
	return &Lab{name: name, hosts: map[string]*Host{}}, nil
}

// Open attaches to the lab that an earlier call, perhaps of another process,
// made. The error is ErrNotFound when there is none. Half-built hosts can not
// be used but are removed by Destroy.
func Open(name string) (*Lab, error) {
	if err := checkLabName(name); err != nil {
		return nil, err
	}
	there, err := hostsOf(name)
	if err != nil {
		return nil, err
	}
	if len(there) == 0 {
		return nil, fmt.Errorf("lab %s: %w", name, ErrNotFound)
	}
	return &Lab{name: name, hosts: map[string]*Host{}}, nil
}

// List returns the names of all labs on this machine, sorted.
func List() ([]string, error) {
	all, err := namespaces()
	if err != nil {
		return nil, err
	}
	var labs []string
	for _, ns := range all {
		labs = append(labs, ns.lab)
	}
	slices.Sort(labs)
	return slices.Compact(labs), nil
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.name }

// Hosts returns the names of the lab's hosts and containers, sorted.
func (l *Lab) Hosts() ([]string, error) { return hostsOf(l.name) }

// AddHost makes a host: an empty namespace with its loopback up. IPv6 addresses
// are usable at once (no duplicate address detection) and no router is
// solicited. The error is ErrExists when the lab has one of that name.
func (l *Lab) AddHost(name string) (*Host, error) {
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("host name %q: want 1 to 15 of a-z and 0-9", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := createNamespace(l.namespace(name)); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = ErrExists
		}
		return nil, fmt.Errorf("lab %s: add host %s: %w", l.name, name, err)
	}
	h, err := openHost(l, name)
	if err == nil {
		if err = h.prepare(); err == nil {
			l.hosts[name] = h
			return h, nil
		}
		h.close()
	}
	return nil, errors.Join(
		fmt.Errorf("lab %s: add host %s: %w", l.name, name, err),
		deleteNamespace(l.namespace(name)))
}

// Host returns the lab's host or container of that name, or ErrNotFound.
func (l *Lab) Host(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.hosts[name]; h != nil {
		return h, nil
	}
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("lab %s: host %q: %w", l.name, name, ErrNotFound)
	}
	h, err := openHost(l, name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNotFound
		}
		return nil, fmt.Errorf("lab %s: host %s: %w", l.name, name, err)
	}
	l.hosts[name] = h
	return h, nil
}

// Destroy ends every process that lives in the lab's namespaces and removes
// them all, with the links inside, also half-built ones and those of an earlier
// process. Sockets that this process still holds in one keep its links alive
// until they are closed. Doing it twice is no error.
func (l *Lab) Destroy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	names, err := hostsOf(l.name)
	if err != nil {
		return err
	}
	errs := []error{l.endProcesses(names)}
	for name, h := range l.hosts {
		h.close()
		delete(l.hosts, name)
	}
	for _, name := range names {
		errs = append(errs, deleteNamespace(l.namespace(name)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy lab %s: %w", l.name, err)
	}
	return nil
}

func (l *Lab) namespace(host string) string { return prefix + l.name + "-" + host }

func checkLabName(name string) error {
	if !labName.MatchString(name) {
		return fmt.Errorf("lab name %q: want 1 to 40 of a-z, 0-9 and inner dashes", name)
	}
	return nil
}

type namespaceName struct{ lab, host string }

// namespaces lists those of all labs, in the order of their names.
func namespaces() ([]namespaceName, error) {
	files, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []namespaceName
	for _, f := range files {
		rest, ok := strings.CutPrefix(f.Name(), prefix)
		if !ok {
			continue
		}
		dash := strings.LastIndexByte(rest, '-')
		if dash < 0 {
			continue
		}
		n := namespaceName{rest[:dash], rest[dash+1:]}
		if labName.MatchString(n.lab) && hostName.MatchString(n.host) {
			all = append(all, n)
		}
	}
	return all, nil
}

func hostsOf(lab string) ([]string, error) {
	all, err := namespaces()
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, ns := range all {
		if ns.lab == lab {
			hosts = append(hosts, ns.host)
		}
	}
	return hosts, nil
}
