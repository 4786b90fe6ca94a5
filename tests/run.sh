#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Install what the tests need, build with gcc and with clang, plain and with sanitizers,
# and run all tests.  Needs root on Debian 12; safe to run twice.
#
#	./tests/run.sh [STEP ...]	all steps by default; ./tests/run.sh list names them
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

packages=(
	gcc clang meson ninja-build pkg-config libfuse3-dev fuse3 libjansson-dev
	libcmocka-dev libclang-rt-14-dev clang-tidy cppcheck valgrind python3-docutils
	python3-pytest python3-pytest-xdist python3-hypothesis
	acl attr e2fsprogs fio file gdb procps psmisc qemu-utils rsync util-linux
	ceph-common ceph-mon ceph-osd librados-dev librbd-dev qemu-system-x86
)
# The glance store, and the Glance and the Keystone that it is tested on.
packages+=(libcurl4-openssl-dev libssl-dev openssl glance-api keystone python3-eventlet
	python3-oslo.concurrency)
# What tests/ops needs.
packages+=(libsystemd-dev man-db systemd)
# What tests/qemu needs for its guest, whose kernel it fetches itself.
packages+=(busybox-static kmod mtools syslinux syslinux-common)
packages+=(bash-completion debhelper debootstrap dpkg-dev libcurl4-openssl-dev libssl-dev lintian
	openssh-client openssh-server samba smbclient zsh zstd)

install() {
	local missing=() package
	for package in "${packages[@]}"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
			missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	export DEBIAN_FRONTEND=noninteractive
	# No service is started: tests start their own, on ports of their own.
	local policy=/usr/sbin/policy-rc.d made=
	[ -e $policy ] || { made=1 && command install -m 755 /dev/stdin $policy <<<$'#!/bin/sh\nexit 101'; }
	apt-get update -qq &&
		apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	local status=$?
	[ -z "$made" ] || rm -f $policy
	return $status
}

# build NAME COMPILER [MESON OPTION ...]
build() {
	local folder=build-test-$1 compiler=$2
	shift 2
	[ -f "$folder/build.ninja" ] ||
		CC=$compiler meson setup "$folder" -Dwerror=true "$@" >/dev/null || return 1
	ninja -C "$folder" --quiet
}

units() {
	meson test -C "build-test-$1" --print-errorlogs --no-rebuild --quiet \
		--timeout-multiplier 4
}

# Everything that runs or mounts something, on the build NAME.
pytests() {
	local build=build-test-$1
	shift
	local -x IMAGEFS_BUILD=$PWD/$build
	local command=(/usr/bin/python3 -m pytest -q --dist loadgroup
		-o cache_dir="$IMAGEFS_BUILD/pytest" "$@")
	"${command[@]}" -n 2 && return
	echo "-- what failed, once more, with nothing beside it"
	"${command[@]}" -n 0 --last-failed --last-failed-no-failures none
}

sources() {
	ls src/*.c src/stores/*.c
}

steps=(gcc clang address thread valgrind tidy check smoke mount stores mount_address
	mount_thread)
steps+=(ops)
steps+=(qemu)
steps+=(fuzz)
steps+=(soak)

step_gcc() { build gcc gcc && units gcc; }
step_clang() { build clang clang && units clang; }
step_address() { build address clang -Db_sanitize=address,undefined \
	-Db_lundef=false -Dbuildtype=debugoptimized && units address; }
step_thread() { build thread gcc -Db_sanitize=thread -Dbuildtype=debugoptimized &&
	units thread; }
# What is not freed the address sanitizer tells; and what a failing exec(2) does, which the
# warden's tests are about, valgrind does not show.
step_valgrind() {
	local tests
	mapfile -t tests < <(meson test -C build-test-gcc --no-rebuild --list --suite unit |
		sed 's/.*: *//' | grep -v warden)
	meson test -C build-test-gcc --no-rebuild --quiet --timeout-multiplier 30 --wrap \
		'valgrind --quiet --error-exitcode=1 --child-silent-after-fork=yes' \
		"${tests[@]}"
}
step_tidy() { sources | xargs -P 2 -n 4 clang-tidy -p build-test-clang --quiet 2>/dev/null; }
step_check() {
	# shellcheck disable=SC2046 # a list of words
	cppcheck --quiet --enable=warning,performance,portability --error-exitcode=1 \
		--std=c11 -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -I include --inline-suppr \
		--suppress=missingIncludeSystem --suppress=uninitvar --suppress=memleak \
		$(sources)
}
step_smoke() { tests/smoke.sh build-test-gcc; }
step_mount() { pytests gcc tests/mount; }
step_stores() { pytests gcc tests/stores; }
# With sanitizers all but what is read by tools: by then it has been read in every other way.
step_mount_address() { pytests address tests/mount --ignore=tests/mount/test_tools.py; }
step_mount_thread() { pytests thread tests/mount/test_{ahead,crowds,faults,limits}.py \
	tests/mount/test_{model,pass,reads,stress}.py; }
step_ops() { IMAGEFS_TEST_ALL=1 pytests gcc tests/ops; }
step_qemu() { pytests gcc tests/qemu; }
# Each fuzzer for 10 seconds, from the inputs beside it, with sanitizers.
step_fuzz() {
	local fuzzer found
	build clang clang || return 1
	for fuzzer in tests/fuzz/fuzz_*.c; do
		fuzzer=$(basename "$fuzzer" .c)
		found=build-test-clang/tests/fuzz/found-$fuzzer
		mkdir -p "$found" &&
			"build-test-clang/tests/fuzz/$fuzzer" -max_total_time=10 -max_len=20000 \
				-timeout=10 -verbosity=0 -print_final_stats=1 -close_fd_mask=2 \
				-artifact_prefix="$found/" \
				"$found" "tests/fuzz/${fuzzer#fuzz_}" || return 1
	done
}
step_soak() { IMAGEFS_BUILD=$PWD/build-test-gcc /usr/bin/python3 tests/soak.py --minutes 2; }

if [ "${1:-}" = list ]; then
	printf '%s\n' "${steps[@]}"
	exit 0
fi
install || { echo "the packages cannot be installed" >&2; exit 1; }
# Run one step, seen here and kept in @logs.  It may leave processes behind that hold on to
# its output, hence no pipe.
run() {
	: >"$logs/$1"
	timeout 1200 bash -c "$(declare -f); steps=(); step_$1" \
		</dev/null >"$logs/$1" 2>&1 &
	local pid=$! status
	tail -n +1 -s 0.2 -f --pid=$pid "$logs/$1" &
	wait $pid
	status=$?
	wait $!
	return $status
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=() times=()
for step in "${@:-${steps[@]}}"; do
	echo "== $step"
	begun=$SECONDS
	run "$step" || failed+=("$step")
	times+=("$step $((SECONDS - begun))")
	echo "== ${times[-1]} s"
done
(IFS=, && echo "seconds: ${times[*]}")
# The reasons come last: the end is what a CI keeps.
for step in "${failed[@]}"; do
	echo "FAILED: $step"
	grep -E '^(FAILED|ERROR) ' "$logs/$step" | sort -u | cut -c 1-200 | tail -n 4
done
[ ${#failed[@]} -eq 0 ] || exit 1
echo "all passed in $SECONDS s"
