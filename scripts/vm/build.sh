#!/bin/bash
# build.sh: makes, once, the machine that run.sh boots: two Debian 12 kernels, a small initramfs for
# each, and a root disk with systemd 252 on which cgroup v2 is the only hierarchy.
#
#   STOCKADE_VM_CACHE   where it is kept (default: target/vm of this tree)
#
# Needs root, for mmdebstrap; installs the Debian packages named below when they are missing; mounts
# nothing, uses no loop device, installs no kernel. Made again when this script changes.
# Exit status: 0 ready, 2 something is missing that it cannot install, 1 a step failed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${STOCKADE_VM_CACHE:-$here/../../target/vm}
kernels=(6.12 6.1)
guest_packages=systemd,systemd-sysv,dbus,procps,libnss-systemd,usr-is-merged
host_packages=(qemu-system-x86 mmdebstrap e2fsprogs cpio xz-utils kmod)
# Under emulation one step that hangs on the network must not hang whoever waits for it.
download_limit_s=600

mkdir -p "$cache" && cache=$(cd "$cache" && pwd)
exec 9>"$cache/lock"
flock -w 900 9 || { echo "vm build: another build holds $cache/lock for 15 minutes" >&2; exit 1; }
key=$(sha256sum <"${BASH_SOURCE[0]}" | cut -c1-16)
if [ "$(cat "$cache/key" 2>/dev/null)" = "$key" ]; then exit 0; fi

step() { echo "vm build: ${SECONDS} s: $*" >&2; }

missing=()
for package in "${host_packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "vm build: not root, and these packages are missing: ${missing[*]}" >&2
        echo "vm build: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
    step "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    timeout "$download_limit_s" apt-get -qq update >&2
    timeout "$download_limit_s" apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
[ "$(id -u)" = 0 ] || { echo "vm build: mmdebstrap needs root to make the root disk" >&2; exit 2; }

rm -f "$cache/key"
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Kernels and busybox are unpacked, never installed: an installed kernel would touch the host's boot.
unpack() { # unpack PACKAGE DIRECTORY
    mkdir -p "$work/deb/$1"
    (cd "$work/deb/$1" && timeout "$download_limit_s" apt-get -qq -o APT::Sandbox::User=root download "$1" &&
        dpkg-deb -x ./*.deb "$2")
}
fetch_kernels() {
    local series meta image
    timeout "$download_limit_s" apt-get -qq update
    unpack busybox-static "$work/busybox"
    for series in "${kernels[@]}"; do
        case $series in
            6.1) meta=linux-image-cloud-amd64 ;; # Debian 12's own
            *) meta=linux-image-$series-cloud-amd64 ;;
        esac
        image=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
        unpack "$image" "$work/kernel-$series"
    done
}
fetch_kernels &
fetching=$!

timeout "$download_limit_s" mmdebstrap --quiet --variant=minbase --mode=root --format=directory \
    --include="$guest_packages" --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    bookworm "$work/root"
step "root tree"
wait $fetching
step "kernels"

# The disk and the ports are virtio, which both kernels have as modules: hence an initramfs. ext4 and
# everything that is tested (cgroups, seccomp, Landlock) is built in, so the root disk needs no modules.
cat >"$work/init" <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
$b mount -t ext4 /dev/vda /new
$b mount -t ext4 /dev/vdb /new/job
$b mount -o move /dev /new/dev
exec $b switch_root /new /lib/systemd/systemd
INIT
initramfs() { # initramfs SERIES
    local unpacked=$work/kernel-$1 tree=$work/initrd-$1 version module file number=10
    version=$(ls "$unpacked/lib/modules")
    mkdir -p "$tree"/{bin,dev,new,modules}
    cp "$work/busybox/bin/busybox" "$tree/bin/"
    ln -s busybox "$tree/bin/sh"
    /sbin/depmod -b "$unpacked" "$version"
    for module in virtio_pci virtio_blk virtio_console; do
        /sbin/modprobe -d "$unpacked" -S "$version" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/load-order"
    while read -r file; do
        cp "$file" "$tree/modules/$number-${file##*/}"
        number=$((number + 1))
    done <"$work/load-order"
    find "$tree/modules" -name '*.xz' -exec xz -d {} + # 6.12's; here it is faster than in the machine
    install -m 755 "$work/init" "$tree/init"
    (cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0) >"$work/out/initrd-$1"
    cp "$unpacked/boot/vmlinuz-$version" "$work/out/vmlinuz-$1"
}
mkdir "$work/out"
for series in "${kernels[@]}"; do initramfs "$series"; done
step "initramfs"

# A boot that does only what the tests are about. Without udev there are no device units, and whatever
# waits for one (getty, fstab, mounts) would wait 90 s: it is masked.
cd "$work/root"
echo stockade-vm >etc/hostname
echo 0123456789abcdef0123456789abcdef >etc/machine-id # an empty one means first-boot work
rm -f etc/fstab var/lib/dbus/machine-id lib/systemd/system/multi-user.target.wants/*
mask() { local unit; for unit; do ln -sf /dev/null "etc/systemd/system/$unit"; done; }
mask getty.target getty@.service serial-getty@.service console-getty.service timers.target \
    systemd-logind.service systemd-user-sessions.service systemd-random-seed.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-update-done.service \
    systemd-boot-random-seed.service systemd-machine-id-commit.service systemd-firstboot.service \
    systemd-journal-flush.service systemd-journal-catalog-update.service systemd-sysusers.service \
    systemd-pstore.service systemd-repart.service systemd-pcrphase.service \
    systemd-pcrphase-sysinit.service systemd-tmpfiles-setup-dev.service systemd-initctl.socket \
    systemd-remount-fs.service systemd-modules-load.service systemd-binfmt.service \
    proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount systemd-ask-password-console.path \
    systemd-ask-password-wall.path modprobe@.service kmod-static-nodes.service
mkdir -p etc/systemd/system-generators job usr/local/lib/vm
for generator in lib/systemd/system-generators/*; do
    ln -sf /dev/null "etc/systemd/system-generators/${generator##*/}"
done

# run.sh puts job.service on the job disk; the link makes it part of the boot without a reload.
ln -s /job/.vm/job.service etc/systemd/system/job.service
cat >etc/systemd/system/vm.target <<'UNIT'
[Unit]
Description=One job, then the end of the machine
Requires=multi-user.target
Wants=job.service vm-report.service
After=multi-user.target
UNIT
ln -sf vm.target etc/systemd/system/default.target
cat >etc/systemd/system/vm-report.service <<'UNIT'
[Unit]
Description=Report a job that never started
After=job.service
[Service]
Type=oneshot
ExecStart=/usr/local/lib/vm/report
UNIT
cat >usr/local/lib/vm/report <<'REPORT'
#!/bin/bash
# (bash: dash's kill -l takes no names.) ExecStopPost= of job.service, and vm-report.service after it for a job that could not be started.
# Writes "exit STATUS" to the control port, upon which the host ends the machine.
[ -e /run/vm-reported ] && exit 0
: >/run/vm-reported
case ${EXIT_CODE:-} in
    exited) status=$EXIT_STATUS ;;
    killed | dumped) status=$((128 + $(kill -l "$EXIT_STATUS"))) ;;
    *)
        status=125
        # As ExecStopPost= this has the port for stderr already, and a port opens once.
        [ -n "${SERVICE_RESULT:-}" ] || exec 2>/dev/vport0p2
        systemctl --no-pager --full status job.service >&2
        ;;
esac
echo "exit $status" >/dev/vport0p3
sleep 30
systemctl poweroff -ff
REPORT
chmod 755 usr/local/lib/vm/report
cd "$work"

# mkfs.ext4 -d fills the image from a directory: no mount.
size_mib=$(($(du -sm root | cut -f1) + 200))
mkfs.ext4 -q -F -m 0 -O ^has_journal,^metadata_csum,^resize_inode -E lazy_itable_init=1 \
    -d root out/root.img "${size_mib}M" >/dev/null
mv out/* "$cache/"
echo "$key" >"$cache/key"
step "done: $(du -sm --exclude='build.*' "$cache" | cut -f1) MiB in the cache"
