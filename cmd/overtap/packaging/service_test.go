//go:build !race

// The race detector would see nothing of it: the program runs in another machine, and
// takes its time.

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serviceTime is how long the guest may take. On an idle machine it takes a minute.
const serviceTime = 15 * time.Minute

// proof is the unit that the guest boots into.
const proof = `[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/sh /service.sh
`

// The package's service does under a real systemd what testdata/service.sh says: in a
// Debian that is booted in QEMU, out of memory.
func TestService(t *testing.T) {
	from := debian(t)
	requireTools(t, "qemu-system-x86_64:qemu-system-x86", "cpio:cpio")
	built(t)
	root := unpackDebian(t)
	copyFile(t, packages.old, filepath.Join(root, "old.deb"))
	copyFile(t, packages.new, filepath.Join(root, "new.deb"))
	copyFile(t, "testdata/service.sh", filepath.Join(root, "service.sh"))
	check(t, os.WriteFile(filepath.Join(root, "etc/systemd/system/proof.service"), []byte(proof), 0o644))

	dir := t.TempDir()
	initrd, console, said := filepath.Join(dir, "initrd"), filepath.Join(dir, "console"), filepath.Join(dir, "said")
	command(t, "sh", "-euc", `cd "$1" && find . | cpio --quiet -o -H newc >"$2"`, "sh", root, initrd)
	cmd := exec.Command("qemu-system-x86_64",
		"-accel", "tcg", "-m", "1024", "-smp", "2", "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none",
		"-kernel", filepath.Join(from, "vmlinuz"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/lib/systemd/systemd systemd.unit=proof.service",
		"-serial", "file:"+console, "-serial", "file:"+said)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr journal
	cmd.Stderr = &stderr
	ended := make(chan error, 1)
	started := time.Now()
	check(t, cmd.Start())
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		check(t, err)
	case <-time.After(serviceTime):
		cmd.Process.Kill() // no error but that it has ended
		t.Errorf("the guest does not end within %v: %v", serviceTime, <-ended)
	}
	text, _ := os.ReadFile(said) // where there is none, nothing was said
	if !strings.HasSuffix(strings.TrimSpace(string(text)), "\npassed") {
		b, _ := os.ReadFile(console)
		t.Fatalf("service.sh:\n%s\nthe console:\n%s%s", text, b, &stderr)
	}
	t.Logf("the guest took %v", time.Since(started).Round(time.Second))
}
