package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// engineTimeout bounds what a container engine may take to answer.
	engineTimeout = 5 * time.Second
	// maxEngineAnswer bounds a container's description in bytes; real ones are
	// some tens of KiB.
	maxEngineAnswer = 4 << 20
)

var errNoContainer = errors.New("no such container")

// engineSockets returns where container engines of this machine may listen:
// what the environment names, as their own commands read it, else the usual
// places. An engine at another machine's address has no containers here.
func engineSockets() []string {
	for _, name := range []string{"DOCKER_HOST", "CONTAINER_HOST"} {
		if path, ok := strings.CutPrefix(os.Getenv(name), "unix://"); ok {
			return []string{path}
		}
	}
	sockets := []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "podman/podman.sock"))
	}
	return sockets
}

// containerPID asks the engines for a container's first process. Podman answers
// as Docker does.
func containerPID(ctx context.Context, sockets []string, name string) (int, error) {
	var asked []string
	for _, socket := range sockets {
		state, err := inspect(ctx, socket, name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
			continue // no engine there
		case errors.Is(err, errNoContainer):
			asked = append(asked, socket)
			continue
		case errors.Is(err, fs.ErrPermission):
			return 0, fmt.Errorf("may not ask the container engine at %s: run the command as root", socket)
		case err != nil:
			return 0, fmt.Errorf("asking the container engine at %s: %w", socket, err)
		case state.PID <= 0:
			return 0, fmt.Errorf("the container does not run (%s): start it first", state.Status)
		}
		return state.PID, nil
	}
	if len(asked) == 0 {
		return 0, fmt.Errorf("there is no namespace of this name in %s, and no container engine answers at %s: "+
			"name a namespace of `ip netns list`, a namespace's path or a PID", namespaceDir, strings.Join(sockets, " or "))
	}
	return 0, fmt.Errorf("there is neither a namespace of this name in %s nor a container at %s: see `ip netns list` and `docker ps`",
		namespaceDir, strings.Join(asked, " or "))
}

// containerState is what an engine says of a container.
type containerState struct {
	Status string // running, exited, …
	PID    int    `json:"Pid"` // of its first process; 0 = it does not run
}

// trusted is an error unless root or the user of this program listens at the other
// end of c. The environment may name the socket of another user, as it does after
// `sudo -E`; what that user answers would choose the namespace that is entered.
func trusted(c net.Conn, euid int) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("a %T has no peer's user", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("looking who listens: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != euid {
		return fmt.Errorf("user %d listens there, whom this command does not trust: unset DOCKER_HOST, CONTAINER_HOST and XDG_RUNTIME_DIR, or name the container by a PID of its", cred.Uid)
	}
	return nil
}

// inspect asks one engine. The error is errNoContainer when it has none of that
// name.
func inspect(ctx context.Context, socket, name string) (containerState, error) {
	var d net.Dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := d.DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			if err := trusted(c, os.Geteuid()); err != nil {
				c.Close()
				return nil, err
			}
			return c, nil
		},
		DisableKeepAlives: true,
	}
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/containers/"+url.PathEscape(name)+"/json", nil)
	if err != nil {
		return containerState{}, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return containerState{}, err
	}
	defer resp.Body.Close()
	body := json.NewDecoder(io.LimitReader(resp.Body, maxEngineAnswer))
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return containerState{}, errNoContainer
	default:
		var refusal struct{ Message string }
		if body.Decode(&refusal) != nil || refusal.Message == "" {
			return containerState{}, fmt.Errorf("it says %s", resp.Status)
		}
		return containerState{}, fmt.Errorf("it says %s: %s", resp.Status, refusal.Message)
	}
	var container struct{ State containerState }
	if err := body.Decode(&container); err != nil {
		return containerState{}, fmt.Errorf("reading its answer: %w", err)
	}
	return container.State, nil
}
