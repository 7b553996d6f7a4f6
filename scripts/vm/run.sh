#!/bin/bash
# run.sh [options] -- COMMAND [ARGUMENT...]
# Boots a throw-away Debian 12 machine under QEMU's software emulation, runs COMMAND in it as a systemd
# unit (job.service, Delegate=yes, working directory /job), passes its stdout and stderr on as they come,
# and ends with its exit status. Nothing the machine does is kept.
#   -k SERIES   kernel: 6.12 (default) or 6.1
#   -d DIR      copied to /job in the machine
#   -p K=V      one more property for the unit's [Service] section (DynamicUser=yes …), repeatable
#   -m MIB      memory (512)          -t SECONDS   time limit for all of it (180)
#   -a TEXT     added to the kernel's command line
#   -i          interactive: COMMAND has the caller's terminal, through the machine's serial line
#   -v          print the machine's console at the end (always printed when it died)
# Exit status: the command's; 128+N when signal N killed it; 124 time limit; 123 the machine died;
# 125 the unit could not be started (why is on stderr); 2 wrong use.
#
# One virtual CPU, on purpose: with two, QEMU 7.2 crashes the guest's kernel now and then.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${STOCKADE_VM_CACHE:-$here/../../target/vm}
kernel=6.12 dir='' memory_mib=512 limit_s=180 verbose='' append='' interactive='' properties=()
usage() { sed -n '2,/^set /{/^#/p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
while getopts k:d:p:m:t:a:iv option; do
    case $option in
        k) kernel=$OPTARG ;; d) dir=$OPTARG ;; p) properties+=("$OPTARG") ;;
        m) memory_mib=$OPTARG ;; t) limit_s=$OPTARG ;; v) verbose=1 ;;
        a) append=$OPTARG ;; i) interactive=1 ;; *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
if ! [ -e "$cache/key" ] || ! [ -e "$cache/vmlinuz-$kernel" ]; then
    echo "vm run: no machine with kernel $kernel in $cache: run scripts/vm/build.sh first" >&2
    exit 2
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/stockade-vm.XXXXXX")
machine='' readers=()
cleanup() {
    if [ -n "$machine" ]; then kill "$machine" 2>/dev/null || true; fi
    if [ ${#readers[@]} -gt 0 ]; then kill "${readers[@]}" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$work/job/.vm"
if [ -n "$dir" ]; then cp -a "$dir/." "$work/job/"; fi
# The command goes into a script: a unit's ExecStart= has a quoting of its own.
{ echo '#!/bin/bash'; printf 'exec'; printf ' %q' "$@"; echo; } >"$work/job/.vm/command"
chmod 755 "$work/job" "$work/job/.vm" "$work/job/.vm/command"
{
    printf '%s\n' '[Unit]' 'Description=The job' 'After=multi-user.target' \
        '[Service]' 'Type=oneshot' 'Delegate=yes' 'WorkingDirectory=/job' 'ExecStart=/job/.vm/command' \
        'ExecStopPost=+/usr/local/lib/vm/report'
    if [ -n "$interactive" ]; then
        printf '%s\n' 'StandardInput=tty-force' 'StandardOutput=tty' 'StandardError=tty' 'TTYPath=/dev/ttyS0' \
            "Environment=TERM=${TERM:-linux} HOME=/root"
    else
        printf '%s\n' 'StandardOutput=file:/dev/vport0p1' 'StandardError=file:/dev/vport0p2'
    fi
    for property in "${properties[@]}"; do
        printf '%s\n' "$property"
        # A unit kept from devices still has to write to the ports.
        case $property in *Device*) echo 'DeviceAllow=char-virtio-portsdev rw' ;; esac
    done
} >"$work/job/.vm/job.service"
size_mib=$(($(du -sm "$work/job" | cut -f1) * 11 / 10 + 64))
mkfs.ext4 -q -F -m 0 -O ^has_journal,^metadata_csum,^resize_inode -E lazy_itable_init=1 \
    -d "$work/job" "$work/job.img" "${size_mib}M" >/dev/null
rm -rf "$work/job"

mkfifo "$work/out" "$work/err" "$work/control"
port() { echo "-chardev file,id=c$1,path=$work/$2 -device virtserialport,chardev=c$1,nr=$1,name=$2"; }
serial=(-serial "file:$work/console")
# Every key is the machine's in an interactive one: Ctrl-C is for what runs there.
[ -z "$interactive" ] || serial=(-chardev stdio,id=terminal,signal=off -serial chardev:terminal)
# What the emulation would be slow at: a page is cleared and copied by string instructions a byte (erms) or a word
# (rep_good) at a time, each a step of the emulator's; and an emulated processor has nothing for mitigations to hide.
quick=(-cpu max,-erms,-fsrm)
quick_kernel="mitigations=off clearcpuid=rep_good"
# virtio-serial comes first so that its ports are /dev/vport0pN. shellcheck disable=SC2046
arguments=(-M q35,usb=off,vmport=off,sata=off,smbus=off "${quick[@]}" -accel tcg,tb-size=256 -smp 1
    -m "$memory_mib" -nodefaults -no-user-config -nographic -no-reboot
    -kernel "$cache/vmlinuz-$kernel" -initrd "$cache/initrd-$kernel"
    -append "console=ttyS0 loglevel=4 panic=-1 no_timer_check tsc=reliable nowatchdog systemd.show_status=no $quick_kernel $append"
    "${serial[@]}" -device virtio-serial-pci
    -drive "if=none,id=root,file=$cache/root.img,format=raw,snapshot=on,cache=unsafe"
    -drive "if=none,id=job,file=$work/job.img,format=raw,cache=unsafe"
    -device virtio-blk-pci,drive=root -device virtio-blk-pci,drive=job
    $(port 1 out) $(port 2 err) $(port 3 control))

if [ -n "$interactive" ]; then exec 4<&0 5>&1; else exec 4</dev/null 5>"$work/qemu.log"; fi
cat "$work/out" & readers+=($!)
cat "$work/err" >&2 & readers+=($!)
(
    trap 'kill "$qemu" 2>/dev/null' TERM
    # In the foreground, since who has no terminal cannot read from it.
    timeout --foreground -k 2 "$limit_s" qemu-system-x86_64 "${arguments[@]}" <&4 >&5 & qemu=$!
    status=0
    wait "$qemu" || status=$?
    echo "$status" >"$work/status"
    # Readers of a FIFO that QEMU never opened wait for ever: open and close each once.
    : <>"$work/out" <>"$work/err" <>"$work/control"
) </dev/null 2>"$work/errors" & machine=$!

job_status=''
while read -r word value; do # ends when QEMU closes the port
    if [ "$word" = exit ]; then
        job_status=$value
        kill "$machine"
        break
    fi
done <"$work/control"
wait "$machine" || true
machine=''
wait "${readers[@]}" || true
readers=()
qemu_status=$(cat "$work/status" 2>/dev/null || echo unknown)
if [ -n "$verbose" ] || [ -z "$job_status" ]; then
    tail -q -n 60 "$work"/{qemu.log,errors,console} >&2 2>/dev/null || true
fi
if [ -n "$job_status" ]; then exit "$job_status"; fi
case $qemu_status in
    124 | 137) echo "vm run: time limit of $limit_s s reached" >&2; exit 124 ;;
    *) echo "vm run: the machine ended (qemu: $qemu_status) without a status" >&2; exit 123 ;;
esac
