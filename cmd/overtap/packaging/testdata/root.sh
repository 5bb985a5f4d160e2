#!/usr/bin/env bash
# Makes the Debian that tests install the package on: a root with dpkg, systemd and
# iproute2, and a kernel with the modules that it needs to boot it in QEMU. Both go
# to the user's cache, under this script's own sum and the kernel's version, so that
# a second run finds them there. It prints the folder.
#
# It needs Debian's mmdebstrap, and the lists of `apt-get update`.
set -euo pipefail
export LC_ALL=C

modules="drivers/net/tun drivers/net/veth drivers/net/vxlan net/bridge net/802 net/llc net/ipv4/udp_tunnel net/ipv6/ip6_udp_tunnel"

die() { echo "$0: $*" >&2; exit 1; }

command -v mmdebstrap >/dev/null || die "there is no mmdebstrap: install Debian's mmdebstrap"
[ "$(dpkg --print-architecture)" = amd64 ] || die "it boots a kernel of amd64"
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || die "/etc/os-release has no VERSION_CODENAME"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
[ -n "$package" ] || die "apt knows no linux-image-cloud-amd64: run apt-get update"
version=${package#linux-image-}

sum=$(sha256sum "$0" | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/overtap/debian-$sum
made=$cache/$package
if [ ! -e "$made/root.tar" ] || [ ! -e "$made/vmlinuz" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/making-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work" # apt downloads as a user of its own
    # shellcheck disable=SC2164
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package") || die "can not download $package"
    dpkg -x "$work"/*.deb "$work/deb"
    from=$work/deb/lib/modules/$version
    mkdir -p "$work/modules/$version/kernel" "$work/out"
    for m in $modules; do
        for f in "$from/kernel/$m" "$from/kernel/$m.ko"; do
            [ ! -e "$f" ] || (cd "$from" && cp -r --parents "${f#"$from/"}" "$work/modules/$version")
        done
    done
    cp "$from"/modules.{order,builtin,builtin.modinfo} "$work/modules/$version"
    cp "$work"/deb/boot/vmlinuz-* "$work/out/vmlinuz"
    # Files that are not read there would only fill the memory.
    mmdebstrap --quiet --variant=essential --include=systemd,iproute2,iputils-ping,kmod \
        --customize-hook="copy-in $work/modules /lib" \
        --customize-hook="chroot \"\$1\" depmod $version" \
        --customize-hook='cd "$1" && rm -rf usr/share/doc/* usr/share/locale/* usr/share/man/* usr/share/info/* var/cache/apt/* usr/lib/x86_64-linux-gnu/gconv usr/lib/udev/hwdb*' \
        "$suite" "$work/out/root.tar" >&2 || die "mmdebstrap failed"
    # Another run may have been quicker.
    mv -T "$work/out" "$made" 2>/dev/null || [ -e "$made/root.tar" ] || die "can not make $made"
fi
# The link is what tests go by.
link=$(mktemp -u "$cache/link-XXXXXX")
ln -s "$package" "$link"
mv -T "$link" "$cache/current"
echo "$made"
