#!/bin/bash
# checks-crippled-boot.sh: in a virtual machine that was booted without Landlock, and without the memory controller or with
# the controllers on cgroup v1.
# Prints lines as checks.sh does.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./lib.sh
crippled_boot=yes
. ./checks-crippled.sh
echo "info kernel $(uname -r); $(cat /proc/cmdline | tr ' ' '\n' | grep 'lsm=\|cgroup' | tr '\n' ' ')"
if on 6.12; then check landlock-not-enabled-at-boot lacks landlock 'lsm='; fi
if grep -q '^[1-9].*:memory' /proc/self/cgroup; then
    check controllers-on-cgroup-v1 lacks cgroup 'systemd.unified_cgroup_hierarchy=1' -- Delegate=yes
else
    check without-the-memory-controller lacks cgroup 'without memory' 'cgroup_disable=' -- Delegate=yes
fi
result
[ "$failed" = 0 ]
