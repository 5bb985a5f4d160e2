#!/bin/sh
# What the service does under systemd, from installation to purge. It runs in the
# guest that service_test.go boots, with old.deb and new.deb beside it, and writes to
# the guest's second serial line; "passed" is its last word.
set -eu
exec >/dev/ttyS1 2>&1
trap 'status=$?; [ $status = 0 ] || { set +x; systemctl --no-pager status overtap.service; journalctl --no-pager -o cat -u overtap.service; echo "failed with status $status"; }; sync' EXIT
set -x

pid() { systemctl show -P MainPID overtap.service; }
say() { :; } # the trace shows it
refused() { # COMMAND...: fails (set -e takes no notice of a plain !)
	if "$@"; then return 1; fi
}
journal() { journalctl --no-pager -o cat -u overtap.service; }
await() { # COMMAND...: until it succeeds, for up to a minute
	n=0
	until "$@"; do
		n=$((n + 1))
		[ $n -lt 60 ] || return 1
		sleep 1
	done
}

say 'an installation neither starts the service nor enables it'
dpkg -i /old.deb
[ "$(systemctl is-enabled overtap.service)" = disabled ]
[ "$(systemctl is-active overtap.service)" = inactive ]
overtap version | grep -F 'overtap v1.0.0 '

say 'as installed, the configuration is refused, by name'
refused systemctl start overtap.service
journal | grep -F '/etc/overtap/overtap.toml' | grep -F underlay
systemctl stop overtap.service
systemctl reset-failed overtap.service || true # may be forgotten already

say 'the host at the other end has a vxlan device of the kernel'
sysctl() { echo "$2" >/proc/sys/"$1"; }
sysctl net/ipv6/conf/all/accept_dad 0
ip netns add b
ip link add u0 type veth peer name u1 netns b
ip address add 192.0.2.1/24 dev u0
ip link set u0 up
ip -n b address add 192.0.2.2/24 dev u1
ip -n b link set lo up
ip -n b link set u1 up
ip -n b link add vx0 type vxlan id 100 local 192.0.2.2 remote 192.0.2.1 dstport 4789 dev u1
ip -n b address add 198.51.100.2/24 dev vx0
ip -n b link set vx0 up

sed -i 's/^#\([^ ]\)/\1/' /etc/overtap/overtap.toml
overtap check --config /etc/overtap/overtap.toml
systemctl enable --now overtap.service
say 'systemctl comes back when the daemon is ready'
[ "$(systemctl is-active overtap.service)" = active ]
overtap status
ping -c 3 -W 10 198.51.100.2
journal | grep -F msg=ready

say 'in the sandbox of the unit a container is attached and detached'
ip netns add web
ip netns exec web sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' # so that /proc/sys is written to
overtap attach blue web --address 198.51.100.10/24 --address 2001:db8:1::10/64
ip netns exec web ping -c 1 -W 10 198.51.100.2
overtap detach blue web
overtap doctor --config /etc/overtap/overtap.toml || true

say 'nothing that the daemon wants to do is forbidden to it'
forbidden() { journal | grep -E 'level=(WARN|ERROR)|not permitted|[Pp]ermission denied|[Rr]ead-only file system'; }
refused forbidden

say 'a reload changes the running daemon, a mistake changes nothing'
before=$(pid)
sed 's/192.0.2.2/192.0.2.3/' /etc/overtap/overtap.toml | sed -n '/vxlan.peer/,$p' >/run/peer
cat /run/peer >>/etc/overtap/overtap.toml
systemctl reload overtap.service
overtap peers | grep -F 192.0.2.3
echo 'nonsense = 1' >>/etc/overtap/overtap.toml
refused systemctl reload overtap.service
sed -i '$d' /etc/overtap/overtap.toml
[ "$(systemctl is-active overtap.service)" = active ]
[ "$(pid)" = "$before" ]
ping -c 1 -W 10 198.51.100.2

say 'an upgrade keeps the configuration and starts the new program'
cp /etc/overtap/overtap.toml /run/before
dpkg -i /new.deb
cmp /etc/overtap/overtap.toml /run/before
[ "$(systemctl is-enabled overtap.service)" = enabled ]
[ "$(pid)" != "$before" ]
overtap status | grep -F 'overtap v1.1.0,'
ping -c 3 -W 10 198.51.100.2

say 'the watchdog is answered, and a daemon that hangs is started again'
mkdir -p /run/systemd/system/overtap.service.d
printf '[Service]\nWatchdogSec=20s\n' >/run/systemd/system/overtap.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart overtap.service
sleep 45
[ "$(systemctl show -P NRestarts overtap.service)" = 0 ]
hanging=$(pid)
kill -STOP "$hanging"
hung() { journal | grep -iF 'watchdog timeout'; }
await hung
rm -r /run/systemd/system/overtap.service.d
systemctl daemon-reload
restarted() { [ "$(systemctl show -P NRestarts overtap.service)" != 0 ] && [ "$(systemctl is-active overtap.service)" = active ]; }
await restarted
[ "$(pid)" != "$hanging" ]
ping -c 3 -W 10 198.51.100.2

say 'removed, it has stopped and taken down what it made; the configuration stays'
dpkg -r overtap
[ "$(systemctl is-active overtap.service)" = inactive ]
refused ip link show br-blue
refused ip link show blue
cmp /etc/overtap/overtap.toml /run/before

say 'purged, nothing is left'
dpkg -P overtap
refused ls -d /etc/overtap
refused ls -d /run/overtap
[ -z "$(find /etc/systemd /usr/lib/systemd /var/lib/systemd -name 'overtap*')" ]
set +x
echo passed
