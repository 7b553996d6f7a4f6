#!/bin/bash
# checks.sh: in the virtual machine, as root, in a unit with Delegate=yes (see ../vm-test).
# Prints one line a check, "ok NAME" or "FAIL NAME" with what was seen; ends with their numbers, and fails if any
# failed. What must hold on which kernel is decided here, not by looking.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
kernel=$(uname -r)
. ./lib.sh

echo "info kernel $kernel; $(systemctl --version | head -n 1); LSMs $(cat /sys/kernel/security/lsm)"

# --- the cgroup module's own tests, in a group with controllers
mkdir "$group/main" "$group/tests"
echo $$ >"$group/main/cgroup.procs"
echo '+memory +pids +cpu' >"$group/cgroup.subtree_control"
echo '+memory +pids +cpu' >"$group/tests/cgroup.subtree_control"
suite() { # suite BINARY FILTER: what it says goes to /tmp/suite.BINARY
    STOCKADE_TEST_CGROUP=$group/tests timeout "$limit_s" "./$1" $2 --show-output --test-threads 1 >"/tmp/suite.$1" 2>&1 ||
        { local status=$?; cat "/tmp/suite.$1"; return "$status"; }
}
check cgroup-tests suite cgroups-test ''
grep -ho 'figures: .*' /tmp/suite.* | sed 's/^/info /'
# The suite of misbehaving workers, below the paths that it was built with. Its files are linked, so it all lies on one disk.
built=$(cat target-directory)
mkdir -p t/tmp "$(dirname "$built")" && ln -s /job/t "$built"
# Tests that must be alone in a unit of systemd's.
named() { # named TEST KIND PROPERTY...
    local test=$1 kind=$2 output
    shift 2
    output=$(unit "Environment=STOCKADE_TEST_UNIT=$kind" "$@" -- ./cgroups-test --exact "$test" --nocapture 2>&1) &&
        case $output in *'not run'*) false ;; *'1 passed'*) true ;; *) false ;; esac || { echo "$output"; return 1; }
    echo "test $test ... ok" >>"/tmp/named"
}
delegated=unit_with_delegation_is_found_and_taken_over
check cgroup-in-a-delegated-unit named $delegated delegated Delegate=yes
check cgroup-in-a-delegated-unit-unprivileged named $delegated delegated Delegate=yes DynamicUser=yes NoNewPrivileges=yes
check cgroup-in-a-plain-unit named unit_without_delegation_is_left_alone plain
. ./checks-cgroups.sh
# Whoever compares needs both lists: a test that was left out at first and then run in a unit has run.
for said in /tmp/suite.* /tmp/named; do awk -f tests.awk "$said"; done | sort -u >/tmp/tests
sed -n 's/^ran //p' /tmp/tests | sort -u >/tmp/ran
sed -n 's/^left-out //p' /tmp/tests | sort -u | grep -vxF -f /tmp/ran >/tmp/left-out
echo "ran in the machine: $(paste -sd ' ' /tmp/ran)"
echo "left out in the machine: $(paste -sd ' ' /tmp/left-out)"
none_left_out() { ! grep . /tmp/left-out; }
check every-test-ran none_left_out

# --- the program
stockade() { unit "$@"; }
job=(Delegate=yes "Environment=STOCKADE_JAIL_REQUIRE=seccomp,landlock,cgroup,no-new-privs,rlimits,capabilities")
if ! unit Delegate=yes -- ./stockade run guests/hello.wat >/tmp/first 2>&1; then
    echo "FAIL run: $(head -n 1 /tmp/first)"
    failed=$((failed + 1))
    result
    exit 1
fi
program() {
    check run-hello says 'hello from the jail' stockade "${job[@]}" -- ./stockade run guests/hello.wat
    # A file in a tmpfs is memory that only the kernel counts; there is more of it than memory.max allows.
    mountpoint -q /run/hog || { mkdir -p /run/hog && mount -t tmpfs -o size=256M,mode=1777 tmpfs /run/hog; }
    hog=(stockade "${job[@]}" -- ./stockade run --json --memory 16M --timeout 60s --dir /run/hog::/d guests/tmpfs-hog.wat)
    check memory-hog-is-cgroup-oom says '"verdict":"out_of_memory","reason":"cgroup_oom"' "${hog[@]}"
    ends_with() { local want=$1 status=0; shift; "$@" >/tmp/ends 2>&1 || status=$?; [ "$status" = "$want" ] || { cat /tmp/ends; echo "status $status"; return 1; }; }
    check memory-hog-ends-with-137 ends_with 137 "${hog[@]}"
    check spinning-guest-times-out ends_with 124 stockade "${job[@]}" -- ./stockade run --timeout 500ms guests/spin.wat
    check doctor-in-a-delegated-unit says 'memory, pids, cpu' stockade "${job[@]}" -- ./stockade doctor
    check doctor-in-a-plain-unit says 'Delegate=yes' stockade -- ./stockade doctor
    check require-cgroup-in-a-plain-unit says 'not delegated' stockade \
        Environment=STOCKADE_JAIL_REQUIRE=cgroup -- ./stockade run guests/hello.wat
}
if on 6.12; then program; fi
check run-states-its-walls says '"cgroup":["memory","pids","cpu"]' stockade "${job[@]}" -- ./stockade run --json guests/hello.wat
case $kernel in
    6.1.*) abi=2 ;;
    *) abi=6 ;;
esac
check landlock-abi-$abi says "\"landlock_abi\":$abi" stockade "${job[@]}" -- ./stockade run --json guests/hello.wat
check landlock-abi-required says 'landlock' stockade "${job[@]}" \
    Environment=STOCKADE_JAIL_LANDLOCK_ABI_MIN=7 -- ./stockade run guests/hello.wat
if on 6.1; then
    . ./checks-crippled.sh
    . ./checks-crash.sh
fi
# By what they execute: a worker's command line need not name the file.
no_leftovers() { ! find /sys/fs/cgroup -name 'worker-*' | grep . && ! ls -l /proc/[0-9]*/exe 2>/dev/null | grep /job/stockade; }
check no-leaf-and-no-process-left no_leftovers

# --- the daemon, hardened and without privilege; then as the package installs it
while read -r line; do
    echo "$line"
    case $line in ok*) passed=$((passed + 1)) ;; FAIL*) failed=$((failed + 1)) ;; esac
done < <(if on 6.12; then ./checks-unprivileged.sh 2>&1; ./checks-package.sh 2>&1; fi)

result
[ "$failed" = 0 ]
