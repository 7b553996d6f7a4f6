#!/bin/bash
# checks-package.sh: in the virtual machine, from checks.sh: the Debian package as a person uses it. Installed,
# the service as it ships, a job by a user of the group, the watchdog, an upgrade under load, removal, purge.
# Prints lines as checks.sh does. Takes packages/first.deb and packages/second.deb.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
limit_s=300
export DEBIAN_FRONTEND=noninteractive
unset STOCKADE_SOCKET XDG_RUNTIME_DIR
failed=0
say() { # say NAME STATUS FILE
    if [ "$2" = 0 ]; then echo "ok   $1 ($((SECONDS - since)) s)"; else failed=1; echo "FAIL $1 (status $2)"; sed 's/^/     | /' "$3" | tail -n 30; fi
    since=$SECONDS
}
since=$SECONDS
# Until CONDITION... holds, or a while is over.
until_so() { for _ in $(seq 300); do "$@" && return 0; sleep 0.2; done; return 1; }
service() { systemctl show -p "$1" --value stockade.service; }
journal() { journalctl --no-pager --quiet -u stockade.service -u stockade.socket | tail -n 20 >>"$1"; }
# as USER COMMAND...: with the groups that USER has.
as() { setpriv --reuid "$1" --regid "$1" --init-groups timeout "$limit_s" "${@:2}"; }

# What other checks left: a unit below /run would hide the one that is installed.
rm -rf /run/systemd/system/stockade.service /run/systemd/system/stockade.service.d /run/stockade
systemctl daemon-reload

timeout "$limit_s" dpkg -i packages/first.deb >/tmp/p.install 2>&1
status=$?
[ "$status" = 0 ] && systemctl is-active stockade.socket stockade.service >>/tmp/p.install 2>&1
status=$?
journal /tmp/p.install
say package-installs-and-starts "$status" /tmp/p.install
[ "$status" = 0 ] || exit 1
systemctl is-enabled stockade.socket stockade.service >/tmp/p.enabled 2>&1
say package-enables-service-and-socket $? /tmp/p.enabled

useradd member && usermod -a -G stockade member && useradd outsider
as member stockade submit --json guests/hello.wat >/tmp/p.job 2>&1
status=$?
journal /tmp/p.job
for wall in '"verdict":"completed"' 'hello from the jail' '"cgroup":["memory","pids","cpu"]' '"seccomp":"kill"' \
    '"namespaces":["net","ipc","uts","user"]' '"no_new_privs":true' "\"tenant\":\"uid:$(id -u member)\""; do
    grep -qF "$wall" /tmp/p.job || { echo "without: $wall" >>/tmp/p.job; status=1; }
done
# PR_SET_MDWE came with 6.3; everything else holds on either kernel.
lacking=$(sed 's/.*"missing":\[\([^]]*\)\].*/\1/' /tmp/p.job | head -n 1 | grep -o '"layer":"[a-z-]*"' | paste -sd ' ')
case $(uname -r) in 6.1.*) [ "$lacking" = '"layer":"mdwe"' ] ;; *) [ -z "$lacking" ] ;; esac ||
    { echo "lacking: $lacking" >>/tmp/p.job; status=1; }
say member-of-the-group-runs-a-job-behind-every-wall "$status" /tmp/p.job
as outsider stockade submit guests/hello.wat >/tmp/p.outsider 2>&1
[ $? = 125 ] && grep -q 'ermission denied' /tmp/p.outsider
say outsider-is-kept-from-the-socket $? /tmp/p.outsider
as member stockade doctor >/tmp/p.doctor 2>&1 && grep -q 'stockade.sock a daemon answers' /tmp/p.doctor
say doctor-finds-the-socket $? /tmp/p.doctor
# The daemon's cache is not root's, who has one of its own.
root() { systemd-run --quiet --wait --pipe --collect -p WorkingDirectory=/job -p "RuntimeMaxSec=$limit_s" "$@"; }
root stockade doctor >/tmp/p.doctor 2>&1 && root stockade run guests/hello.wat 2>>/tmp/p.doctor | grep -q 'hello from the jail'
say root-runs-jobs-of-its-own-beside-the-daemon $? /tmp/p.doctor

pid=$(service MainPID)
[ "$(stat -c %U "/proc/$pid")" = stockade ] && grep -q '^CapBnd:[[:space:]]*0*$' "/proc/$pid/status" &&
    grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$pid/status" && grep -q '/stockade.service/supervisor$' "/proc/$pid/cgroup"
say daemon-has-no-privilege-at-all $? "/proc/$pid/status"
ls -la /var/cache/stockade >/tmp/p.cache
[ "$(stat -c '%U:%G %a' /var/cache/stockade)" = 'stockade:stockade 700' ] && [ -n "$(ls -A /var/cache/stockade)" ]
say cache-is-the-daemons-alone $? /tmp/p.cache
unit=/usr/lib/systemd/system/stockade.service
exposed() { # exposed TENTHS UNIT
    systemd-analyze security --no-pager --offline=true --threshold="$1" "$2" >/tmp/p.security 2>&1
    local status=$?
    grep 'Overall' /tmp/p.security | sed 's/^[^O]*/info /'
    return "$status"
}
exposed 13 "$unit"
say exposure-of-the-unit-is-at-most-1.3 $? /tmp/p.security
without=/usr/share/stockade/no-namespaces.conf
mkdir -p /tmp/without && cat "$unit" "$without" >/tmp/without/stockade.service
exposed 10 /tmp/without/stockade.service
say exposure-without-namespaces-is-at-most-1.0 $? /tmp/p.security
systemd-analyze verify --man=no "$unit" "${unit%.service}.socket" >/tmp/p.verify 2>&1 && ! grep -q stockade /tmp/p.verify
say units-are-what-systemd-reads $? /tmp/p.verify
# What the tests outside take the filter's sets for, and what they are here.
systemd-analyze syscall-filter $(grep '^@' syscall-sets.txt) 2>/dev/null | grep -v '^ *#\|^$' >/tmp/p.sets.here
diff <(grep -v '^#' syscall-sets.txt) /tmp/p.sets.here >/tmp/p.sets 2>&1
say system-call-sets-are-those-of-the-tests $? /tmp/p.sets

# An upgrade under load: whoever connects waits, and nobody is refused.
: >/tmp/p.load
perl -MSocket -e '
    my ($path, $until, $connected, $refused, $why) = (@ARGV, 0, 0, "");
    my $address = pack_sockaddr_un($path);
    until (-e $until) {
        socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or die $!;
        if (connect($socket, $address)) { $connected++ } else { $refused++; $why = $! }
        close $socket;
        select(undef, undef, undef, 0.1);
    }
    print "$connected $refused $why\n"' /run/stockade/stockade.sock /tmp/p.upgraded >/tmp/p.connects 2>&1 &
connects=$!
(
    while ! [ -e /tmp/p.upgraded ]; do
        as member stockade submit guests/hello.wat >/tmp/p.one 2>&1
        echo "$? $(head -c 200 /tmp/p.one | tr '\n' ' ')" >>/tmp/p.load
        # One is always on its way or waiting; more would only take the machine's one processor from the upgrade.
        sleep 1
    done
) &
load=$!
before=$(service MainPID)
timeout "$limit_s" dpkg -i packages/second.deb >/tmp/p.upgrade 2>&1
status=$?
touch /tmp/p.upgraded
wait "$load" "$connects"
[ "$status" = 0 ] && [ "$(service MainPID)" != "$before" ] && systemctl --quiet is-active stockade.service
status=$?
journal /tmp/p.upgrade
say upgrade-replaces-the-daemon "$status" /tmp/p.upgrade
echo "info $(wc -l </tmp/p.load) jobs submitted during the upgrade, $(grep -vc '^0 hello' /tmp/p.load) of them refused"
read -r connected refused why </tmp/p.connects
echo "info $connected connections made during the upgrade, $refused refused $why"
cat /tmp/p.connects >>/tmp/p.load
[ "$(grep -c '^0 hello' /tmp/p.load)" -ge 2 ] && [ "$connected" -ge 10 ] && [ "$refused" = 0 ] &&
    ! head -n -1 /tmp/p.load | grep -v '^0 hello' | grep -qv 'draining\|stopping'
say no-connection-is-refused-during-the-upgrade $? /tmp/p.load

# The drop-in that ships: no namespaces, and each worker is moved into its leaf.
mkdir -p /etc/systemd/system/stockade.service.d
cp "$without" /etc/systemd/system/stockade.service.d/
systemctl daemon-reload
timeout "$limit_s" systemctl restart stockade.service >/tmp/p.without 2>&1
as member stockade submit --json guests/hello.wat >>/tmp/p.without 2>&1
status=$?
for wall in '"verdict":"completed"' '"cgroup":["memory","pids","cpu"]' '"namespaces":[]' '"seccomp":"kill"'; do
    grep -qF "$wall" /tmp/p.without || { echo "without: $wall" >>/tmp/p.without; status=1; }
done
# A template's workers are moved as well.
for _ in $(seq 40); do
    as member stockade submit --json guests/hello.wat >/tmp/p.held 2>&1 || break
    as member stockade stats --json >/tmp/p.stats 2>&1
    grep -q '"starts_prepared":[1-9]' /tmp/p.stats && break
done
grep -q '"starts_prepared":[1-9]' /tmp/p.stats && grep -q '"cgroup":\["memory","pids","cpu"\]' /tmp/p.held || status=1
cat /tmp/p.held /tmp/p.stats >>/tmp/p.without
journal /tmp/p.without
say unit-without-namespaces-has-leaves "$status" /tmp/p.without
rm -r /etc/systemd/system/stockade.service.d
systemctl daemon-reload

# The filter kills here, so that a call of the daemon's own that it lacks shows.
mkdir -p /run/systemd/system/stockade.service.d
printf '[Service]\nWatchdogSec=10\nSystemCallErrorNumber=\n' >/run/systemd/system/stockade.service.d/check.conf
systemctl daemon-reload
timeout "$limit_s" systemctl restart stockade.service >/tmp/p.watchdog 2>&1
for words in 'submit guests/hello.wat' 'submit --timeout 300ms guests/spin.wat' 'stats --json'; do
    as member stockade $words >>/tmp/p.watchdog 2>&1
done
[ "$(service NRestarts)" = 0 ] && grep -q 'hello from the jail' /tmp/p.watchdog
status=$?
journal /tmp/p.watchdog
say nothing-the-daemon-does-is-outside-its-filter "$status" /tmp/p.watchdog
# A daemon that can make no worker is replaced: its zygote stands still, and so does each that the pool puts in its place.
before=$(service MainPID)
restarted() {
    pkill -STOP -P "$before" -x stockade:zygote
    [ "$(service NRestarts)" -ge 1 ] && systemctl --quiet is-active stockade.service
}
until_so restarted
status=$?
journalctl --no-pager --quiet -u stockade.service | grep -q "result 'watchdog'" || status=1
as member stockade submit guests/hello.wat >/tmp/p.again 2>&1 && grep -q 'hello from the jail' /tmp/p.again || status=1
journal /tmp/p.again
say zygote-that-stands-still-has-the-daemon-replaced "$status" /tmp/p.again
rm -r /run/systemd/system/stockade.service.d
systemctl daemon-reload

timeout "$limit_s" dpkg --remove stockade >/tmp/p.remove 2>&1
status=$?
[ "$status" = 0 ] && ! systemctl --quiet is-active stockade.service && ! systemctl --quiet is-active stockade.socket &&
    ! [ -e /run/stockade/stockade.sock ] && [ -e /etc/stockade/stockade.toml ] && ! [ -e /usr/bin/stockade ]
say removal-stops-it-and-keeps-the-configuration $? /tmp/p.remove
timeout "$limit_s" dpkg --purge stockade >/tmp/p.purge 2>&1
status=$?
userdel member
userdel outsider
{
    getent passwd stockade
    getent group stockade
    find /etc /usr /var /run -xdev -name '*stockade*' -not -path '/var/log/*' -not -path '/var/cache/apt/*'
    find /sys/fs/cgroup -name '*stockade*'
    ls -l /proc/[0-9]*/exe 2>/dev/null | grep '/bin/stockade'
} >/tmp/p.left
[ "$status" = 0 ] && ! grep . /tmp/p.left >>/tmp/p.purge
say purge-leaves-nothing $? /tmp/p.purge
exit "$failed"
