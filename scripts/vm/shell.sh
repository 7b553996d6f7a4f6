#!/bin/bash
# shell.sh: in the virtual machine: a prompt for a person (scripts/vm-test --shell).
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
# Out of the delegated group, in which whoever makes leaves has to be alone.
mkdir -p "$group/shell" && echo $$ >"$group/shell/cgroup.procs"
cat <<'TEXT'
./stockade run guests/hello.wat       # without leaves; in a delegated unit, with them:
systemd-run -q --pipe --wait --collect -p Delegate=yes -p WorkingDirectory=/job /job/stockade run --bill guests/hello.wat
dpkg -i packages/first.deb            # the service
TEXT
exec bash -i
