package doctor

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

// gather returns the findings of one check.
func gather(check func(report)) (all []Finding) {
	check(func(check string, level Level, remedy, format string, args ...any) {
		all = append(all, Finding{check, level, fmt.Sprintf(format, args...), remedy})
	})
	return all
}

// Strict filtering is in the way where a peer's route leaves by another device; the
// greater of the two values counts.
func TestReversePath(t *testing.T) {
	underlay(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "other"
	other := &netlink.Bridge{LinkAttrs: attrs}
	if err := errors.Join(netlink.LinkAdd(other), netlink.LinkSetUp(other)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(other) })
	set := func(all, device string) {
		t.Helper()
		for of, value := range map[string]string{"all": all, "u1": device} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer set(sysctl("net/ipv4/conf/all/rp_filter"), "0")
	c := parse(t, blue)
	h, err := host.New(c.Underlay.Address, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	look := func(what string) {
		t.Helper()
		want(t, gather(func(add report) { reversePath(add, h, c, "u1") }), "rp_filter", what)
	}
	set("0", "0")
	look("ok off for u1")
	set("0", "1")
	look("ok strict for u1, by which all peers")
	_, prefix, err := net.ParseCIDR("203.0.113.0/24")
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: other.Index, Dst: prefix})
	}
	if err != nil {
		t.Fatal(err)
	}
	look("warn strict for u1, by which no route leads to 203.0.113.9 (other): ")
	set("1", "0")
	look("warn strict for u1")
	set("1", "2")
	look("ok loose for u1")
}

// Without CAP_NET_ADMIN the kernel's bounds count.
func TestBuffers(t *testing.T) {
	underlay(t)
	look := func() string {
		return says(gather(buffers), "socket buffers")
	}
	if text := look(); !strings.HasPrefix(text, "ok ") {
		t.Errorf("with CAP_NET_ADMIN: %s", text)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has, less [2]unix.CapUserData
	if err := unix.Capget(&hdr, &has[0]); err != nil {
		t.Fatal(err)
	}
	less = has
	less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&hdr, &less[0]); err != nil {
		t.Fatal(err)
	}
	text := look()
	if err := unix.Capset(&hdr, &has[0]); err != nil {
		t.Fatal(err)
	}
	level := "ok "
	for _, key := range []string{"rmem_max", "wmem_max"} {
		if bound, err := strconv.Atoi(sysctl("net/core/" + key)); err == nil && bound < dataplane.SocketBuffer {
			level = "warn "
		}
	}
	if !strings.HasPrefix(text, level) {
		t.Errorf("without CAP_NET_ADMIN: %s, want %s", text, level)
	}
}
