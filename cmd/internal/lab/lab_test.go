package lab

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab/netlabtest"
)

// Every topology comes up with every peer, is what it says it is, and goes.
func TestUpExecDown(t *testing.T) {
	root(t)
	for _, topology := range topologies {
		for _, peer := range topology.peers() {
			t.Run(topology.Name+"/"+string(peer), func(t *testing.T) {
				root(t)
				if peer == KernelPeer {
					netlabtest.KernelVXLAN(t)
				}
				testUpExecDown(t, topology, peer)
			})
		}
	}
}

func testUpExecDown(t *testing.T, topology *Topology, peer Peer) {
	name := topology.Name
	out := ok(t, "lab", "up", "--peer", string(peer), name)
	wants(t, out, "It is up.", "┌─ host a ", binary+" lab exec a -- ", binary+" lab down\n")
	ways := 0
	for _, p := range topology.pings {
		ways += len(topology.container(p[1]).addrs())
	}
	for _, proof := range []string{"3 of 3", "1.0 MB whole"} {
		if n := strings.Count(out, proof); n != ways {
			t.Errorf("%d ways gave %q; want %d:\n%s", n, proof, ways, out)
		}
	}
	// On a network with static entries only a host's own multicast goes nowhere.
	if peer == KernelPeer && name != "vxlan-static" {
		wants(t, out, "dropped           nothing")
	}
	for _, c := range topology.containers {
		for _, a := range c.addrs() {
			wants(t, out, a.String())
		}
		switch c.join {
		case plugged:
			wants(t, out, "container "+c.name)
		case onLAN:
			wants(t, out, "machine "+c.name)
		case attached:
			wants(t, out, "container "+c.name, "in host "+c.host+": overtap attach blue ot-"+name+"-"+c.name)
		}
	}
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 && !strings.Contains(line, binary) {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, h := range topology.hosts {
		if !h.overtapIn(peer) {
			refused(t, "no overtap daemon answers at /run/overtap/lab/"+name+"/"+h.name+".sock", "lab", "exec", h.name, "overtap", "stats")
			continue
		}
		wants(t, ok(t, "lab", "exec", h.name, "overtap", "status"), "ready")
		for line := range strings.Lines(topology.configText(h)) {
			wants(t, out, strings.TrimRight("    "+line, " \n")+"\n")
		}
	}

	for _, m := range topology.members() {
		devices := ok(t, "lab", "exec", m, "--", "cat", "/proc/net/dev")
		if own := m == topology.hostOf(m); own != strings.Contains(devices, "br0:") {
			t.Errorf("%s has the devices\n%s", m, devices)
		}
	}
	checkShown(t, topology, peer, out)
	wants(t, ok(t, "lab", "speed", "--time", "100ms"), "Gbit/s")

	again := ok(t, "lab", "up", name)
	wants(t, again, "Lab "+name+" is up already", "3 of 3", "Try next")
	if picture(again) != picture(out) {
		t.Errorf("the picture changed from\n%sto\n%s", picture(out), picture(again))
	}
	var all []Status
	if err := json.Unmarshal([]byte(ok(t, "lab", "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		up := s.Name == name
		if up != (s.Condition == IsUp) || up != (s.Peer == peer) || up != (len(s.Hosts) == len(topology.members())) {
			t.Errorf("list: %+v", s)
		}
	}

	wants(t, ok(t, "lab", "down"), "Lab "+name+" is down: ")
	checkNothingLeft(t)
	if out := ok(t, "lab", "down", name); out != "Lab "+name+" is not up.\n" {
		t.Errorf("down again: %s", out)
	}
	if out := ok(t, "lab", "down"); out != "No lab is up.\n" {
		t.Errorf("down without a name: %s", out)
	}
}

// checkShown looks whether up showed what joins the hosts, and whether the verbs
// know it too.
func checkShown(t *testing.T, topology *Topology, peer Peer, out string) {
	t.Helper()
	switch {
	case len(topology.hosts) == 1:
		wants(t, out, "network blue", "(vxlan_no_remote)")
		return
	case topology.hosts[0].device == "":
		wants(t, out, "Routes that overtap keeps in host a\n  2001:db8:2::/64 via 2001:db8:0:1::2 dev eth0\n  203.0.113.0/24 via 192.0.2.2 dev eth0\n")
		wants(t, out, "Routes that overtap keeps in host b\n  198.51.100.0/24 via 192.0.2.1 dev eth0\n")
		return
	}
	if topology.Name == "ipip" {
		wants(t, out, "network "+ipipDevice, "peer 192.0.2.2",
			"Routes that overtap keeps in host a\n  203.0.113.0/24 dev "+ipipDevice+"\n")
		return
	}
	if topology.Name == "vxlan-static" {
		for _, h := range topology.hosts {
			if h.overtapIn(peer) {
				wants(t, ok(t, "lab", "exec", h.name, "overtap", "fdb", "show"), staticEnds[other(h.name)].mac.String()+"  "+underlay(other(h.name)).String())
				wants(t, ok(t, "lab", "exec", h.name, "overtap", "neigh", "show"), staticEnds[other(h.name)].own6.String())
			}
		}
		wants(t, out, "203.0.113.0/24 via 203.0.113.0 dev "+tapOf(staticName))
		return
	}
	wants(t, out, "network blue")
	learner := map[string]string{"a": "host a, overtap", "b": "host b, " + map[Peer]string{KernelPeer: "the kernel", OvertapPeer: "overtap"}[peer]}
	for _, c := range topology.containers {
		found := false
		for line := range strings.Lines(out) {
			found = found || strings.Contains(line, learner[other(c.host)]) &&
				strings.Contains(line, c.mac().String()+" ("+c.name+") is behind "+underlay(c.host).String())
		}
		if !found {
			t.Errorf("host %s did not learn %s:\n%s", other(c.host), c.name, out)
		}
	}
	b1 := topology.container("b1").mac().String()
	wants(t, ok(t, "lab", "exec", topology.Name, "a", "overtap", "fdb", "show"), b1)
	wants(t, ok(t, "lab", "exec", topology.Name, "a1", "--", "overtap", "fdb", "show", "--json"), b1)
	if peer == OvertapPeer {
		wants(t, ok(t, "lab", "exec", "b", "overtap", "fdb", "show"), topology.container("a1").mac().String())
	}
}

// picture cuts the drawing out of what up prints.
func picture(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if strings.ContainsAny(line, "┌│└") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// A command inside has this process's standard files, and its exit code is
// ours; its flags are not.
func TestExec(t *testing.T) {
	root(t)
	ok(t, "lab", "up")
	defer ok(t, "lab", "down")
	cmd := program("lab", "exec", "a1", "--", "sh", "-c", "cat; echo err >&2; exit 7", "--help")
	cmd.Stdin = strings.NewReader("in")
	if r := runCmd(t, cmd); r != (result{"in", "err\n", 7}) {
		t.Errorf("%+v", r)
	}
	// The command is this process, not a child of it.
	cmd = program("lab", "exec", "a1", "sh", "-c", "kill -TERM $$")
	runCmd(t, cmd)
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGTERM {
		t.Errorf("a command that was killed: %v", cmd.ProcessState)
	}
	cmd = program("lab", "exec", "b")
	cmd.Env = append(cmd.Env, "SHELL=/bin/pwd")
	if r := runCmd(t, cmd); r.code != 0 || !strings.HasSuffix(r.out, "/lab\n") {
		t.Errorf("a shell: %+v", r)
	}
	refused(t, "run no-such-program in a1: ", "lab", "exec", "a1", "--", "no-such-program")
	refused(t, "name one of its hosts and containers: a, a1, b, b1", "lab", "exec", "c1", "--", "true")
	refused(t, "name one of its hosts and containers", "lab", "exec", "vxlan")
	refused(t, "lab vxlan-subnets is not up: start it by `"+binary+" lab up vxlan-subnets`", "lab", "exec", "vxlan-subnets", "a", "true")
}

func TestNothingIsUp(t *testing.T) {
	root(t)
	refused(t, "no lab is up: start one by `"+binary+" lab up`", "lab", "exec", "a", "--", "true")
	refused(t, "no lab is up", "lab", "speed")
}

func TestSeveralLabs(t *testing.T) {
	root(t)
	ok(t, "lab", "up", "vxlan")
	out := ok(t, "lab", "up", "vxlan-subnets")
	defer checkNothingLeft(t)
	wants(t, out, " lab exec vxlan-subnets a1 -- ", " lab down vxlan-subnets\n")
	refused(t, "several labs are up: name one of vxlan, vxlan-subnets", "lab", "exec", "a", "--", "true")
	refused(t, "several labs are up: name one of vxlan, vxlan-subnets, or use --all", "lab", "down")
	ok(t, "lab", "exec", "vxlan-subnets", "b2", "--", "true")
	wants(t, ok(t, "lab", "down", "--all"), "Lab vxlan is down: ", "Lab vxlan-subnets is down: ")
}

func TestOtherPeer(t *testing.T) {
	root(t)
	ok(t, "lab", "up", "--peer", "overtap")
	defer ok(t, "lab", "down")
	refused(t, "lab vxlan is up already, with another overtap in host b: end it first by `"+binary+" lab down vxlan`",
		"lab", "up", "--peer", "kernel")
}

// Of two that come at once one builds and the other waits and finds it up.
func TestUpAtOnce(t *testing.T) {
	root(t)
	first := program("lab", "up")
	var out bytes.Buffer
	first.Stdout = &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	second := ok(t, "lab", "up")
	if err := first.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	both := out.String() + second
	if strings.Count(both, "It is up.") != 1 || strings.Count(both, "is up already") != 1 {
		t.Error(both)
	}
	ok(t, "lab", "down")
}

// Where /run is mounted noexec the program lies elsewhere.
func TestNoexecRun(t *testing.T) {
	root(t)
	remount := func(flags uintptr) {
		if err := unix.Mount("", "/run", "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_NOEXEC)
	defer remount(0)
	ok(t, "lab", "up")
	wants(t, ok(t, "lab", "exec", "a", "overtap", "status"), "ready")
	if path := vxlanTopology().binary(); !strings.HasPrefix(path, "/var/lib/") {
		t.Errorf("the copy of overtap is at %s", path)
	}
	ok(t, "lab", "down")
}

// A host that can not run overtap: up says why, with the daemon's words, and
// leaves nothing.
func TestUpFails(t *testing.T) {
	root(t)
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount("/dev/net", 0)
	r := run(t, "lab", "up")
	if r.code != 1 || !strings.Contains(r.err, "lab vxlan: start overtap in host a: it ended before it was ready") {
		t.Errorf("%+v", r)
	}
	wants(t, r.out, "The end of overtap's log in host a:\n", "there is no /dev/net/tun", "everything was removed again")
}

// In whatever lab a daemon dies while it is built: up fails, and the machine is
// as before.
func TestUpLosesDaemon(t *testing.T) {
	root(t)
	for _, topology := range topologies {
		for i := range topology.hosts {
			t.Run(topology.Name+"/"+topology.hosts[i].name, func(t *testing.T) {
				root(t)
				// It may have come up before the signal did.
				for range 10 {
					if r, killed := upAndKill(t, topology, i); killed && r.code != 0 {
						wants(t, r.out, "The end of overtap's log in host a:\n", "everything was removed again")
						wants(t, r.err, "lab "+topology.Name+": ")
						checkNothingLeft(t)
						return
					}
					ok(t, "lab", "down", topology.Name)
				}
				t.Error("the daemon was never killed while the lab was built")
			})
		}
	}
}

// upAndKill builds the lab and kills its ith daemon as soon as that is there.
func upAndKill(t *testing.T, topology *Topology, i int) (r result, killed bool) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for !killed {
			if s, err := topology.readState(); err == nil && len(s.Daemons) > i {
				killed = s.Daemons[i].signal(syscall.SIGKILL) == nil
			}
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	r = run(t, "lab", "up", "--peer", "overtap", topology.Name)
	close(end)
	<-ended
	return r, killed
}

// A machine that is full.
func TestUpWithoutRoom(t *testing.T) {
	root(t)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755,size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount("/run", 0); err != nil {
			t.Error(err)
		}
	}()
	r := run(t, "lab", "up")
	if r.code != 1 || !strings.Contains(r.err, "copy overtap to /run/overtap/lab/vxlan/overtap: ") || !strings.Contains(r.err, "no space left on device") {
		t.Errorf("%+v", r)
	}
	wants(t, r.out, "everything was removed again")
	checkNothingLeft(t)
}

func TestNoRoot(t *testing.T) {
	root(t)
	for _, args := range [][]string{{"lab", "up", "vxlan"}, {"lab", "down"}, {"lab", "exec", "a", "--", "ls", "-l"}} {
		cmd := program(args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		want := "lab " + args[1] + " needs root, for it makes hosts out of network namespaces: run `sudo " +
			binary + " " + strings.Join(args, " ") + "`\n"
		if r := runCmd(t, cmd); r.code != 1 || !strings.HasSuffix(r.err, want) || r.out != "" {
			t.Errorf("%v: %+v; want %q", args, r, want)
		}
	}
	ok(t, "lab", "up")
	defer ok(t, "lab", "down")
	cmd := program("lab", "list")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if r := runCmd(t, cmd); r.code != 0 || !strings.Contains(r.out, "vxlan          up ") {
		t.Errorf("list without root: %+v", r)
	}
}

// What is called by `go run` can be called again as it is printed, and the lab
// outlives the program that `go run` deletes.
func TestGoRun(t *testing.T) {
	root(t)
	cmd := program()
	cmd.Path, cmd.Args = lookGo(t), []string{"go", "run", "overtap/cmd/overtap", "lab", "up"}
	r := runCmd(t, cmd)
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	defer ok(t, "lab", "down")
	wants(t, r.out, "    go run overtap/cmd/overtap lab exec a -- overtap fdb show\n")
	wants(t, ok(t, "lab", "exec", "a", "overtap", "version"), "overtap ")
}

func lookGo(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if path := filepath.Join(dir, "go"); unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	t.Fatal("the Go command is not in PATH")
	return ""
}
