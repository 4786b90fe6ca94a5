# SPDX-License-Identifier: MIT
"""The daemon's own limits, and a log that cannot be written: an error that says why, and all
goes on when there is room again."""

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from faults_manual import check_row
from harness import (BUILD, LIMIT, SANITIZER, command_of, descendants, mounts_below, run,
                     wait_until)

MIB = 1 << 20
SIZE = 20 * MIB
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def read_all(path, image):
    with open(path, "rb", buffering=0) as file:
        for offset in range(0, image.size, MIB):
            data = os.pread(file.fileno(), MIB, offset)
            assert data == image.bytes(offset, MIB)


def error_of(path):
    return os.getxattr(path, "user.imagefs.error").decode()


def limit(pid, what, value):
    """Lower the limit of a process that runs; what to put back."""
    was = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (value, was[1]))
    return was


def fails(path, offset=0):
    """The errno with which the image cannot be read, or 0."""
    try:
        with open(path, "rb", buffering=0) as file:
            os.pread(file.fileno(), 1000, offset)
    except OSError as error:
        return error.errno
    return 0


def test_without_descriptors_a_read_fails_and_says_so_and_others_go_on(fake, mounted):
    image, other = fake.image("a", SIZE), fake.image("other", SIZE)
    # What was read ahead is given up by some kernels (DAMON) before it is read, 3 s later.
    mount = mounted(fake.uri, "ttl=3600", "readahead=0", noisy=True)
    assert sorted(os.listdir(mount.path)) == ["a", "other"]
    with open(mount / "other", "rb", buffering=0) as file, \
            open(mount / "a", "rb", buffering=0) as failing:
        assert file.read(MIB) == other.bytes(0, MIB)
        was = limit(mount.pid, resource.RLIMIT_NOFILE, mount.descriptors() + 1)
        with pytest.raises(OSError) as caught:
            os.pread(failing.fileno(), 1000, 5 * MIB)
        assert caught.value.errno == errno.EIO
        assert "Too many open files" in error_of(mount / "a")
        offset = MIB
        while True:
            data = file.read(MIB)
            if not data:
                break
            assert data == other.bytes(offset, len(data))
            offset += len(data)
        assert offset == SIZE
        resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, was)
        assert os.pread(failing.fileno(), 1000, 5 * MIB) == image.bytes(5 * MIB, 1000)
    read_all(mount / "a", image)
    check_row("No descriptors are left to read", "EIO", mount.log())


def test_without_descriptors_a_list_fails_and_says_so(fake, mounted):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri, "ttl=0", noisy=True)
    was = limit(mount.pid, resource.RLIMIT_NOFILE, mount.descriptors())
    with pytest.raises(OSError) as caught:
        os.listdir(mount.path)
    assert caught.value.errno == errno.EIO
    mount.wait_log("list failed: Too many open files")
    resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, was)
    assert os.listdir(mount.path) == ["a"]
    read_all(mount / "a", image)


@pytest.mark.skipif(bool(SANITIZER), reason="a sanitizer takes all addresses there are")
def test_without_memory_a_read_fails_and_says_so(fake, mounted):
    image, other = fake.image("a", SIZE), fake.image("other", SIZE)
    mount = mounted(fake.uri, "ttl=3600", "ring=256M", "memory=1G", noisy=True)
    assert sorted(os.listdir(mount.path)) == ["a", "other"]
    read_all(mount / "other", other)
    used = int(re.search(r"VmSize:\s+(\d+) kB",
                         Path("/proc/%d/status" % mount.pid).read_text())[1]) * 1024
    with open(mount / "a", "rb", buffering=0) as file:
        was = limit(mount.pid, resource.RLIMIT_AS, used)
        try:
            assert os.pread(file.fileno(), 1000, 0) == image.bytes(0, 1000)
        except OSError as error:
            assert error.errno in (errno.EIO, errno.ENOMEM)
            assert re.search("Cannot allocate memory|Resource temporarily unavailable",
                             error_of(mount / "a"))
        assert len(os.listdir(mount.path)) == 2
        resource.prlimit(mount.pid, resource.RLIMIT_AS, was)
        assert os.pread(file.fileno(), 1000, 0) == image.bytes(0, 1000)
    read_all(mount / "a", image)


@pytest.fixture
def theirs(fake, folder):
    """theirs(OPTION...): a mount of somebody who is nobody, its daemon and its warden."""
    if os.geteuid() or not shutil.which("fusermount3") or not shutil.which("setpriv"):
        pytest.skip("this needs root, fusermount3 and setpriv")
    programs = folder / "programs"
    programs.mkdir()
    shutil.copy(BUILD / "imagefs", programs)
    shutil.copy(BUILD / "tests/mount/imagefs-store-fake", programs)
    where = folder / "mnt"
    where.mkdir()
    os.chown(where, 65534, 65534)

    def mount(*options):
        for path in [fake.folder, *fake.folder.rglob("*")]:
            os.chown(path, 65534, 65534)
        run(*NOBODY, programs / "imagefs", "-o", ",".join(["store_path=%s" % programs, *options]),
            fake.uri, where)
        found = {Path("/proc/%d/comm" % pid).read_text().strip(): pid
                 for pid in descendants(os.getpid()) if str(where) in command_of(pid)}
        return where, found["imagefs"], found["imagefs-warden"]

    try:
        yield mount
        run("umount", where)
        wait_until(lambda: not mounts_below(where), "it is unmounted")
    finally:
        for _ in mounts_below(where):
            run("umount", "-l", where)


def their_read(path, check=True):
    return subprocess.run([*NOBODY, "head", "-c", "100000", path], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT,
                          check=check)


def their_limit(pid, value):
    """How many processes and threads the user of a process may have; what it was."""
    text = Path("/proc/%d/limits" % pid).read_text()
    was = re.search(r"Max processes +(\w+)", text)[1]
    run(*NOBODY, "prlimit", "--pid", str(pid), "--nproc=%s:" % value)
    return was


def their_error(path):
    return run(*NOBODY, "getfattr", "--absolute-names", "-n", "user.imagefs.error",
               "--only-values", path).stdout


def test_without_processes_a_read_fails_and_says_so(fake, theirs):
    image = fake.image("a", SIZE)
    where, _, warden = theirs("ttl=3600")
    assert their_read(where / "a").stdout == image.bytes(0, 100000)
    was = their_limit(warden, 0)
    done = their_read(where / "a", check=False)
    assert done.returncode and b"Input/output error" in done.stderr
    assert ("the store program cannot be started: Resource temporarily unavailable"
            in their_error(where / "a"))
    check_row("No processes are left", "EIO", "imagefs: a: " + their_error(where / "a"))
    their_limit(warden, was)
    assert their_read(where / "a").stdout == image.bytes(0, 100000)


@pytest.mark.skipif(SANITIZER == "thread", reason="it ends when there is no thread")
def test_without_threads_a_read_fails_and_says_so(fake, theirs):
    image = fake.image("a", SIZE)
    where, daemon, _ = theirs("ttl=3600")
    assert run(*NOBODY, "ls", where).stdout == "a\n"
    was = their_limit(daemon, 0)
    done = their_read(where / "a", check=False)
    assert done.returncode and b"Input/output error" in done.stderr
    assert "Resource temporarily unavailable" in their_error(where / "a")
    check_row("No memory, or no threads are left", "EIO",
              "imagefs: a: " + their_error(where / "a"))
    their_limit(daemon, was)
    assert their_read(where / "a").stdout == image.bytes(0, 100000)


# ---- a log that takes nothing ----

LOGS = {"full": "2>/dev/full", "closed": "2>&-"}


def fail_and_recover(fake, mount, image):
    """Faults that are logged, more than any pipe holds, and then none."""
    fake.fault(image, "stderr=%s exit=77" % ("x" * 400))
    end = time.monotonic() + LIMIT
    for _ in range(30):
        assert fails(mount / "a") == errno.EACCES
        assert time.monotonic() < end
    fake.fault(image)
    read_all(mount / "a", image)


@pytest.mark.parametrize("where", LOGS)
def test_a_log_that_cannot_be_written_is_no_obstacle(fake, mounted, where):
    image = fake.image("a", MIB)
    mount = mounted(fake.uri, wrapper=("sh", "-c", 'exec "$@" ' + LOGS[where], "sh"))
    fail_and_recover(fake, mount, image)
    assert "status 77" in error_of(mount / "a")
    assert "status 77" in (mount / ".imagefs/log").read_text()


def test_a_log_that_nobody_reads_is_no_obstacle(fake, mounted, folder):
    """A pipe that is full: neither reads, nor listings, nor the end wait for it."""
    image, other = fake.image("a", MIB), fake.image("other", MIB)
    os.mkfifo(folder / "log")
    reader = os.open(folder / "log", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        mount = mounted(fake.uri, "ttl=0", wrapper=(
            "sh", "-c", 'exec "$@" 2>%s/log' % folder, "sh"))
        fail_and_recover(fake, mount, image)
        fake.fault("list", "exit=69")
        wait_until(lambda: fails(mount / "nothing") == errno.EIO, "ls fails")
        fake.fault("list")
        wait_until(lambda: len(os.listdir(mount.path)) == 2, "ls works again")
        read_all(mount / "other", other)
        assert "the store is listed again" in (mount / ".imagefs/log").read_text()
        os.read(reader, 65536)
        fake.fault(image, "exit=77")
        assert fails(mount / "a") == errno.EACCES
        check_row("The log cannot be written", "nothing", os.read(reader, 65536).decode())
        mount.end()
    finally:
        os.close(reader)


def test_a_log_whose_reader_is_gone_is_no_obstacle(fake, mounted, folder):
    image = fake.image("a", MIB)
    os.mkfifo(folder / "log")
    reader = os.open(folder / "log", os.O_RDONLY | os.O_NONBLOCK)
    mount = mounted(fake.uri, wrapper=("sh", "-c", 'exec "$@" 2>%s/log' % folder, "sh"))
    os.close(reader)
    fail_and_recover(fake, mount, image)


# ---- a store that is away ----

@pytest.mark.parametrize("how", ["stderr=nobody%20there exit=69", "hang=deaf"])
def test_a_store_that_is_away_and_comes_back_needs_no_new_mount(fake, mounted, how):
    """Whoever reads is told so, and reads on with the same file."""
    image, random = fake.image("a", SIZE), fake.image("random", SIZE)
    idle = fake.image("idle", SIZE)
    for one in (image, random):
        fake.fault(one, "drip=20000/10")
    mount = mounted(fake.uri, "stall=1", "ttl=0", noisy=True)
    files = [open(mount / one.name, "rb", buffering=0) for one in (image, random, idle)]
    try:
        assert files[0].read(MIB) == image.bytes(0, MIB)
        assert os.pread(files[1].fileno(), 512, 9 * MIB) == random.bytes(9 * MIB, 512)
        for what in (image, random, idle, "list"):
            fake.fault(what, how)
        for pid in mount.store_processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for file, offset in zip(files, (10 * MIB, 12 * MIB, 3 * MIB)):
            with pytest.raises(OSError) as caught:
                os.pread(file.fileno(), 1000, offset)
            assert caught.value.errno == errno.EIO
            assert re.search("nobody there|stall limit", error_of(mount / os.path.basename(file.name)))
        if "exit" in how:
            wait_until(lambda: fails(mount / "no such") == errno.EIO, "the listing fails")
        mount.wait_log("list failed: nobody there|list gave nothing for 1 s")
        for what in (image, random, idle, "list"):
            fake.fault(what)
        for file, one in zip(files, (image, random, idle)):
            for offset in (10 * MIB, 12 * MIB, 3 * MIB):
                wait_until(lambda: read_at(file, one, offset), "it is read on")
        wait_until(lambda: fails(mount / "no such") == errno.ENOENT, "the listing works")
        mount.wait_log("the store is listed again")
        read_all(mount / "a", image)
    finally:
        for file in files:
            file.close()


def read_at(file, image, offset):
    """What has just come upon the stall limit is refused for a second."""
    try:
        return os.pread(file.fileno(), 1000, offset) == image.bytes(offset, 1000)
    except OSError as error:
        assert error.errno == errno.EIO
        return False


def test_sizes_that_have_no_sum_are_shown(fake, mounted):
    for number in range(5):
        fake.image("a%d" % number, 2**63 - 1, publish=False, allocated=2**63 - 1)
    fake.publish()
    mount = mounted(fake.uri)
    assert os.statvfs(mount.path).f_blocks >= 5 * ((2**63 - 1) // 512)
    assert run("ls", "-ls", mount.path).stdout.count("9223372036854775807") == 5
    assert len(run("df", mount.path).stdout.splitlines()) == 2


# ---- the kernel's limit ----

SETTING = Path("/proc/sys/fs/fuse/max_request_timeout")


@pytest.fixture
def kernel_limit():
    """kernel_limit(SECONDS, FUNCTION): what FUNCTION mounts has the kernel's limit."""
    if not SETTING.exists() or not os.access(SETTING, os.W_OK):
        pytest.skip("the kernel has no fs.fuse.max_request_timeout, or it cannot be set")

    def with_limit(seconds, function):
        # It is the whole machine's: one at a time.
        with open("/tmp/imagefs-test-kernel-limit", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            was = SETTING.read_text()
            SETTING.write_text("%d\n" % seconds)
            try:
                return function()
            finally:
                SETTING.write_text(was)

    return with_limit


def test_a_store_that_is_slower_than_the_kernel_waits_does_not_lose_the_mount(
        fake, mounted, kernel_limit):
    """One that drips never comes upon the stall limit, and one that hangs comes upon it early.
    The kernel aborts a mount where a request is older than that, but 15 s at the least."""
    drips, hangs, other = (fake.image(name, SIZE) for name in ("drips", "hangs", "other"))
    fake.fault(drips, "drip=100/100")
    fake.fault(hangs, "at=%d hang" % MIB)
    fake.fault("extents." + hangs.id, "hang")
    mount = kernel_limit(6, lambda: mounted(fake.uri, "stall=600", noisy=True))
    errors = {}

    def read(image):
        errors[image.name] = 0
        fd = os.open(mount / image.name, os.O_RDONLY | os.O_DIRECT)
        try:
            os.pread(fd, MIB, MIB)
        except OSError as error:
            errors[image.name] = error.errno
        os.close(fd)

    threads = [threading.Thread(target=read, args=(image,)) for image in (drips, hangs)]
    for thread in threads:
        thread.start()
    with open(mount / "hangs", "rb") as file, pytest.raises(OSError) as caught:
        os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    assert caught.value.errno == errno.EIO
    for thread in threads:
        thread.join(LIMIT)
    assert errors == {"drips": errno.EIO, "hangs": errno.EIO}
    mount.wait_log("drips: the store is too slow")
    check_row("The store drips", "EIO", mount.log())
    assert "too slow for the kernel's limit" in error_of(mount / "drips")
    assert re.search("hangs: the store gave nothing until the stall limit", mount.log())
    read_all(mount / "other", other)


def test_ctrl_c_is_heard_where_the_kernel_has_a_limit(fake, mounted, kernel_limit):
    image = fake.image("a", SIZE)
    fake.fault(image, "say=asked hang")
    mount = kernel_limit(600, lambda: mounted(fake.uri, noisy=True))
    cat = subprocess.Popen(["cat", mount / "a"], stdout=subprocess.DEVNULL)
    wait_until(lambda: fake.marked("asked"), "the store hangs")
    cat.send_signal(signal.SIGINT)
    assert cat.wait(LIMIT) == -signal.SIGINT


def test_a_reply_under_way_is_given_up_at_the_kernels_limit(fake, mounted, kernel_limit):
    """One that goes past the ring, up to the end of the data of a thin image."""
    end = 19 * MIB + 700000
    image = fake.image("a", 64 * MIB, extents=[(0, end), (40 * MIB, MIB)], allocated=end + MIB)
    other = fake.image("b", SIZE)
    fake.fault(image, "at=%d drip=10000/50" % (19 * MIB))
    mount = kernel_limit(6, lambda: mounted(fake.uri, "stall=600", noisy=True))
    with open(mount / "a", "rb", buffering=0) as file:
        os.lseek(file.fileno(), 0, os.SEEK_HOLE)  # has the holes be known
        reader = subprocess.Popen(["cat", mount / "a"], stdout=subprocess.DEVNULL)
        mount.wait_log("too slow for the kernel's limit")
        time.sleep(3)  # meanwhile the program comes to the end of the data
        assert (mount / "b").read_bytes() == other.bytes(0, SIZE)
        reader.kill()
        fake.fault(image)
        for pid in mount.store_processes():
            os.kill(pid, signal.SIGKILL)
        reader.wait(LIMIT)
        assert os.pread(file.fileno(), MIB, 40 * MIB) == image.bytes(40 * MIB, MIB)
