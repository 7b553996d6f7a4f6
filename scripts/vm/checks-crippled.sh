# checks-crippled.sh: walls that cannot be had, each taken away in turn: what is said of it, and that jobs do without where
# they may. Sourced by checks.sh, and by checks-crippled-boot.sh where it takes another boot.

# lacks LAYER WORDS... [-- PROPERTY...]: in a unit with these properties the layer cannot be had. `doctor` and a start that
# requires it fail and say WORDS; a start that does not runs the job, which lists the layer as missing.
lacks() {
    local layer=$1 words=() word status=0 all=seccomp,landlock,cgroup,namespaces,no-new-privs,rlimits,capabilities,mdwe
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do words+=("$1") && shift; done
    [ $# = 0 ] || shift
    with() { unit Environment=STOCKADE_CACHE_DIRECTORY=off "$@"; }
    local require="Environment=STOCKADE_JAIL_REQUIRE=$layer"
    with "$require" "${@:-Nice=0}" -- ./stockade doctor >/tmp/l.doctor 2>&1 && { echo "doctor is content"; status=1; }
    with "$require" "${@:-Nice=0}" -- ./stockade doctor --json >/tmp/l.json 2>&1 && { echo "doctor --json is content"; status=1; }
    with "$require" "${@:-Nice=0}" -- ./stockade run guests/hello.wat >/tmp/l.start 2>&1 && { echo "the start was not refused"; status=1; }
    with Environment=STOCKADE_JAIL_REQUIRE= Environment=STOCKADE_JAIL_LANDLOCK_ABI_MIN=0 "${@:-Nice=0}" -- \
        ./stockade run --json guests/hello.wat >/tmp/l.run 2>&1 || { echo "the job did not run"; status=1; }
    grep -A 3 "^  $layer  *MISSING " /tmp/l.doctor >/tmp/l.wall || { echo "doctor does not find it missing"; status=1; }
    grep -q '"ok":false' /tmp/l.json || { echo "doctor --json says that all is well"; status=1; }
    grep -q "layer $layer is missing" /tmp/l.start || { echo "the start does not name it"; status=1; }
    grep -q '"verdict":"completed"' /tmp/l.run || { echo "the job did not complete"; status=1; }
    grep -q "\"missing\":\[.*\"layer\":\"$layer\"" /tmp/l.run || { echo "the job does not list it"; status=1; }
    for word in "${words[@]}"; do
        grep -qF "$word" /tmp/l.wall && grep -qF "$word" /tmp/l.start && grep -qF "$word" /tmp/l.run ||
            { echo "not said everywhere: $word"; status=1; }
    done
    [ "$status" = 0 ] || tail -n 12 /tmp/l.doctor /tmp/l.start /tmp/l.run
    return "$status"
}

refused=(SystemCallErrorNumber=EPERM NoNewPrivileges=yes)
if [ -z "${crippled_boot:-}" ]; then
    # A service manager's filter without the calls that a worker locks itself with.
    check without-seccomp lacks seccomp 'SystemCallFilter=' -- SystemCallFilter=~seccomp "${refused[@]}"
    check without-landlock-calls lacks landlock 'SystemCallFilter=' -- \
        "SystemCallFilter=~landlock_create_ruleset landlock_add_rule landlock_restrict_self" "${refused[@]}"
    check without-delegation lacks cgroup 'Delegate=yes'
    userns_forbidden() {
        sysctl -qw user.max_user_namespaces=0
        lacks namespaces max_user_namespaces -- DynamicUser=yes
        local status=$?
        sysctl -qw user.max_user_namespaces=1000
        return "$status"
    }
    check without-user-namespaces userns_forbidden
    case $kernel in 6.1.*) check without-mdwe lacks mdwe 'Linux 6.3' ;; esac
    old_landlock() {
        local said
        said=$(unit Environment=STOCKADE_JAIL_LANDLOCK_ABI_MIN=7 Environment=STOCKADE_CACHE_DIRECTORY=off -- ./stockade doctor 2>&1) && return 1
        case $said in *"jail.landlock_abi_min asks for 7"*"boot a newer kernel"*) ;; *) echo "$said"; return 1 ;; esac
        # The floor is what counts: without the requirement the same is a word on the way.
        unit Environment=STOCKADE_JAIL_LANDLOCK_ABI_MIN=0 Environment=STOCKADE_CACHE_DIRECTORY=off \
            Environment=STOCKADE_JAIL_REQUIRE=seccomp -- ./stockade doctor >/dev/null
    }
    check landlock-too-old-for-the-floor old_landlock
fi
