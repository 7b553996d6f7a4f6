# checks-crash.sh: a daemon that is killed and started again by systemd, as a service with a socket of systemd's; sourced by
# checks.sh.
cat >/run/systemd/system/crash.socket <<'UNIT'
[Socket]
ListenStream=/run/crash/stockade.sock
SocketMode=0666
UNIT
cat >/run/systemd/system/crash.service <<'UNIT'
[Unit]
Requires=crash.socket
After=crash.socket
StartLimitIntervalSec=0
[Service]
Type=notify
ExecStart=/job/stockade --config /run/crash.toml serve
ExecReload=+/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=100ms
KillMode=mixed
OOMPolicy=continue
DynamicUser=yes
StateDirectory=crash
CacheDirectory=crash
Environment=STOCKADE_POOL_WORKERS_MAX=1 STOCKADE_POOL_WARM=1
Delegate=memory pids cpu
NoNewPrivileges=yes
CapabilityBoundingSet=
UNIT
settings() { printf '%s\n' "$@" >/run/crash.toml; chmod 644 /run/crash.toml; }
crash_socket=/run/crash/stockade.sock
ask() { STOCKADE_SOCKET=$crash_socket timeout "$limit_s" ./stockade "$@"; }
spins() { ask ps | grep -q running; }
crash_pid() { systemctl show -p MainPID --value crash.service; }
begin_crash() {
    settings '[ceilings]' 'timeout = "5m"'
    systemctl daemon-reload
    systemctl start crash.socket && systemctl start crash.service && ask submit guests/hello.wat | grep -q 'hello from'
}
check service-with-a-journal-starts begin_crash

# Everything at once: a job that is over, one that runs, one that waits, and clients of both kinds.
killed_and_restarted() {
    local round pid before after started job status=0 listed
    : >/tmp/durable
    for round in 1 2; do
        pid=$(crash_pid)
        ask submit --durable --detach guests/hello.wat >>/tmp/durable || status=1
        ask submit --durable --detach --timeout 100s guests/spin.wat >>/tmp/durable || status=1
        ask submit --durable --detach --timeout 100s guests/spin.wat >>/tmp/durable || status=1
        ask submit --timeout 100s guests/hello.wat >"/tmp/client.$round" 2>&1 &
        eventually spins || status=1
        read -r before _ </proc/uptime
        kill -KILL "$pid"
        wait $!
        [ $? = 125 ] && grep -q 'submit again' "/tmp/client.$round" || { cat "/tmp/client.$round"; status=1; }
        other() { [ "$(crash_pid)" != "$pid" ] && [ "$(crash_pid)" != 0 ] && systemctl --quiet is-active crash.service; }
        eventually other || status=1
        after=$(systemctl show -p ActiveEnterTimestampMonotonic --value crash.service)
        echo "figures: accepting again $((after / 1000 - ${before/./} * 10)) ms after the daemon was killed"
        # Nothing of the last one: no process, and no leaf.
        pid=$(crash_pid)
        strangers() {
            local one
            for one in $(ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n 's,.* /proc/\([0-9]*\)/exe -> /job/stockade$,\1,p'); do
                grep -q "crash.service" "/proc/$one/cgroup" && [ "$one" != "$pid" ] &&
                    [ "$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$one/status")" != "$pid" ] && echo "$one"
            done
            find /sys/fs/cgroup/system.slice/crash.service -name 'worker-*' | grep -v -- "-$pid-"
        }
        clean() { [ -z "$(strangers)" ]; }
        eventually clean || { strangers; status=1; }
    done
    # Each was accepted, and each has one end that stays.
    [ "$(wc -l </tmp/durable)" = 6 ] || status=1
    while read -r job; do
        ask result --json "$job" >"/tmp/end" 2>&1
        grep -q '"verdict":"completed"\|"verdict":"worker_lost","reason":"supervisor_restarted"' /tmp/end || { cat /tmp/end; status=1; }
        [ "$(grep -ac "{\"ended\":{\"job\":\"$job\"" /var/lib/private/crash/journal)" -ge 1 ] &&
            [ "$(grep -ao "{\"ended\":{\"job\":\"$job\"" /var/lib/private/crash/journal | wc -l)" = 1 ] || { echo "$job"; status=1; }
    done </tmp/durable
    ask ps >/tmp/listed
    grep -q ' completed ' /tmp/listed && grep -q ' worker_lost ' /tmp/listed || { cat /tmp/listed; status=1; }
    ask submit guests/hello.wat | grep -q 'hello from' || status=1
    return "$status"
}
check killed-daemon-is-back-and-every-durable-job-has-one-end killed_and_restarted

reloaded() {
    local pid job status=0
    pid=$(crash_pid)
    job=$(ask submit --detach --timeout 100s guests/spin.wat)
    eventually spins || status=1
    settings '[ceilings]' 'timeout = "10s"' '[profiles.extension]' 'timeout = "5s"' '[profiles.batch]' 'timeout = "5s"'
    systemctl reload crash.service || status=1
    refuses() { ask submit --json --timeout 60s guests/hello.wat 2>&1 | grep -q '"reason":"limit"'; }
    eventually refuses || status=1
    settings '[ceilings]' 'timeout = "soon"'
    systemctl reload crash.service || status=1
    said() { journalctl --no-pager -u crash.service | grep 'not reloaded' | grep -q 'ceilings.timeout'; }
    eventually said || status=1
    refuses || { echo "the old configuration is not in force any more"; status=1; }
    # The same daemon, and the job that ran before is there.
    [ "$(crash_pid)" = "$pid" ] && systemctl --quiet is-active crash.service && ask ps | grep "$job" | grep -q running || { ask ps; status=1; }
    ask cancel "$job" >/dev/null || status=1
    ask result --json "$job" | grep -q '"verdict":"cancelled"' || status=1
    settings ''
    systemctl reload crash.service
    return "$status"
}
check reload-takes-what-can-change-and-drops-no-job reloaded
stopped_in_order() {
    local client
    ask submit --json --timeout 8s guests/spin.wat >/tmp/drained 2>&1 &
    client=$!
    eventually spins || return 1
    systemctl stop crash.service || return 1
    wait "$client"
    # It ran to its deadline, and its client has the result.
    grep -q '"verdict":"timed_out"' /tmp/drained && [ "$(systemctl show -p Result --value crash.service)" = success ] || { cat /tmp/drained; return 1; }
    # The socket is systemd's, and starts it again.
    ask submit guests/hello.wat | grep -q 'hello from'
}
check stop-drains-and-the-socket-starts-it-again stopped_in_order
systemctl stop crash.socket crash.service
# Whoever comes next looks for what is left of the daemon.
rm -rf /run/crash /run/crash.toml
