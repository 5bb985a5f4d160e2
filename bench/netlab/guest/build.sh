#!/usr/bin/env bash
# Makes what package guest boots: a kernel of Debian's with the tunnels that this
# machine's may lack, and an initramfs with busybox, iproute2 and that kernel's
# modules. Both go to the user's cache, under this script's own sum and the
# kernel's version, so that a second run finds them there. It prints the folder.
#
# It needs Debian's qemu-system-x86, busybox-static, cpio and iproute2, and the
# lists of `apt-get update`.
set -euo pipefail
export LC_ALL=C

# In the order in which they are inserted. A module's own path is looked up.
modules="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
failover net_failover virtio_net llc stp bridge udp_tunnel ip6_udp_tunnel vxlan tunnel4 ip_tunnel ipip"

die() { echo "$0: $*" >&2; exit 1; }

for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio ip:iproute2 bridge:iproute2; do
    command -v "${tool%%:*}" >/dev/null || die "there is no ${tool%%:*}: install Debian's ${tool##*:}"
done
! ldd "$(command -v busybox)" >/dev/null 2>&1 || die "this busybox needs libraries: install Debian's busybox-static"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
[ -n "$package" ] || die "apt knows no linux-image-cloud-amd64: run apt-get update"
[ "$(wc -w <<<"$package")" = 1 ] || die "linux-image-cloud-amd64 depends on more than a kernel: $package"

sum=$(sha256sum "$0" | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/overtap/guest-$sum
made=$cache/$package
if [ ! -e "$made/initrd" ] || [ ! -e "$made/vmlinuz" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/making-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work" # apt downloads as a user of its own
    # shellcheck disable=SC2164
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package") || die "can not download $package"
    dpkg -x "$work"/*.deb "$work/deb"

    root=$work/root
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,lib/modules}
    cp "$(command -v busybox)" "$root/bin/busybox"
    n=10
    for m in $modules; do
        ko=$(find "$work/deb/lib/modules" -name "$m.ko")
        [ -n "$ko" ] || die "$package has no module $m"
        cp "$ko" "$root/lib/modules/$n-$m.ko"
        n=$((n + 1))
    done
    # iproute2 as it is on this machine, with the libraries it is linked with.
    mkdir -p "$root/iproute2"
    for tool in ip bridge; do
        cp "$(command -v $tool)" "$root/iproute2/$tool"
        ldd "$root/iproute2/$tool" | grep -o '/[^ ]*' | while read -r lib; do
            mkdir -p "$root${lib%/*}"
            cp -L "$lib" "$root$lib"
        done
    done

    mkdir "$work/out"
    cp "$work"/deb/boot/vmlinuz-* "$work/out/vmlinuz"
    # Not compressed: an emulated machine would take longer to unpack it than to
    # copy it, and further archives can be put behind.
    (cd "$root" && find . | cpio --quiet -o -H newc --owner 0:0) >"$work/out/initrd"
    # Another run may have been quicker.
    mv -T "$work/out" "$made" 2>/dev/null || [ -e "$made/initrd" ] || die "can not make $made"
fi
# The link is what tests go by.
link=$(mktemp -u "$cache/link-XXXXXX")
ln -s "$package" "$link"
mv -T "$link" "$cache/current"
echo "$made"
