#!/bin/bash
# doctor.sh: in the virtual machine: what `stockade doctor` finds in the unit that the package ships and in others, and at
# the end a table of the layers. By itself: scripts/vm-test --script doctor.sh, which boots each kernel a second time with
# walls taken away.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./lib.sh
export DEBIAN_FRONTEND=noninteractive
unset STOCKADE_SOCKET

echo "info kernel $(uname -r); $(tr ' ' '\n' </proc/cmdline | grep 'lsm=\|cgroup' | tr '\n' ' ')"
# Where the unit's controllers are missing it does not start, as it says, and the package is installed all the same.
timeout "$limit_s" dpkg -i packages/first.deb >/tmp/d.install 2>&1 || { cat /tmp/d.install; exit 1; }
systemctl is-active --quiet stockade.service && echo "info stockade.service runs" ||
    { echo "info stockade.service does not run:"; systemctl status --no-pager stockade.service | grep -i 'assert\|condition' | sed 's/^ */     | /'; }
systemctl stop stockade.socket stockade.service

# The unit that ships, made to run doctor once, in spite of its assertions. as_unit [FILE]: with that drop-in.
as_unit() {
    local there=/run/systemd/system/stockade-doctor.service
    sed -e '/^\(Requires\|After\|Assert[A-Za-z]*\|NotifyAccess\|ExecReload\|Restart\|RestartSec\|WatchdogSec\)=/d' \
        -e 's/^Type=.*/Type=oneshot/' -e 's,^ExecStart=.*,ExecStart=/usr/bin/stockade doctor,' \
        /usr/lib/systemd/system/stockade.service >"$there"
    printf '[Service]\nStandardOutput=file:/run/doctor.said\n' | cat - ${1:+"$1"} >>"$there"
    systemctl daemon-reload
    : >/run/doctor.said
    # doctor's status is the unit's; a unit that could not even start has said nothing.
    systemctl start stockade-doctor.service 2>/dev/null
    echo "exit status $(systemctl show -p ExecMainStatus --value stockade-doctor.service)" >>/run/doctor.said
    systemctl reset-failed stockade-doctor.service 2>/dev/null
    cat /run/doctor.said
}
said() { # said COMMAND...: the same of a command
    local status=0
    "$@" 2>&1 || status=$?
    echo "exit status $status"
}
places=("the unit" "the unit, no namespaces" "root, delegated" "user, plain unit")
as_unit >/tmp/d.0
as_unit /usr/share/stockade/no-namespaces.conf >/tmp/d.1
said unit Delegate=yes -- stockade doctor >/tmp/d.2
said unit DynamicUser=yes -- stockade doctor >/tmp/d.3
for i in "${!places[@]}"; do
    echo "== ${places[i]}"
    cat "/tmp/d.$i"
    grep -q '^every required layer\|will not run jobs here$' "/tmp/d.$i" || failed=$((failed + 1))
done

# The layers of all of them side by side.
echo "== layers on $(uname -r)"
{ printf '| layer |'; printf ' %s |' "${places[@]}"; printf '\n|---|'; printf -- '---|%.0s' "${places[@]}"; echo; }
awk '
    FNR == 1 { place++ }
    $2 == "present" || $2 == "missing" || $2 == "MISSING" {
        if (!($1 in seen)) { seen[$1] = 1; order[++layers] = $1 }
        text = $4
        # Of a group its controllers.
        for (i = 5; i <= NF && $i != "in"; i++) text = text " " $i
        cell[$1, place] = $2 != "present" ? "missing" : text == "" ? "yes" : text
    }
    /^exit status/ { status[place] = $3 }
    END {
        for (n = 1; n <= layers; n++) {
            line = "| " order[n] " |"
            for (p = 1; p <= place; p++) line = line " " cell[order[n], p] " |"
            print line
        }
        line = "| exit status |"
        for (p = 1; p <= place; p++) line = line " " status[p] " |"
        print line
    }' /tmp/d.0 /tmp/d.1 /tmp/d.2 /tmp/d.3
timeout "$limit_s" dpkg --purge stockade >/dev/null 2>&1
[ "$failed" = 0 ]
