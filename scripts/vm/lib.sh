# lib.sh: what the scripts of checks share; sourced by them in the virtual machine.
passed=0 failed=0
# Longest a single check may take; the machine is some ten times slower than its host.
limit_s=120

# In a brief run each check is made on one kernel, except those that are about the kernel.
# on SERIES: whether a check that is for one kernel alone then is made on this one.
on() { ! [ -e /job/brief ] || case $(uname -r) in "$1".*) true ;; *) false ;; esac; }

# check NAME COMMAND...: passes when the command does; its output shows when it fails.
check() {
    local name=$1 output status=0 start=$SECONDS
    shift
    output=$("$@" 2>&1) || status=$?
    if [ "$status" = 0 ]; then
        echo "ok   $name ($((SECONDS - start)) s)"
        sed -n 's/^figures: /info figures: /p' <<<"$output"
        passed=$((passed + 1))
    else
        echo "FAIL $name (status $status)"
        sed 's/^/     | /' <<<"$output" | tail -n 40
        failed=$((failed + 1))
    fi
}

# The line that cargo's own runner ends with, for whoever adds up.
result() {
    local word=ok
    [ "$failed" = 0 ] || word=FAILED
    echo "test result: $word. $passed passed; $failed failed; 0 ignored"
}

# unit NAME=VALUE... -- COMMAND...: runs the command as a unit of its own, as nothing else is in its group.
unit() {
    local properties=()
    while [ "$1" != -- ]; do
        properties+=(-p "$1")
        shift
    done
    shift
    timeout "$limit_s" systemd-run --quiet --wait --pipe --collect -p WorkingDirectory=/job \
        -p "RuntimeMaxSec=$limit_s" "${properties[@]}" "$@"
}

# says TEXT COMMAND...: the command's output, of both streams, contains the text; its status does not matter.
says() {
    local text=$1 output
    shift
    output=$("$@" 2>&1)
    case $output in *"$text"*) return 0 ;; esac
    echo "expected to read: $text"
    echo "$output"
    return 1
}

# eventually COMMAND...: until it succeeds, for at most a minute.
eventually() {
    local by=$((SECONDS + 60))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$by" ] || { echo "not in time: $*"; return 1; }
        sleep 0.1
    done
}

# usage GROUP: CPU time of a group and all below, µs, into $usage_us; without a process of its own.
usage() {
    local key value
    usage_us=0
    while read -r key value; do [ "$key" != usage_usec ] || usage_us=$value; done <"$1/cpu.stat"
}

# shares SECONDS GROUP...: what part of a processor each group had during that time, in tenths of a percent, into
# ${shares[@]}.
shares() {
    local wait_s=$1 group start now before=() i=0
    shift
    start=${EPOCHREALTIME/[.,]/}
    for group; do usage "$group" && before+=("$usage_us"); done
    sleep "$wait_s"
    now=${EPOCHREALTIME/[.,]/}
    shares=()
    for group; do
        usage "$group"
        shares+=($(((usage_us - before[i]) * 1000 / (now - start))))
        i=$((i + 1))
    done
}

# within VALUE LOW HIGH
within() { [ "$1" -ge "$2" ] && [ "$1" -le "$3" ] || { echo "$1 is not between $2 and $3"; return 1; }; }

# daemon PROPERTY...: starts the daemon as stockade-check.service, in a delegated unit, and waits until it answers.
export STOCKADE_SOCKET=/run/stockade-check/stockade.sock
daemon() {
    local properties=() property
    for property; do properties+=(-p "$property"); done
    systemctl reset-failed stockade-check.service 2>/dev/null
    systemd-run --quiet --unit stockade-check -p WorkingDirectory=/job -p Delegate=yes -p RuntimeDirectory=stockade-check \
        -p RuntimeDirectoryMode=0755 -p "Environment=STOCKADE_SOCKET=$STOCKADE_SOCKET" -p Environment=STOCKADE_CACHE_DIRECTORY=off \
        -p Environment=STOCKADE_CLIENTS_SOCKET_MODE=0666 -p Environment=STOCKADE_CLIENTS_DRAIN_TIMEOUT=0 "${properties[@]}" ./stockade serve &&
        eventually ./stockade stats || { journalctl --no-pager -u stockade-check.service | tail -n 20; return 1; }
}
daemon_stops() { systemctl stop stockade-check.service; }
# Its tree.
daemon_tree() { echo "/sys/fs/cgroup$(systemctl show -p ControlGroup --value stockade-check.service)"; }
# as UID COMMAND...
as() { local uid=$1; shift; setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"; }
