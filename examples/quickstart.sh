#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Build imagefs, mount a small folder of images, and read one as fast as it goes:
#
#	./examples/quickstart.sh [SIZE]		of the largest image; 1G by default
#
# or mount a store of your own:
#
#	./examples/quickstart.sh STORE MOUNTPOINT
#	./examples/quickstart.sh sheepdog://10.0.0.1:7000/ /mnt
#	./examples/quickstart.sh rbd://POOL/ /mnt	as ceph.conf and the keyring say
#	./examples/quickstart.sh glance:/// /mnt	as openrc.sh says, which was read before
#
# On Debian 12, as root, what is missing is installed first.  All is built and installed in
# build-quickstart; the images lie in a temporary folder, which is removed at the end.

set -eu

size=${1:-1G}
store= mountpoint= features=
if [ $# = 2 ]; then
	store=$1 mountpoint=$2
fi
source=$(cd "$(dirname "$0")/.." && pwd)
build=$source/build-quickstart
packages="gcc libc6-dev meson ninja-build pkg-config libfuse3-dev libjansson-dev fuse3 qemu-utils
	python3-docutils"
folder=

# What the stores need that link a library.
case $store in
rbd:*)
	packages="$packages librbd-dev librados-dev"
	features=rbd
	;;
glance:* | glance+*)
	packages="$packages libcurl4-openssl-dev"
	features=glance
	;;
esac

# A headline.
say() {
	printf "\n== %s\n" "$*"
}

# Show a command as one would type it, then run it.
run() {
	printf '$ %s\n' "$*"
	"$@"
}

fail() {
	printf 'quickstart: %s\n' "$*" >&2
	exit 1
}

is_mounted() {
	mountpoint -q "$folder/mnt"
}

clean_up() {
	[ -n "$folder" ] || return 0
	if is_mounted; then
		umount "$folder/mnt" 2>/dev/null || fusermount3 -u "$folder/mnt" 2>/dev/null ||
			umount -l "$folder/mnt" || fusermount3 -uz "$folder/mnt" || true
	fi
	cd /
	rm -rf --one-file-system "$folder"
	folder=
}

install_packages() {
	missing=
	command -v dpkg-query >/dev/null || return 0
	for package in $packages; do
		case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
		installed) ;;
		*) missing="$missing $package" ;;
		esac
	done
	[ -n "$missing" ] || return 0
	[ "$(id -u)" = 0 ] || fail "not installed:$missing; run as root: apt-get install$missing"
	say "Installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	apt-get install -qq -y --no-install-recommends $missing >/dev/null
}

build_imagefs() {
	say "Building imagefs in $build"
	[ -f "$build/build.ninja" ] ||
		meson setup "$build" "$source" --prefix "$build/root" -Dtests=false >/dev/null
	for feature in $features; do
		[ -e "$build/root/libexec/imagefs/imagefs-store-$feature" ] && continue
		# meson remembers what was not there before the package was installed.
		meson setup --wipe "$build" "$source" "-D$feature=enabled" >/dev/null
	done
	ninja -C "$build" --quiet
	meson install -C "$build" --quiet >/dev/null
}

make_images() {
	say "Making images"
	mkdir images mnt
	head -c "$size" /dev/urandom >images/random.raw
	truncate -s 10G images/sparse.raw
	head -c 1M images/random.raw | dd of=images/sparse.raw bs=1M seek=5120 conv=notrunc status=none
	run qemu-img convert -f raw -O qcow2 images/sparse.raw images/disk.qcow2
}

# The seconds that a command takes.
time_of() {
	start=$(date +%s.%N)
	sh -c "$1"
	end=$(date +%s.%N)
	echo "$end - $start" | awk '{ print $1 - $3 }'
}

# Read in turns, so that what else the machine does hits both; print the medians.
compare_rates() {
	for _ in 1 2 3 4 5; do
		echo "pipe $(time_of 'cat images/random.raw | dd of=/dev/null bs=1M status=none')"
		echo "mount $(time_of 'dd if=mnt/random.raw of=/dev/null bs=1M status=none')"
	done | sort -k 1,1 -k 2,2n | awk -v bytes="$(stat -c %s images/random.raw)" '
		{ count[$1]++; if (count[$1] == 3) rate[$1] = bytes / $2 / 1e6 }
		END {
			printf "cat images/random.raw | dd of=/dev/null bs=1M   %6.0f MB/s\n", rate["pipe"]
			printf "dd if=mnt/random.raw of=/dev/null bs=1M         %6.0f MB/s\n", rate["mount"]
		}'
}

[ -e /dev/fuse ] || fail "there is no /dev/fuse (modprobe fuse; in a container: --device /dev/fuse)"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
install_packages
build_imagefs

PATH=$build/root/bin:$PATH
if [ -n "$store" ]; then
	say "Mounting $store"
	made=
	[ -e "$mountpoint" ] || made=1
	mkdir -p "$mountpoint" 2>/dev/null || true # it may be a mount whose program is gone
	run imagefs "$store" "$mountpoint" || {
		status=$?
		[ -z "$made" ] || rmdir "$mountpoint" 2>/dev/null || true
		exit $status
	}
	run imagefs list "$store"
	say "Done. What next?"
	echo "cp $mountpoint/IMAGE .; $build/root/bin/imagefs stats $mountpoint; umount $mountpoint"
	exit
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/imagefs-quickstart.XXXXXX")
cd "$folder"
make_images

say "Mounting them"
echo '$ imagefs images mnt'
# Ctrl-C is held back until the mount is there, to be taken away again.
(trap '' INT && exec imagefs images mnt)
run ls -l mnt
run imagefs list images

say "Copying one out"
run dd if=mnt/random.raw of=copy.raw bs=1M status=progress
run cmp images/random.raw copy.raw
run qemu-img compare mnt/sparse.raw mnt/disk.qcow2

say "Reading it, beside the pipe alone (medians of five turns)"
compare_rates

say "Unmounting"
run umount mnt 2>/dev/null || run fusermount3 -u mnt
clean_up
say "Done. To mount images of your own, and to read the manual:"
echo "PATH=$build/root/bin:\$PATH; imagefs FOLDER MOUNTPOINT; man imagefs"
