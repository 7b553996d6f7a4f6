#!/bin/bash
# breaches.sh N: in the virtual machine: so many jobs that reach memory.max, one after the other in one daemon, which must
# call each by its name and use no more memory after them than before.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./lib.sh
count=${1:-1000}
# What the allocator may keep.
slack_bytes=$((4 << 20))

mountpoint -q /run/hog || { mkdir -p /run/hog && mount -t tmpfs -o size=256M,mode=1777 tmpfs /run/hog; }
daemon Environment=STOCKADE_JAIL_REQUIRE=cgroup Environment=STOCKADE_CGROUP_MEMORY_HEADROOM_BYTES=16M || exit 1
memory() { ./stockade stats --json | sed -n 's/.*"supervisor_memory_bytes":\([0-9]*\).*/\1/p'; }
breach() {
    ./stockade submit --json --memory 4M --timeout 60s --dir /run/hog::/d guests/tmpfs-hog.wat 2>&1 |
        grep -q '"verdict":"out_of_memory","reason":"cgroup_oom"'
}
# What is set up with the first jobs is no growth.
for _ in 1 2 3; do breach || { echo "not named cgroup_oom"; exit 1; }; done
before=$(memory) breaches=0 start=$SECONDS
for ((i = 0; i < count; i++)); do
    if breach; then breaches=$((breaches + 1)); fi
    [ $((i % 100)) != 99 ] || echo "$((i + 1)) jobs, $breaches breaches, $(memory) bytes"
done
after=$(memory)
./stockade submit guests/hello.wat | grep -q 'hello from the jail' || { echo "serves no more"; exit 1; }
tree=$(daemon_tree)
leaves=$(find "$tree" -name 'worker-*' | wc -l)
daemon_stops
echo "figures: $breaches of $count jobs breached memory.max in $((SECONDS - start)) s; supervisor's memory $before bytes before, $after after; $leaves leaves at the end"
[ "$breaches" = "$count" ] && [ "$after" -le $((before + slack_bytes)) ] && [ "$leaves" -le 8 ]
