package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/netnstest"
)

// serveEngine runs a stand-in for a container engine and returns its socket.
func serveEngine(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "e.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: answer}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return socket
}

// docker answers as Docker's API of any version does, for one container that
// runs and one that does not.
func docker(pid int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.Method + " " + r.URL.EscapedPath() {
		case "GET /containers/web/json", "GET /containers/1a2b3c/json":
			fmt.Fprintf(w, `{"Id":"1a2b3c","Name":"/web","State":{"Status":"running","Running":true,"Pid":%d},"Config":{}}`, pid)
		case "GET /containers/old/json":
			fmt.Fprint(w, `{"Id":"4d","State":{"Status":"exited","Running":false,"Pid":0}}`)
		case "GET /containers/broken/json":
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"message":"layer does not exist"}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, `{"message":"No such container: %s"}`, r.URL.Path)
		}
	}
}

// sleeper runs a process in a network namespace of its own.
func sleeper(t *testing.T) (pid int) {
	t.Helper()
	netnstest.Require(t)
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestResolve(t *testing.T) {
	pid := sleeper(t)
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	t.Setenv("DOCKER_HOST", "unix://"+serveEngine(t, docker(pid)))
	lab := newLab(t)
	h, ns := container(t, lab, "c1")
	for target, want := range map[string]string{
		path:              path,
		strconv.Itoa(pid): path,
		"web":             path,
		"1a2b3c":          path,
		h.Namespace():     ns.Name(),
		ns.Name():         ns.Name(),
		"//proc/self/ns/../../" + strconv.Itoa(pid) + "/ns/net": path,
	} {
		f, err := Resolve(t.Context(), target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		got, err := f.Stat()
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if is, err := os.Stat(want); err != nil || !os.SameFile(got, is) {
			t.Errorf("%s: another namespace than %s (%v)", target, want, err)
		}
	}
}

func TestNotResolved(t *testing.T) {
	netnstest.Require(t)
	dir := t.TempDir()
	half := filepath.Join(dir, "half") // as a crash leaves a name in /run/netns
	fifo := filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(half, nil, 0o600), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	engine := "unix://" + serveEngine(t, docker(1<<22+1)) // above any PID (PID_MAX_LIMIT)
	garbage := "unix://" + serveEngine(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	for _, tc := range []struct{ engine, target, want string }{
		{engine, "", "the target is empty"},
		{engine, "a\x00b", "holds control characters"},
		{engine, "/run/netns/no-such", "target /run/netns/no-such: opening its network namespace: open /run/netns/no-such: no such file"},
		{engine, half, half + ": it is no network namespace"},
		{engine, fifo, fifo + ": it is no network namespace"},
		{engine, "/proc/self/ns/mnt", "it is no network namespace"},
		{engine, "4194305", "target 4194305: no process has this PID"},
		{engine, "99999999999999999999", "no process has this PID"},
		{engine, "db", "target db: there is neither a namespace of this name in /run/netns nor a container at " + strings.TrimPrefix(engine, "unix://")},
		{engine, "..", "it is no network namespace"},
		{engine, "old", "target old: the container does not run (exited): start it first"},
		{engine, "broken", "it says 500 Internal Server Error: layer does not exist"},
		{engine, "web", "its engine says that it runs as PID 4194305, which is no process here"},
		{garbage, "web", "reading its answer"},
		{"unix:///no/such.sock", "web", "there is no namespace of this name in /run/netns, and no container engine answers at /no/such.sock"},
	} {
		t.Setenv("DOCKER_HOST", tc.engine)
		f, err := Resolve(t.Context(), tc.target)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.target, err, tc.want)
		}
	}
}

// A process that ended between the engine's answer and the opening of its namespace,
// whose PID another may have by then, is not taken for the container's.
func TestPIDReused(t *testing.T) {
	first, second := sleeper(t), sleeper(t)
	for _, tc := range []struct {
		answers []int // of the engine, the last one again and again; 0 = the container does not run
		want    int   // 0 = an error
	}{
		{[]int{first}, first},
		{[]int{first, second}, second},
		{[]int{1<<22 + 1, second}, second},
		{[]int{first, 0}, 0},
		{[]int{first, second, first, second, first, second}, 0},
	} {
		asked := 0
		t.Setenv("DOCKER_HOST", "unix://"+serveEngine(t, func(w http.ResponseWriter, r *http.Request) {
			pid := tc.answers[min(asked, len(tc.answers)-1)]
			asked++
			docker(pid)(w, r)
		}))
		f, err := Resolve(t.Context(), "web")
		if tc.want == 0 {
			if err == nil {
				f.Close()
				t.Errorf("%v: a namespace was opened", tc.answers)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", tc.answers, err)
			continue
		}
		got, gerr := f.Stat()
		want, werr := os.Stat(fmt.Sprintf("/proc/%d/ns/net", tc.want))
		f.Close()
		if gerr != nil || werr != nil || !os.SameFile(got, want) {
			t.Errorf("%v: not the namespace of %d (%v, %v)", tc.answers, tc.want, gerr, werr)
		}
	}
}

// The socket that the environment names is not asked when another user listens there.
func TestEngineOfAnotherUser(t *testing.T) {
	netnstest.Require(t)                    // root
	dir, err := os.MkdirTemp("", "overtap") // not t.TempDir, which others may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	listening := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is of another user, and ends with the goroutine.
		runtime.LockOSThread()
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
			listening <- e
			return
		}
		l, err := net.Listen("unix", socket) // whose credentials are those of listen(2)
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		listening <- err
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	f, err := Resolve(t.Context(), "web")
	if err == nil {
		f.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "user 65534 listens there, whom this command does not trust") {
		t.Error(err)
	}
}

// An engine that accepts and says nothing does not block the caller for good.
func TestSilentEngine(t *testing.T) {
	socket := serveEngine(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := containerPID(ctx, []string{socket}, "web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// The second engine is asked for what the first does not know.
func TestSeveralEngines(t *testing.T) {
	none := serveEngine(t, http.NotFound)
	some := serveEngine(t, docker(42))
	if pid, err := containerPID(t.Context(), []string{"/no/such.sock", none, some}, "web"); pid != 42 || err != nil {
		t.Errorf("%d, %v", pid, err)
	}
}

func TestEngineSockets(t *testing.T) {
	for _, tc := range []struct{ docker, podman, run, want string }{
		{"", "", "", "/var/run/docker.sock /run/podman/podman.sock"},
		{"", "", "/run/user/7", "/var/run/docker.sock /run/podman/podman.sock /run/user/7/podman/podman.sock"},
		{"unix:///d.sock", "unix:///p.sock", "/run/user/7", "/d.sock"},
		{"tcp://192.0.2.1:2375", "unix:///p.sock", "", "/p.sock"},
	} {
		t.Setenv("DOCKER_HOST", tc.docker)
		t.Setenv("CONTAINER_HOST", tc.podman)
		t.Setenv("XDG_RUNTIME_DIR", tc.run)
		if got := strings.Join(engineSockets(), " "); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}
