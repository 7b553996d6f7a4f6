#!/bin/bash
# thousand-breaches.sh [N]: in the virtual machine: a thousand jobs that reach memory.max, one after the other in one
# supervisor. By itself: scripts/vm-test --script thousand-breaches.sh
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir "$group/main" "$group/tests"
echo $$ >"$group/main/cgroup.procs"
echo '+memory +pids +cpu' >"$group/cgroup.subtree_control"
echo '+memory +pids +cpu' >"$group/tests/cgroup.subtree_control"
built=$(cat target-directory)
mkdir -p t/tmp "$(dirname "$built")" && ln -s /job/t "$built"
export STOCKADE_TEST_CGROUP=$group/tests STOCKADE_TEST_BREACHES=${1:-1000} STOCKADE_TEST_ALONE=here
time ./supervisor-test --exact leaves::breaches_of_memory_max_are_each_called_by_their_name_and_leave_nothing --nocapture
