#!/bin/bash
# SPDX-License-Identifier: MIT
#
# smoke.sh BUILD - mount a folder of images, read them in several ways, and unmount.
set -euo pipefail
build=$(realpath "$1")
work=$(mktemp -d)
trap 'umount -l "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/images" "$work/mnt"
head -c 300M /dev/urandom >"$work/images/big.raw"
truncate -s 1G "$work/images/thin.raw"
printf data | dd of="$work/images/thin.raw" bs=1 seek=500M conv=notrunc status=none
"$build/imagefs" list -o store_path="$build" "$work/images"
"$build/imagefs" -o store_path="$build" "$work/images" "$work/mnt"
ls -l "$work/mnt"
cmp "$work/mnt/big.raw" "$work/images/big.raw"
dd if="$work/mnt/big.raw" bs=1M iflag=direct status=none | cmp - "$work/images/big.raw"
cp "$work/mnt/thin.raw" "$work/copy"
cmp "$work/copy" "$work/images/thin.raw"
[ "$(stat -c %b "$work/copy")" -lt 20000 ]
for offset in 0 4095 1048577 200000000; do
	cmp -n 3000000 -i "$offset" "$work/mnt/big.raw" "$work/images/big.raw"
done
umount "$work/mnt"
echo "read in five ways, all equal"
