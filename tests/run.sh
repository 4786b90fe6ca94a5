#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Install what the tests need, build with gcc and with clang, and run the tests.
# Needs root on Debian 12; safe to run twice.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(gcc clang meson ninja-build pkg-config libfuse3-dev fuse3 libjansson-dev
	libcmocka-dev python3-pytest python3-pytest-xdist python3-hypothesis python3-docutils)
missing=()
for package in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
		missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

passed=0 failed=0
run() {
	echo "== $*"
	if timeout 900 "$@" </dev/null; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "== FAILED: $*"
	fi
}

for compiler in gcc clang; do
	build=build-test-$compiler
	[ -d "$build" ] || CC=$compiler meson setup "$build" >/dev/null
	run ninja -C "$build"
	run meson test -C "$build" --print-errorlogs --no-rebuild --timeout-multiplier 4
done
export IMAGEFS_BUILD=$PWD/build-test-gcc
run tests/smoke.sh build-test-gcc
run /usr/bin/python3 -m pytest -q -n 2 -p no:cacheprovider tests/stores/test_dir.py \
	tests/stores/test_dog.py tests/stores/test_conformance.py
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
