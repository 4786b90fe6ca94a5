# SPDX-License-Identifier: MIT
"""Who waits for a store that hangs can be interrupted, and holds nobody else up."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import LIMIT, run, wait_until

MIB = 1 << 20
SIZE = 20 * MIB + 4321
PYTHON = "/usr/bin/python3"
FOR_EVER = "stall=3600"
PROMISED = 5  # seconds from Ctrl-C to the prompt: one is promised

BEGIN = """import mmap, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
path = sys.argv[1]
fd = os.open(path, os.O_RDONLY)
"""
PROGRAMS = {
    "cat": ["cat", "{}"],
    "cp": ["cp", "{}", "{}.copy"],
    "dd": ["dd", "if={}", "of=/dev/null", "bs=64k"],
    "direct dd": ["dd", "if={}", "of=/dev/null", "bs=1M", "iflag=direct"],
    "small direct dd": ["dd", "if={}", "of=/dev/null", "bs=512", "iflag=direct"],
    "sha256sum": ["sha256sum", "{}"],
    "tail": ["tail", "-c", "100", "{}"],
    "mmap": [PYTHON, "-IS", "-c", BEGIN + "m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)\n"
             "for offset in range(0, len(m), 4096): m[offset]", "{}"],
    "random": [PYTHON, "-IS", "-c", BEGIN + "os.pread(fd, 4096, 15000000)", "{}"],
    "random, no read-ahead": [PYTHON, "-IS", "-c", BEGIN + "os.posix_fadvise(fd, 0, 0, "
                              "os.POSIX_FADV_RANDOM)\nos.pread(fd, 4096, 15000000)", "{}"],
    "sendfile": [PYTHON, "-IS", "-c", BEGIN + "out = os.memfd_create('x')\n"
                 "while os.sendfile(out, fd, None, 1 << 20): pass", "{}"],
    "willneed": [PYTHON, "-IS", "-c", BEGIN + "os.posix_fadvise(fd, 0, 0, "
                 "os.POSIX_FADV_WILLNEED)\nos.pread(fd, 1 << 20, 0)", "{}"],
    "threads": [PYTHON, "-IS", "-c", BEGIN + "import threading\n"
                "read = lambda n: os.pread(fd, 100000, n * 1000000)\n"
                "for n in range(20): threading.Thread(target=read, args=(n,)).start()\n"
                "signal.pause()", "{}"],
}


def start(name, path, copy=None):
    words = [word.replace("{}.copy", str(copy)).replace("{}", str(path)) for word in PROGRAMS[name]]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def interrupt(process, number):
    """Send the signal, and see that the process ends of it in the time that is promised."""
    os.killpg(process.pid, number)
    try:
        process.wait(PROMISED)
    except subprocess.TimeoutExpired:
        pytest.fail("it does not end: %s" % open("/proc/%d/stack" % process.pid).read())
    assert process.returncode != 0


def waits(process, *functions):
    """Whether the process, or one of its threads, waits in the kernel for the file system, or
    in one of the functions."""
    for task in os.listdir("/proc/%d/task" % process.pid):
        try:
            stack = open("/proc/%d/task/%s/stack" % (process.pid, task)).read()
        except OSError:
            continue
        if any(word in stack for word in functions or ("fuse", "folio", "filemap")):
            return True
    return False


@pytest.fixture
def processes():
    """A list of processes that are killed at the end."""
    running = []
    yield running
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL],
                         ids=lambda number: number.name)
@pytest.mark.parametrize("where", ["begin", "at=0", "at=%d" % (5 * MIB), "at=end"])
@pytest.mark.parametrize("name", ["cat", "cp", "direct dd"])
def test_ctrl_c_ends_a_reader_of_a_store_that_hangs(
        fake, mounted, folder, processes, name, where, number):
    image = fake.image("a", SIZE)
    fake.fault(image, where.replace("begin", "at=begin") + " say=hangs hang=deaf")
    mount = mounted(fake.uri, FOR_EVER, noisy=True)
    processes.append(start(name, mount / "a", folder / "copy"))
    wait_until(lambda: fake.marked("hangs"), "the store hangs")
    wait_until(lambda: waits(processes[0]), "the reader waits")
    interrupt(processes[0], number)
    # What it waited for is given up as well.
    mount.unmount()
    mount.wait_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("options", [(), ("readahead=0",)], ids=["", "readahead=0"])
def test_ctrl_c_ends_readers_of_every_kind(fake, mounted, folder, processes, options, number):
    for n, name in enumerate(PROGRAMS):
        fake.fault(fake.image(name, SIZE), "at=begin say=hangs%d hang=deaf" % n)
    mount = mounted(fake.uri, FOR_EVER, *options, noisy=True)
    for n, name in enumerate(PROGRAMS):
        processes.append(start(name, mount / name, folder / ("copy%d" % n)))
    for n, process in enumerate(processes):
        wait_until(lambda: fake.marked("hangs%d" % n) and waits(process), "it waits")
    for name, process in zip(PROGRAMS, processes):
        # dd handles Ctrl-C, and who waits for the kernel's read-ahead can only be ended by a
        # signal that nobody handles, on any file system.
        interrupt(process, signal.SIGTERM if name == "dd" else number)
    # The kernel's read-ahead is not interrupted; it goes with the mount.
    mount.unmount()
    mount.wait_end()


def test_ctrl_c_ends_a_search_for_holes(fake, mounted, folder, processes):
    image = fake.image("a", SIZE, extents=[(0, MIB)], allocated=MIB)
    fake.fault("extents." + image.id, "say=hangs hang=deaf")
    mount = mounted(fake.uri, FOR_EVER, noisy=True)
    for number in (signal.SIGINT, signal.SIGKILL):
        processes.append(start("cp", mount / "a", folder / "copy"))
        wait_until(lambda: fake.marked("hangs") and waits(processes[-1]), "it waits")
        interrupt(processes[-1], number)
    mount.unmount()
    mount.wait_end()


def test_ctrl_c_ends_one_reader_and_not_the_others(fake, mounted, folder, processes):
    """Of one open file: the others still wait, and get what they wait for."""
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%d say=waits until=go" % (8 * MIB))
    mount = mounted(fake.uri, FOR_EVER, "readahead=0", noisy=True)
    fd = os.open(mount / "a", os.O_RDONLY | os.O_DIRECT)
    try:
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(os.pread, fd, MIB, 8 * MIB)
            wait_until(lambda: fake.marked("waits"), "one waits")
            child = subprocess.Popen(
                [PYTHON, "-IS", "-c", "import os\nos.pread(%d, 1000000, 8400000)" % fd],
                pass_fds=[fd], stdin=subprocess.DEVNULL, start_new_session=True)
            processes.append(child)
            wait_until(lambda: waits(child), "the other waits")
            interrupt(child, signal.SIGKILL)
            assert not job.done()
            fake.mark("go")
            assert job.result(LIMIT) == image.bytes(8 * MIB, MIB)
    finally:
        fake.mark("go")
        os.close(fd)


def test_a_reader_that_is_interrupted_can_go_on(fake, mounted, processes):
    """What was interrupted leaves nothing in the handle that spoils the next read."""
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%d say=waits until=go" % (3 * MIB))
    mount = mounted(fake.uri, FOR_EVER, noisy=True)
    for flags in (0, os.O_DIRECT):
        fd = os.open(mount / "a", os.O_RDONLY | flags)
        for number in range(5):
            child = subprocess.Popen(
                [PYTHON, "-IS", "-c",
                 "import os\nfor n in range(5): os.pread(%d, 1 << 20, n << 20)" % fd],
                pass_fds=[fd], stdin=subprocess.DEVNULL, start_new_session=True)
            processes.append(child)
            wait_until(lambda: fake.marked("waits") and waits(child), "it waits")
            interrupt(child, signal.SIGKILL)
        fake.mark("go")
        assert b"".join(os.pread(fd, MIB, n * MIB) for n in range(21)) == image.bytes(0, SIZE)
        os.close(fd)
        (fake.folder / "marks" / "go").unlink()
        (fake.folder / "marks" / "waits").unlink()


TIMER = """import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGALRM, lambda *args: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = ctypes.create_string_buffer(1 << 16)
libc.pread.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long]
libc.lseek.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]
for offset in range(0, 1 << 20, 1 << 16):
    if libc.pread(fd, buffer, 1 << 16, offset) != 1 << 16:
        sys.exit(os.strerror(ctypes.get_errno()))
if libc.lseek(fd, 0, os.SEEK_HOLE) < 0:
    sys.exit("lseek: " + os.strerror(ctypes.get_errno()))
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_a_signal_that_a_program_handles_does_not_fail_its_reads(fake, mounted):
    """As on any disk: with a handler that restarts calls, nobody expects EINTR of a file."""
    image = fake.image("a", SIZE)
    fake.fault(image, "drip=20000/30")
    fake.fault("extents." + image.id, "delay=100")
    mount = mounted(fake.uri, noisy=True)
    run(PYTHON, "-IS", "-c", TIMER, mount / "a")


# ---- nobody else is held up ----

OTHERS = ["cat", "direct dd", "mmap", "threads"]


@pytest.fixture
def hanging(fake, mounted, processes):
    """A mount where images hang that are being read in every way, and one does not."""
    images = [fake.image("hang%d" % n, SIZE, publish=False) for n in range(len(OTHERS))]
    for n, image in enumerate(images):
        where = "begin" if OTHERS[n] == "threads" else str(n * 2 * MIB)
        fake.fault(image, "at=%s say=hangs%d hang=deaf" % (where, n))
    fake.image("other", SIZE)
    mount = mounted(fake.uri, FOR_EVER, "ttl=0", noisy=True)
    for n, name in enumerate(OTHERS):
        processes.append(start(name, mount / ("hang%d" % n)))
    for n, process in enumerate(processes):
        wait_until(lambda: fake.marked("hangs%d" % n) and waits(process), "it hangs")
    return mount


def read_whole(path, image):
    with open(path, "rb", buffering=0) as file:
        offset = 0
        while offset < image.size:
            data = file.read(MIB)
            assert data == image.bytes(offset, MIB)
            offset += len(data)


def test_a_store_that_hangs_stops_no_ls_and_no_other_image(hanging, fake):
    other = fake.images["other", "id-other"]
    for _ in range(5):
        assert len(os.listdir(hanging.path)) == len(OTHERS) + 1
        assert os.stat(hanging / "hang0").st_size == SIZE
        assert os.getxattr(hanging / "hang0", "user.imagefs.id") == b"id-hang0"
        assert os.statvfs(hanging.path).f_files == len(OTHERS) + 1
        read_whole(hanging / "other", other)
    run("ls", "-l", hanging.path)
    run("df", hanging.path)


def test_a_store_that_hangs_stops_no_unmount(hanging):
    run("umount", "-l", hanging.path)
    hanging.expect("fuse: failed to unmount")  # libfuse does not know that it is unmounted
    hanging.signal(signal.SIGTERM)
    hanging.wait_end()


@pytest.mark.parametrize("name,immutable", [
    ("direct dd", False), ("cat", True), ("mmap", True),
    ("cat", False), ("mmap", False)])
def test_an_image_that_hangs_can_be_opened(fake, mounted, processes, name, immutable):
    image = fake.image("a", SIZE, immutable=immutable)
    fake.fault(image, "at=%d say=hangs hang=deaf" % (3 * MIB))
    mount = mounted(fake.uri, FOR_EVER, noisy=True)
    processes.append(start(name, mount / "a"))
    wait_until(lambda: fake.marked("hangs") and waits(processes[0]), "it hangs")
    opener = subprocess.Popen([PYTHON, "-IS", "-c", "import sys\nopen(sys.argv[1]).close()",
                               mount / "a"], stdin=subprocess.DEVNULL, start_new_session=True)
    processes.append(opener)
    try:
        assert opener.wait(PROMISED) == 0
    finally:
        mount.signal(signal.SIGTERM)  # lets go whoever it is that hangs
        mount.wait_end()


@pytest.mark.limit(300)
def test_many_images_that_hang_stop_nobody(fake, mounted, processes):
    count = 100
    for n in range(count):
        fake.fault(fake.image("hang%d" % n, SIZE, publish=False), "at=%d say=hangs%d hang" % (
            n % 7 * MIB, n))
    other = fake.image("other", SIZE)
    mount = mounted(fake.uri, FOR_EVER, "ttl=0", noisy=True)
    for n in range(count):
        processes.append(start(["cat", "mmap", "sha256sum", "cat"][n % 4], mount / ("hang%d" % n)))
    for n, process in enumerate(processes):
        wait_until(lambda: fake.marked("hangs%d" % n) and waits(process), "it hangs")
    assert len(os.listdir(mount.path)) == count + 1
    read_whole(mount / "other", other)
    for process in processes:
        os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    for process in processes:
        process.wait(LIMIT)
    assert time.monotonic() - begun < PROMISED


@pytest.mark.parametrize("count", [1000, pytest.param(6000, marks=pytest.mark.xfail(
    strict=True, reason="the kernel has so many requests in the background, and no more"))])
def test_reads_ahead_of_an_image_that_hangs_leave_room_for_others(fake, mounted, processes, count):
    """One program can have the kernel ask for much, of one image, and not wait for it."""
    fake.fault(fake.image("hangs", 1 << 40), "say=hangs hang")
    other = fake.image("other", SIZE)
    mount = mounted(fake.uri, FOR_EVER, noisy=True)
    greedy = subprocess.Popen(
        [PYTHON, "-IS", "-c", BEGIN +
         "for n in range(%d): os.posix_fadvise(fd, n << 26, 1 << 16, os.POSIX_FADV_WILLNEED)\n"
         "open(sys.argv[2], 'w')\n"
         "os.pread(fd, 1, 0)" % count, mount / "hangs", fake.folder / "marks" / "asked"],
        stdin=subprocess.DEVNULL, start_new_session=True)
    processes.append(greedy)
    wait_until(lambda: fake.marked("asked") or waits(greedy, "fuse_get_req"), "much is asked for")
    wait_until(lambda: fake.marked("hangs"), "it hangs")
    reader = subprocess.Popen(["cat", mount / "other"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, start_new_session=True)
    processes.append(reader)
    try:
        assert reader.communicate(timeout=10)[0] == other.bytes(0, SIZE)
        interrupt(greedy, signal.SIGINT)
    finally:
        mount.signal(signal.SIGTERM)  # lets go whoever it is that hangs
        mount.wait_end()
        reader.stdout.close()


def test_a_list_that_hangs_stops_no_reader_and_nobody_for_long(fake, mounted, processes):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri, FOR_EVER, "ttl=0", noisy=True)
    fake.fault("list", "say=hangs hang=deaf")
    with open(mount / "a", "rb", buffering=0) as file:
        wait_until(lambda: os.listdir(mount.path) == ["a"] and fake.marked("hangs"), "it hangs")
        for offset in range(0, SIZE, MIB):
            assert file.read(MIB) == image.bytes(offset, MIB)
        for _ in range(2):
            assert os.listdir(mount.path) == ["a"]
            assert not os.path.exists(mount / "nothing")
            read_whole(mount / "a", image)
    for words in (["ls", "-l", mount.path], ["stat", mount / "b"], ["cat", mount / "b"]):
        processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL, start_new_session=True))
    for process in processes:
        process.wait(LIMIT)


def test_ls_that_waits_for_the_store_can_be_interrupted(fake, mounted, processes):
    fake.image("a", SIZE)
    mount = mounted(fake.uri, FOR_EVER, "ttl=0", noisy=True)
    fake.fault("list", "say=hangs hang=deaf")
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(["ls", mount.path], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda: fake.marked("hangs"), "it hangs")
        os.killpg(process.pid, number)
        process.wait(PROMISED)
