#!/bin/bash
# checks-unprivileged.sh: in the virtual machine, from checks.sh: the daemon as a hardened unit of a user that
# systemd makes up for it, without any privilege, and a client that talks to it.
# Prints lines as checks.sh does.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
limit_s=120
cat >/run/systemd/system/stockade.service <<'UNIT'
[Unit]
Description=Stockade, as hardened as it can be
[Service]
ExecStart=/job/stockade serve
Environment=STOCKADE_SOCKET=/run/stockade/stockade.sock
Environment=STOCKADE_JAIL_REQUIRE=seccomp,landlock,cgroup,no-new-privs,rlimits,capabilities
DynamicUser=yes
RuntimeDirectory=stockade
RuntimeDirectoryMode=0755
CacheDirectory=stockade
Delegate=memory pids cpu
KillMode=mixed
OOMPolicy=continue
TimeoutStopSec=30
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# The leaves are made below /sys/fs/cgroup; systemd has no finer setting.
ProtectControlGroups=no
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
UMask=0077
SystemCallArchitectures=native
# systemd 252's @system-service lacks what a worker locks itself with. RestrictNamespaces= is left out: it makes
# clone3 fail, and with it cloning into a leaf.
SystemCallFilter=@system-service
SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
UNIT
failed=0
say() { # say NAME STATUS FILE
    if [ "$2" = 0 ]; then echo "ok   $1"; else failed=1; echo "FAIL $1 (status $2)"; sed 's/^/     | /' "$3" | tail -n 30; fi
}
systemctl daemon-reload
timeout "$limit_s" systemctl start stockade.service >/tmp/start 2>&1
status=$?
export STOCKADE_SOCKET=/run/stockade/stockade.sock
for _ in $(seq 100); do
    if [ -S "$STOCKADE_SOCKET" ] || ! systemctl --quiet is-active stockade.service; then break; fi
    sleep 0.2
done
systemctl --quiet is-active stockade.service || status=1
journalctl --no-pager --quiet -u stockade.service >>/tmp/start
say daemon-starts-unprivileged "$status" /tmp/start
[ "$status" = 0 ] || exit 1

timeout "$limit_s" ./stockade submit --json guests/hello.wat >/tmp/submit 2>&1
grep -q 'hello from the jail' /tmp/submit
say daemon-runs-a-job $? /tmp/submit
grep -q '"cgroup":\["memory","pids","cpu"\]' /tmp/submit
say daemon-states-its-walls $? /tmp/submit
# The worker's own user forks into a leaf here: the template's, which is the daemon's.
for _ in $(seq 40); do
    timeout "$limit_s" ./stockade submit --json guests/hello.wat >/tmp/held 2>&1 || break
    ./stockade stats --json >/tmp/stats 2>&1
    grep -q '"starts_prepared":[1-9]' /tmp/stats && break
done
grep -q '"starts_prepared":[1-9]' /tmp/stats && grep -q '"cgroup":\["memory","pids","cpu"\]' /tmp/held
say module-held-ready-forks-into-leaves $? /tmp/stats
pid=$(systemctl show -p MainPID --value stockade.service)
grep -q '/stockade.service/supervisor$' "/proc/$pid/cgroup"
say daemon-sits-in-its-leaf $? "/proc/$pid/cgroup"
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" != 0 ] && grep -q '^CapEff:[[:space:]]*0*$' "/proc/$pid/status"
say daemon-has-no-privilege $? "/proc/$pid/status"

# SIGKILL to the daemon alone, while a guest spins. With KillMode=process systemd leaves the rest to us: zygote
# and workers must end by themselves.
mkdir -p /run/systemd/system/stockade.service.d
printf '[Service]\nKillMode=process\n' >/run/systemd/system/stockade.service.d/kill.conf
systemctl daemon-reload
running() { ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c '/job/stockade$'; }
timeout 60 ./stockade submit --timeout 60s guests/spin.wat >/tmp/spin 2>&1 &
client=$!
for _ in $(seq 100); do ./stockade ps 2>/dev/null | grep -q running && break; sleep 0.2; done
./stockade ps >/tmp/ps 2>&1
# Daemon, zygote and worker at the least: what must be gone later is there now.
grep -q running /tmp/ps && [ "$(running)" -ge 3 ]
say guest-spins-in-the-daemon $? /tmp/ps
systemctl kill --kill-whom=main -s KILL stockade.service
wait "$client"
for _ in $(seq 50); do [ "$(running)" = 0 ] && break; sleep 0.1; done
ls -l /proc/[0-9]*/exe 2>/dev/null | grep '/job/stockade$' >/tmp/left
[ $? = 1 ]
say killed-daemon-leaves-no-process $? /tmp/left
rm -r /run/systemd/system/stockade.service.d
systemctl daemon-reload
systemctl reset-failed stockade.service
timeout "$limit_s" systemctl start stockade.service >/tmp/restart 2>&1
for _ in $(seq 100); do timeout 20 ./stockade submit guests/hello.wat >/tmp/again 2>&1 && break; sleep 0.2; done
grep -q 'hello from the jail' /tmp/again
say daemon-starts-again-after-a-kill $? /tmp/again
timeout "$limit_s" systemctl stop stockade.service >/tmp/stop 2>&1
[ "$(systemctl show -p Result --value stockade.service)" = success ]
say daemon-stops-in-order $? /tmp/stop
exit "$failed"
