# checks-cgroups.sh: limits that hold, sourced by checks.sh. $group is its delegated group, with processes in main alone.

check bombs-stop-at-pids-max suite supervisor-test leaves::
on 6.1 || return 0

# --- the processor: a tree that several supervisors share, so that their leaves lie side by side
mkdir "$group/cpu"
echo '+memory +pids +cpu' >"$group/cpu/cgroup.subtree_control"
spinning=()
works_in() { # works_in LEAF: a worker that runs jobs, not a compiler, has worked there
    local pid name
    read -r pid <"$1/cgroup.procs" && read -r name <"/proc/$pid/comm" && [ "$name" = stockade:run ] &&
        usage "$1" && [ "$usage_us" -gt 500000 ]
} 2>/dev/null
spin() { # spin SETTING...: a job that spins, in a leaf of the shared tree; its leaf into $leaf
    local seen
    seen=$(echo "$group"/cpu/worker-*)
    env STOCKADE_CGROUP_ROOT="$group/cpu" STOCKADE_POOL_WARM=0 STOCKADE_CACHE_DIRECTORY=off "$@" \
        ./stockade run --timeout 100s guests/spin.wat >/dev/null 2>&1 &
    spinning+=($!)
    spins() { # a new leaf with time of its own that no start-up takes
        for leaf in "$group"/cpu/worker-*; do
            case " $seen " in *" $leaf "*) continue ;; esac
            works_in "$leaf" && return 0
        done
        return 1
    }
    local by=$((SECONDS + 60))
    until spins; do [ "$SECONDS" -lt "$by" ] || return 1; sleep 0.2; done
}
spun() { kill "${spinning[@]}"; wait "${spinning[@]}"; spinning=(); return 0; } 2>/dev/null
cpu_max_holds() {
    spin STOCKADE_CGROUP_CPU_MAX_PERCENT=50 || return 1
    shares 4 "$leaf"
    spun
    echo "figures: cpu.max of 50 %: had ${shares[0]} tenths of a percent"
    within "${shares[0]}" 450 550
}
check cpu-max-holds-within-a-tenth cpu_max_holds
cpu_weight_holds() {
    local light heavy
    spin STOCKADE_CGROUP_CPU_WEIGHT=100 || return 1
    light=$leaf
    spin STOCKADE_CGROUP_CPU_WEIGHT=300 || return 1
    heavy=$leaf
    shares 4 "$light" "$heavy"
    spun
    echo "figures: cpu.weight of 100 and 300: had ${shares[0]} and ${shares[1]} tenths of a percent"
    # Three times as much, within a tenth, and nothing lost.
    within $((shares[1] * 100 / shares[0])) 270 330 && within $((shares[0] + shares[1])) 800 1050
}
check cpu-weight-holds-within-a-tenth cpu_weight_holds

# --- callers
callers_cpu() {
    daemon Environment=STOCKADE_CGROUP_CALLER_CPU_MAX_PERCENT=50 Environment=STOCKADE_JAIL_REQUIRE=cgroup || return 1
    as 1001 ./stockade submit --detach --timeout 100s guests/spin.wat >/tmp/a
    as 1001 ./stockade submit --detach --timeout 100s guests/spin.wat >/tmp/b
    local tree
    tree=$(daemon_tree)
    own=$(echo "$tree"/caller-*-1001)
    two() { [ "$(find "$own" -name 'worker-*' | wc -l)" = 2 ] && usage "$own" && [ "$usage_us" -gt 2000000 ]; }
    local by=$((SECONDS + 60))
    until own=$(echo "$tree"/caller-*-1001) && two 2>/dev/null; do
        [ "$SECONDS" -lt "$by" ] || { ./stockade ps; find "$tree"; daemon_stops; return 1; }
        sleep 0.2
    done
    shares 4 "$own"
    daemon_stops
    echo "figures: two jobs of a caller with cpu.max of 50 %: had ${shares[0]} tenths of a percent together"
    within "${shares[0]}" 450 550
}
check callers-jobs-together-are-held-by-cpu-max callers_cpu
callers_memory() {
    # Each job may have 128 MiB, and takes more than 48; two of one caller are above what that caller may have.
    daemon Environment=STOCKADE_CGROUP_CALLER_MEMORY_BYTES=96M Environment=STOCKADE_JAIL_REQUIRE=cgroup || return 1
    local other hog i status=0
    other=$(as 1002 ./stockade submit --detach --timeout 100s guests/fill.wat)
    runs() { ./stockade ps | grep "$1" | grep -q running; }
    eventually runs "$other" || status=1
    for i in 1 2; do as 1001 ./stockade submit --json --timeout 40s guests/fill.wat >"/tmp/hog.$i" 2>&1 & done
    ended() { grep -q '"reason":"shared_oom"' /tmp/hog.*; }
    eventually ended || { status=1; cat /tmp/hog.*; }
    runs "$other" || { status=1; echo "the other caller's job is over"; ./stockade ps; }
    ./stockade cancel "$other" >/dev/null
    over() { ./stockade ps | grep "$other" | grep -q cancelled; }
    eventually over || status=1
    ./stockade ps >/tmp/ps
    daemon_stops
    wait
    [ "$status" = 0 ] || cat /tmp/ps
    return "$status"
}
check callers-memory-hogs-take-nobody-elses callers_memory

# --- memory pressure, as the kernel tells it of the daemon's own tree
figure() { ./stockade stats --json | sed -n "s/.*\"$1\":\([a-z0-9]*\).*/\1/p"; }
pressure_shrinks() {
    local tree leaf status=0
    daemon Environment=STOCKADE_POOL_WARM=1 Environment=STOCKADE_PRESSURE_CALM=1s Environment=STOCKADE_POOL_TEMPLATES_MAX=0 \
        Environment=STOCKADE_JAIL_REQUIRE=cgroup || return 1
    tree=$(daemon_tree)
    # Many jobs at once ask for many workers.
    for _ in 1 2 3 4 5 6; do ./stockade submit --detach guests/hello.wat >/dev/null & done
    grown() { [ "$(figure warm_target)" -gt 1 ]; }
    eventually grown || status=1
    wait
    grown || { echo "the pool had shrunk before"; status=1; }
    echo "figures: $(figure warm_target) workers to stand ready after a rush, by ${tree##*/}/memory.pressure"
    # A job whose leaf has nothing to give back waits for memory, again and again.
    for leaf in "$tree"/worker-*; do echo 2M >"$leaf/memory.high"; done
    ./stockade submit --detach --timeout 60s guests/fill.wat >/tmp/pressing
    pressed() { [ "$(figure memory_pressed)" = true ] && [ "$(figure warm_target)" = 1 ] && [ "$(figure warm)" -le 1 ]; }
    eventually pressed || { status=1; ./stockade stats; cat "$tree/memory.pressure"; }
    ./stockade cancel "$(cat /tmp/pressing)" >/dev/null
    calm() { [ "$(figure memory_pressed)" = false ]; }
    eventually calm || { status=1; ./stockade stats; }
    ./stockade stats --json | grep -o '"memory_pressure_source":"[^"]*memory.pressure"' || status=1
    daemon_stops
    return "$status"
}
check pool-shrinks-under-memory-pressure pressure_shrinks

check memory-breaches ./breaches.sh 4
