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
	"overtap/dataplane/netio"
)

// gather returns the findings of one check.
func gather(check func(report)) (all []Finding) {
	check(func(check string, level Level, remedy, format string, args ...any) {
		all = append(all, Finding{check, level, fmt.Sprintf(format, args...), remedy})
	})
	return all
}

// Strict filtering is in the way where a peer's route leaves by another device, and
// wanted where another host could send with a peer's address; the greater of the two
// values counts.
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
	look("ok no device but the underlay's")
	set("0", "1")
	look("ok strict for u1, by which all peers")
	_, prefix, err := net.ParseCIDR("203.0.113.0/24")
	toOther := &netlink.Route{LinkIndex: other.Index, Dst: prefix}
	if err == nil {
		err = netlink.RouteAdd(toOther)
	}
	if err != nil {
		t.Fatal(err)
	}
	look("warn strict for u1, by which no route leads to 203.0.113.9 (other): ")
	set("1", "0")
	look("warn strict for u1")
	set("1", "2")
	look("ok no device but the underlay's")

	address, err := netlink.ParseAddr("198.51.100.1/24")
	if err == nil {
		err = netlink.AddrAdd(other, address)
	}
	if err != nil {
		t.Fatal(err)
	}
	set("0", "0")
	look("ok no device but the underlay's") // a peer is there
	gateway := &netlink.Route{LinkIndex: by(t, "u1"), Dst: prefix, Gw: net.ParseIP("192.0.2.2")}
	if err := errors.Join(netlink.RouteDel(toOther), netlink.RouteAdd(gateway)); err != nil {
		t.Fatal(err)
	}
	const open = "warn off or loose for other: who is behind it can send to this host with a peer's address"
	look(open)
	all := gather(func(add report) { reversePath(add, h, c, "u1") })
	if remedy := all[0].Remedy; !strings.Contains(remedy, `set underlay.device = "u1"`) || !strings.Contains(remedy, "conf/other/rp_filter=1") {
		t.Errorf("the remedy: %s", remedy)
	}
	set("2", "0")
	look(open)
	// No value of one device makes it strict then.
	all = gather(func(add report) { reversePath(add, h, c, "u1") })
	if remedy := all[0].Remedy; strings.Contains(remedy, "rp_filter") || !strings.Contains(remedy, `set underlay.device = "u1"`) {
		t.Errorf("the remedy with 2 for all devices: %s", remedy)
	}
	set("1", "0")
	look("ok no device but the underlay's")
	set("0", "0")
	c.VXLAN[0].Bridge = "other"
	look("ok no device but the underlay's") // the engine refuses what comes by it
	c.VXLAN[0].Bridge, c.Underlay.Device = "", "u1"
	look("ok underlay.device is set")
}

// by is the index of a link.
func by(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
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
		if bound, err := strconv.Atoi(sysctl("net/core/" + key)); err == nil && bound < netio.SocketBuffer {
			level = "warn "
		}
	}
	if !strings.HasPrefix(text, level) {
		t.Errorf("without CAP_NET_ADMIN: %s, want %s", text, level)
	}
}
