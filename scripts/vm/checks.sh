#!/bin/bash
# checks.sh: in the virtual machine, as root, in a unit with Delegate=yes (see ../vm-test).
# Prints one line a check, "ok NAME" or "FAIL NAME" with what was seen; ends with their numbers, and fails if any
# failed. What must hold on which kernel is decided here, not by looking.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
kernel=$(uname -r)
passed=0 failed=0
# Longest a single check may take; the machine is some ten times slower than its host.
limit_s=120

# check NAME COMMAND...: passes when the command does; its output shows when it fails.
check() {
    local name=$1 output status=0 start=$SECONDS
    shift
    output=$("$@" 2>&1) || status=$?
    if [ "$status" = 0 ]; then
        echo "ok   $name ($((SECONDS - start)) s)"
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

echo "info kernel $kernel; $(systemctl --version | head -n 1); LSMs $(cat /sys/kernel/security/lsm)"

# --- the cgroup module's own tests, in a group with controllers
mkdir "$group/main" "$group/tests"
echo $$ >"$group/main/cgroup.procs"
echo '+memory +pids +cpu' >"$group/cgroup.subtree_control"
echo '+memory +pids +cpu' >"$group/tests/cgroup.subtree_control"
suite() {
    STOCKADE_TEST_CGROUP=$group/tests timeout "$limit_s" ./cgroups-test --nocapture --test-threads 1 >/tmp/suite 2>&1 ||
        { local status=$?; cat /tmp/suite; return "$status"; }
}
check cgroup-tests suite
grep -o 'figures: .*' /tmp/suite | sed 's/^/info /'
# Of all of them only the two that must be alone in a unit may say that they were not run; they come next.
not_run() {
    local seen
    seen=$(grep -o 'not run: .*' /tmp/suite | sort)
    echo "$seen"
    [ "$seen" = 'not run: a systemd unit with Delegate=yes
not run: a systemd unit without Delegate=' ]
}
check cgroup-tests-all-ran not_run
named() { # named TEST KIND PROPERTY...
    local test=$1 kind=$2 output
    shift 2
    output=$(unit "Environment=STOCKADE_TEST_UNIT=$kind" "$@" -- ./cgroups-test --exact "$test" --nocapture 2>&1) &&
        case $output in *'not run'*) false ;; *'1 passed'*) true ;; *) false ;; esac || { echo "$output"; return 1; }
}
delegated=unit_with_delegation_is_found_and_taken_over
check cgroup-in-a-delegated-unit named $delegated delegated Delegate=yes
check cgroup-in-a-delegated-unit-unprivileged named $delegated delegated Delegate=yes DynamicUser=yes NoNewPrivileges=yes
check cgroup-in-a-plain-unit named unit_without_delegation_is_left_alone plain

# --- the program
stockade() { unit "$@"; }
job=(Delegate=yes "Environment=STOCKADE_JAIL_REQUIRE=seccomp,landlock,cgroup,no-new-privs,rlimits,capabilities")
if ! unit Delegate=yes -- ./stockade run guests/hello.wat >/tmp/first 2>&1; then
    echo "FAIL run: $(head -n 1 /tmp/first)"
    failed=$((failed + 1))
    result
    exit 1
fi
check run-hello says 'hello from the jail' stockade "${job[@]}" -- ./stockade run guests/hello.wat
check run-states-its-walls says '"cgroup":["memory","pids","cpu"]' stockade "${job[@]}" -- ./stockade run --json guests/hello.wat
# A file in a tmpfs is memory that only the kernel counts; there is more of it than memory.max allows.
mkdir -p /run/hog && mount -t tmpfs -o size=256M,mode=1777 tmpfs /run/hog
hog=(stockade "${job[@]}" -- ./stockade run --json --memory 16M --timeout 60s --dir /run/hog::/d guests/tmpfs-hog.wat)
check memory-hog-is-cgroup-oom says '"verdict":"out_of_memory","reason":"cgroup_oom"' "${hog[@]}"
ends_with() { local want=$1 status=0; shift; "$@" >/tmp/ends 2>&1 || status=$?; [ "$status" = "$want" ] || { cat /tmp/ends; echo "status $status"; return 1; }; }
check memory-hog-ends-with-137 ends_with 137 "${hog[@]}"
check spinning-guest-times-out ends_with 124 stockade "${job[@]}" -- ./stockade run --timeout 500ms guests/spin.wat
check doctor-in-a-delegated-unit says 'memory, pids, cpu' stockade "${job[@]}" -- ./stockade doctor
check doctor-in-a-plain-unit says 'Delegate=yes' stockade -- ./stockade doctor
check require-cgroup-in-a-plain-unit says 'not delegated' stockade \
    Environment=STOCKADE_JAIL_REQUIRE=cgroup -- ./stockade run guests/hello.wat
case $kernel in
    6.1.*) abi=2 ;;
    *) abi=6 ;;
esac
check landlock-abi-$abi says "\"landlock_abi\":$abi" stockade "${job[@]}" -- ./stockade run --json guests/hello.wat
check landlock-abi-required says 'landlock' stockade "${job[@]}" \
    Environment=STOCKADE_JAIL_LANDLOCK_ABI_MIN=7 -- ./stockade run guests/hello.wat
# By what they execute: a worker's command line need not name the file.
no_leftovers() { ! find /sys/fs/cgroup -name 'worker-*' | grep . && ! ls -l /proc/[0-9]*/exe 2>/dev/null | grep /job/stockade; }
check no-leaf-and-no-process-left no_leftovers

# --- the daemon, hardened and without privilege; then as the package installs it
while read -r line; do
    echo "$line"
    case $line in ok*) passed=$((passed + 1)) ;; FAIL*) failed=$((failed + 1)) ;; esac
done < <(./checks-unprivileged.sh 2>&1; ./checks-package.sh 2>&1)

result
[ "$failed" = 0 ]
