# SPDX-License-Identifier: MIT
"""However the daemon ends, and however it fails to begin, nothing of it is left."""

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import (BUILD, IMAGEFS, LIMIT, STORE_PATH, command_of, descendants, mounts_below, run,
                     wait_until)

MIB = 1 << 20
SIZE = 20 * MIB + 4321
PYTHON = "/usr/bin/python3"
FOR_EVER = "stall=600"

MAP = """import mmap, os, sys
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for offset in range(0, len(memory), 65536):
    os.write(1, memory[offset : offset + 65536])
"""
SEEK = """import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.lseek(fd, 0, os.SEEK_HOLE)
"""


class Readers:
    """Programs that read images of a mount, each in its way."""

    def __init__(self, fake, mount):
        self.fake = fake
        self.mount = mount
        self.running = []  # (process, where its output goes, whose bytes that should be)

    def start(self, *command, copies=None):
        output = self.fake.folder / ("output-%d" % len(self.running))
        with open(output, "wb") as file:
            self.running.append((subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.DEVNULL), output, copies))

    def cat(self, name):
        self.start("cat", self.mount / name, copies=name)

    def direct(self, name):
        self.start("dd", "if=%s" % (self.mount / name), "bs=1M", "iflag=direct", "status=none",
                   copies=name)

    def map(self, name):
        self.start(PYTHON, "-IS", "-c", MAP, self.mount / name, copies=name)

    def seek(self, name):
        self.start(PYTHON, "-IS", "-c", SEEK, self.mount / name)

    def are_running(self):
        return all(process.poll() is None for process, _, _ in self.running)

    def wait(self):
        """Their exit statuses: none hangs, and none is 0 if there is not all of the image."""
        statuses = [process.wait(LIMIT) for process, _, _ in self.running]
        for process, output, name in self.running:
            if process.returncode == 0 and name:
                image = self.fake.images[name, "id-" + name]
                assert output.read_bytes() == image.bytes(0, image.size), "a cut copy of " + name
        self.running = []
        return statuses

    def kill(self):
        for process, _, _ in self.running:
            process.kill()
        for process, _, _ in self.running:
            process.wait(LIMIT)
        self.running = []


@pytest.fixture
def readers(fake):
    made = []

    def make(mount):
        made.append(Readers(fake, mount))
        return made[-1]

    yield make
    for one in made:
        one.kill()


# What goes on when the end comes.  Each starts it and returns the readers that must fail.
# Each reader has an image of its own: see test_interrupts.py about opening one that hangs.

def nothing(fake, mount, readers):
    return 0


def read_once(fake, mount, readers):
    """Its reader and its ring are still there, though nobody has it open."""
    readers.cat("whole")
    assert readers.wait() == [0]
    return 0


def open_and_idle(fake, mount, readers):
    readers.start(PYTHON, "-IS", "-c", "import os, sys, time\n"
                  "file = open(sys.argv[1], 'rb')\n"
                  "file.read(5000000)\n"
                  "open(sys.argv[2], 'w')\n"
                  "os.read(0, 1)\n"  # /dev/null: at once
                  "while True:\n time.sleep(0.1)\n os.pread(file.fileno(), 1, 20000000)",
                  mount / "whole", fake.folder / "marks" / "idle")
    wait_until(lambda: fake.marked("idle"), "it has been read")
    return 1


def start_readers(fake, mount, readers, fault):
    """Three in different ways, with a fault each; a {} in it is a mark that they make."""
    for number, start in enumerate([readers.cat, readers.direct, readers.map]):
        name = "image%d" % number
        fake.fault(fake.images[name, "id-" + name], fault.format(name))
        start(name)
    for number in range(3):
        wait_until(lambda: fake.marked("image%d" % number), "it is read")
    return 3


def slow_reads(fake, mount, readers):
    """They wait until the test says "go"."""
    return start_readers(fake, mount, readers, "at=%d say={} until=go" % (5 * MIB))


def hanging_reads(fake, mount, readers):
    return start_readers(fake, mount, readers, "at=%d say={} hang" % (5 * MIB))


def deaf_readers(fake, mount, readers):
    return start_readers(fake, mount, readers, "at=0 grandchild=deaf say={} hang=deaf")


def hanging_at_the_end(fake, mount, readers):
    return start_readers(fake, mount, readers, "at=end say={} hang=deaf")


def hanging_seek(fake, mount, readers):
    fake.fault("extents.id-whole", "say=seek hang=deaf")
    readers.seek("whole")
    wait_until(lambda: fake.marked("seek"), "the extents hang")
    return 1


def hanging_list(fake, mount, readers):
    fake.fault("list", "say=list hang=deaf")
    wait_until(lambda: os.listdir(mount.path) and fake.marked("list"), "the list hangs")
    return 0


def failing_reads(fake, mount, readers):
    """They are between two tries, or in one."""
    failing = start_readers(fake, mount, readers, "say={} exit=74")
    wait_until(lambda: len(fake.calls("read")) > 3, "they are tried again")
    return failing


def stopped_programs(fake, mount, readers):
    slow_reads(fake, mount, readers)
    for pid in mount.store_processes():
        os.kill(pid, signal.SIGSTOP)
    return 3


STATES = [nothing, read_once, open_and_idle, slow_reads, hanging_reads, deaf_readers, hanging_at_the_end,
          hanging_seek, hanging_list, failing_reads, stopped_programs]
IN_USE = [state for state in STATES if state not in (nothing, read_once, hanging_list)]


@pytest.fixture
def busy(fake, mounted, readers):
    """busy(STATE, OPTION...): a mount where that goes on, its readers and how many must fail."""
    for name in ("whole", "image0", "image1", "image2"):
        fake.image(name, SIZE, extents=[(0, SIZE)] if name == "whole" else None, publish=False)
    fake.publish()

    def make(state, *options, **keys):
        mount = mounted(fake.uri, "ttl=0", *(options or [FOR_EVER]), noisy=True, **keys)
        there = readers(mount)
        return mount, there, state(fake, mount, there)

    return make


def check_gone(mount, readers, failing):
    """No reader ended well that did not get all, and no process is left."""
    statuses = readers.wait()
    assert len(statuses) == failing and 0 not in statuses
    wait_until(lambda: not mounts_below(mount.path), "the mount is gone")
    assert os.listdir(mount.path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
                         ids=lambda number: number.name)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_signal_ends_it(busy, state, number):
    mount, readers, failing = busy(state)
    mount.signal(number)
    mount.wait_end()
    check_gone(mount, readers, failing)


@pytest.mark.parametrize("state", [nothing, hanging_reads], ids=lambda state: state.__name__)
def test_a_signal_ends_it_in_the_background(busy, state):
    mount, readers, failing = busy(state, background=True)
    mount.signal(signal.SIGTERM)
    mount.wait_end()
    check_gone(mount, readers, failing)


def test_many_signals_at_once_are_one(busy):
    mount, readers, failing = busy(slow_reads)
    for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1] * 20:
        try:
            mount.signal(number)
        except ProcessLookupError:
            break
    mount.wait_end()
    check_gone(mount, readers, failing)


@pytest.mark.parametrize("state", [nothing, read_once, hanging_list],
                         ids=lambda state: state.__name__)
@pytest.mark.parametrize("how", ["umount", "umount -l", "fusermount3 -u", "fusermount3 -u -z"])
def test_unmounting_ends_it(busy, state, how):
    mount, readers, failing = busy(state)
    run(*how.split(), mount.path)
    mount.wait_end()
    check_gone(mount, readers, failing)


@pytest.mark.parametrize("how", ["umount", "fusermount3 -u"])
@pytest.mark.parametrize("state", IN_USE, ids=lambda state: state.__name__)
def test_what_is_in_use_is_not_unmounted(busy, state, how):
    """It says so, goes on as before, and can be unmounted when it is no longer in use."""
    mount, readers, failing = busy(state)
    done = run(*how.split(), mount.path, check=False)
    assert done.returncode and "busy" in done.stderr
    assert len(os.listdir(mount.path)) == 4
    assert len(readers.running) == failing and readers.are_running()
    readers.kill()
    wait_until(lambda: not run(*how.split(), mount.path, check=False).returncode, "it is unmounted")
    mount.wait_end()


@pytest.mark.parametrize("how", ["umount -l", "fusermount3 -u -z"])
@pytest.mark.parametrize("state", [
    slow_reads, hanging_reads, deaf_readers, hanging_seek, hanging_at_the_end],
                         ids=lambda state: state.__name__)
def test_a_lazy_unmount_lets_readers_come_to_their_end(busy, fake, state, how):
    """They get all, or the error that they would have got; the daemon ends after the last."""
    mount, readers, failing = busy(state, FOR_EVER if state is slow_reads else "stall=1")
    run(*how.split(), mount.path)
    assert not mounts_below(mount.path)
    fake.mark("go")
    statuses = readers.wait()
    assert len(statuses) == failing
    assert sum(statuses) == 0 if state is slow_reads else 0 not in statuses
    mount.wait_end()
    assert os.listdir(mount.path) == []


def test_a_mount_that_has_taken_its_place_is_left_alone(busy, images):
    """After a lazy unmount the daemon goes on for who has files open, and then ends."""
    mount, readers, failing = busy(slow_reads)
    run("umount", "-l", mount.path)
    (images / "new").write_text("new")
    run(IMAGEFS, "-o", "store_path=" + STORE_PATH, images, mount.path)
    os.listdir(mount.path)
    mount.signal(signal.SIGTERM)
    wait_until(lambda: mount.poll() is not None, "the old one has ended")
    readers.wait()
    left = mounts_below(mount.path)
    for _ in left:
        run("umount", mount.path)
    mount.wait_end()
    assert left


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_when_the_daemon_is_killed_nothing_is_left(busy, state):
    mount, readers, failing = busy(state)
    mount.signal(signal.SIGKILL)
    mount.wait_end(-signal.SIGKILL)
    check_gone(mount, readers, failing)
    # The mount point can be used at once.
    run(IMAGEFS, "-o", "store_path=" + STORE_PATH, "dir://%s" % mount.folder, mount.path)
    assert mounts_below(mount.path)
    run("umount", mount.path)


def test_when_the_daemon_is_killed_the_folder_that_somebody_is_in_is_no_obstacle(busy):
    mount, _, _ = busy(nothing)
    with subprocess.Popen(["sleep", "600"], cwd=mount.path) as there:
        mount.signal(signal.SIGKILL)
        mount.wait_end(-signal.SIGKILL)
        there.kill()


def warden_of(mount):
    found = [pid for pid in mount.children()
             if Path("/proc/%d/comm" % pid).read_text() == "imagefs-warden\n"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("state", [nothing, hanging_reads, hanging_seek],
                         ids=lambda state: state.__name__)
def test_when_the_warden_is_killed_nobody_hangs(busy, fake, state):
    """Nothing can be read any more, which everybody is told; but it can be unmounted."""
    mount, readers, failing = busy(state)
    os.kill(warden_of(mount), signal.SIGKILL)
    statuses = readers.wait()
    assert len(statuses) == failing and 0 not in statuses
    wait_until(lambda: not mount.store_processes(), "the store programs are gone")
    if state is nothing:
        with pytest.raises(OSError) as caught:
            (mount / "whole").read_bytes()
        assert caught.value.errno == errno.EIO
    with pytest.raises(OSError) as caught:
        os.listdir(mount.path)
    assert caught.value.errno == errno.EIO
    mount.wait_log("imagefs: .*(warden|lost|Connection reset)")
    mount.unmount()
    mount.wait_end()


def test_when_both_are_killed_the_next_start_says_what_to_do(busy):
    mount, readers, failing = busy(hanging_at_the_end)
    os.kill(warden_of(mount), signal.SIGKILL)
    mount.signal(signal.SIGKILL)
    wait_until(lambda: mount.poll() is not None, "the daemon is dead")
    assert 0 not in readers.wait()
    assert mounts_below(mount.path)
    done = run(IMAGEFS, "-o", "store_path=" + STORE_PATH, mount.folder, mount.path, check=False)
    for _ in mounts_below(mount.path):
        run("umount", "-l", mount.path)
    mount.wait_end(-signal.SIGKILL)
    assert done.returncode and done.stderr.count("\n") == 1 and "umount -l" in done.stderr
    run(IMAGEFS, "-o", "store_path=" + STORE_PATH, mount.folder, mount.path)
    run("umount", mount.path)


@pytest.mark.xfail(strict=True, reason="only the warden knows the process groups")
def test_when_the_warden_is_killed_no_grandchild_is_left(fake, mounted):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%d grandchild=deaf say=hangs hang=deaf" % MIB)
    mount = mounted(fake.uri, "stall=1", noisy=True)
    with open(mount / "a", "rb", buffering=0) as file:
        file.read(1)
        wait_until(lambda: fake.marked("hangs"), "the grandchild is there")
        os.kill(warden_of(mount), signal.SIGKILL)
        with pytest.raises(OSError):
            file.read()
    mount.unmount()
    mount.wait_end()
    left = [pid for pid in descendants(os.getpid()) if fake.uri in command_of(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT],
                         ids=lambda number: number.name)
def test_when_store_programs_are_killed_nobody_notices(fake, mounted, readers, number):
    image = fake.image("a", SIZE)
    places = [0, 1, 3 * MIB, 7 * MIB + 1, SIZE - 1]
    fake.fault(image, *("at=%d times=1 say=at-%d hang" % (place, place) for place in places))
    mount = mounted(fake.uri, FOR_EVER, noisy=True)
    there = readers(mount)
    there.direct("a")
    for place in places:
        wait_until(lambda: fake.marked("at-%d" % place), "it has come to byte %d" % place)
        programs = mount.store_processes()
        assert len(programs) == 1
        os.kill(programs[0], number)
    assert there.wait() == [0]


def test_when_an_idle_store_program_is_killed_it_is_as_if_it_were_not(busy, fake):
    mount, readers, _ = busy(nothing)
    image = fake.images["whole", "id-whole"]
    with open(mount / "whole", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), MIB, 0) == image.bytes(0, MIB)
        for pid in mount.store_processes():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not mount.store_processes(), "they are gone")
        assert os.pread(file.fileno(), MIB, 10 * MIB) == image.bytes(10 * MIB, MIB)
        rest = b""
        while len(rest) < SIZE:
            rest += os.pread(file.fileno(), MIB, len(rest))
        assert rest == image.bytes(0, SIZE)


# ---- beginnings that fail ----

def dead_mount(folder):
    """A mount whose daemon is gone, with nobody to take it away."""
    path = folder / "mnt"
    fd = os.open("/dev/fuse", os.O_RDWR)
    run("mount", "-i", "-t", "fuse", "-o", "fd=%d,rootmode=40000,user_id=0,group_id=0" % fd,
        "dead", path, pass_fds=[fd])
    os.close(fd)


def no_folder(folder):
    (folder / "mnt").rmdir()


def a_file(folder):
    (folder / "mnt").rmdir()
    (folder / "mnt").write_text("")


def hanging_store(folder):
    fake_store(folder).fault("list", "hang=deaf")


def failing_store(folder):
    fake_store(folder).fault("list", "stderr=nobody%20is%20at%20home exit=69")


def cut_list(folder):
    fake_store(folder).write("images.jsonl", '{"name": "a", "id": "a", "size": 1}\n{"name')


def fake_store(folder):
    from fakestore import FakeStore
    return FakeStore(folder / "store")


FAKE = "fake://{folder}/store"
STARTS = {
    # what: (what makes it so, options, store, what the line says): a store that cannot be used
    "no store folder": (None, "", "{folder}/none", "none.*No such file"),
    "the store is a file": (None, "", "/etc/passwd", "/etc/passwd.*not a folder"),
    "unknown scheme": (None, "", "nosuch://host/", "nosuch.*there are: dir, dog"),
    "no program at all": (None, "store_path=/nowhere", "fake:///x", "imagefs-store-fake"),
    "an empty store": (None, "", "", ""),
    "store not there": (None, "", "dir:///no/such/folder", "No such file"),
    "store that fails": (failing_store, "", FAKE, "nobody is at home"),
    "store that hangs": (hanging_store, "stall=1", FAKE, "gave nothing"),
    "list that is cut": (cut_list, "", FAKE, "middle of a line"),
}
WRONG = {
    # The same, of what the command line says.
    "no mount point": (no_folder, "", "{folder}", "mnt.*No such file"),
    "mount point is a file": (a_file, "", "{folder}", "mnt.*Not a directory"),
    "mount point is dead": (dead_mount, "", "{folder}", "mnt.*umount -l"),
    "no such option": (None, "nosuch", "{folder}", "nosuch"),
    "no value": (None, "stall", "{folder}", "stall.*value"),
    "empty value": (None, "stall=", "{folder}", "stall.*value"),
    "no number": (None, "stall=x", "{folder}", "stall=x"),
    "negative": (None, "stall=-1", "{folder}", "stall=-1"),
    "zero": (None, "stall=0", "{folder}", "stall=0"),
    "too large": (None, "stall=99999999999999999999", "{folder}", "stall="),
    "too small": (None, "ring=4K", "{folder}", "ring=4K"),
    "no size": (None, "memory=1Q", "{folder}", "memory=1Q"),
    "no mode": (None, "mode=0999", "{folder}", "mode=0999"),
    "a value too many": (None, "allow_other=1", "{folder}", "allow_other"),
    "rw": (None, "rw", "{folder}", "rw.*read-only"),
}


def check_start(folder, command, pattern, status, **keys):
    """It ends with @status, and a line on standard error that @pattern is found in."""
    begun = time.monotonic()
    done = run(*command, check=False, **keys)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("imagefs: "), done.stderr
    assert re.search(pattern, done.stderr), done.stderr
    assert time.monotonic() - begun < LIMIT
    assert not [m for m in mounts_below(folder) if m[3] != "dead"]


@pytest.mark.parametrize("foreground", [["-f"], []], ids=["foreground", "background"])
@pytest.mark.parametrize("what", [*STARTS, *WRONG])
def test_a_start_that_fails_says_so_in_one_line(folder, what, foreground):
    prepare, options, store, pattern = {**STARTS, **WRONG}[what]
    (folder / "mnt").mkdir()
    if prepare:
        prepare(folder)
    if not options.startswith("store_path"):
        options = "store_path=%s,%s" % (STORE_PATH, options)
    try:
        check_start(folder, [IMAGEFS, *foreground, "-o", options, "--", store.format(folder=folder),
                             folder / "mnt"], pattern, 2 if what in WRONG else 1)
    finally:
        if prepare is dead_mount:
            run("umount", "-l", folder / "mnt")


@pytest.mark.parametrize("words", [
    [], ["/"], ["/", "/mnt", "/"], ["-o"], ["-x", "/", "/mnt"], ["--nosuch", "/", "/mnt"],
    ["--json", "/", "/mnt"], ["list"], ["list", "/", "/mnt"], ["list", "--nosuch", "/"],
], ids=" ".join)
def test_wrong_words_are_told(folder, words):
    check_start(folder, [IMAGEFS, *words], ".", 2)


def test_without_a_fuse_device_it_says_so_in_one_line(folder):
    (folder / "mnt").mkdir()
    check_start(folder, ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                         'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec "$@"', "sh",
                         IMAGEFS, "-o", "store_path=" + STORE_PATH, folder, folder / "mnt"], "fuse", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL],
                         ids=lambda number: number.name)
def test_a_signal_ends_it_before_it_has_begun(fake, folder, number):
    """Ctrl-C while the store does not answer."""
    fake.fault("list", "say=hangs hang=deaf")
    (folder / "mnt").mkdir()
    process = subprocess.Popen([IMAGEFS, "-f", "-o", "store_path=" + STORE_PATH, fake.uri,
                                folder / "mnt"], stdin=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: fake.marked("hangs"), "the list hangs")
    process.send_signal(number)
    assert process.wait(LIMIT) != 0
    assert not mounts_below(folder)


def test_who_gives_up_waiting_for_the_background_gets_no_mount(fake, folder):
    fake.fault("list", "say=waits until=go")
    (folder / "mnt").mkdir()
    process = subprocess.Popen([IMAGEFS, "-o", "store_path=" + STORE_PATH, fake.uri,
                                folder / "mnt"], stdin=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: fake.marked("waits"), "the list waits")
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == -signal.SIGINT
    fake.mark("go")
    wait_until(lambda: not [pid for pid in descendants(os.getpid())
                            if str(folder) in command_of(pid)], "the rest has ended, too")
    assert not mounts_below(folder)


# ---- beginnings that do not fail ----

def test_in_the_background_it_is_ready_when_the_command_has_ended(fake, mounted):
    image = fake.image("a", 1000)
    fake.fault("list", "delay=300")
    for _ in range(5):
        with mounted(fake.uri, background=True) as mount:
            assert (mount / "a").read_bytes() == image.bytes(0, 1000)


def test_in_the_background_it_holds_nothing_of_who_started_it(fake, folder):
    """Not the pipes, so that $(imagefs ...) ends; not the folder; not the session."""
    (folder / "mnt").mkdir()
    (folder / "here").mkdir()
    done = run("bash", "-c", "cd here && said=$('%s' -o store_path=%s '%s' ../mnt 2>&1) && "
               "echo \"[$said]\"" % (IMAGEFS, STORE_PATH, fake.uri), cwd=folder)
    assert done.stdout == "[]\n"
    try:
        pids = [pid for pid in descendants(os.getpid()) if str(folder) in command_of(pid)
                or "../mnt" in command_of(pid)]
        assert len(pids) == 2  # and its warden
        for pid in pids:
            assert os.readlink("/proc/%d/cwd" % pid) == "/"
            assert os.getsid(pid) != os.getsid(0)
            for fd in ("0", "1", "2"):
                assert os.readlink("/proc/%d/fd/%s" % (pid, fd)) == "/dev/null"
    finally:
        run("umount", folder / "mnt")


@pytest.fixture
def private(folder):
    """private(SCRIPT): run a shell script with imagefs where mount(8) looks for programs,
    which is not where PATH says: it takes that away."""
    if not os.path.exists("/sbin/mount.fuse") or not os.path.isdir("/usr/local/sbin"):
        pytest.skip("no /sbin/mount.fuse here")
    programs = folder / "bin"
    programs.mkdir()
    shutil.copy(IMAGEFS, programs / "imagefs")
    (folder / "mnt").mkdir()

    def run_script(script, **keys):
        return run("unshare", "--mount", "--propagation", "private", "sh", "-ec",
                   "mount --bind '%s' /usr/local/sbin\n%s" % (programs, script), cwd=folder, **keys)

    return run_script


LOOK = """cat /proc/self/mountinfo >table
sha256sum <mnt/a
stat -c '%u %g %a' mnt/a
umount mnt
! mountpoint -q mnt
"""


def check_mount(folder, store, image, done):
    mounts = mounts_below(folder, (folder / "table").read_text())
    assert len(mounts) == 1
    path, _, kind, source, options = mounts[0]
    assert (path, kind, source) == (str(folder / "mnt"), "fuse.imagefs", store)
    assert {"ro", "nosuid", "nodev"} <= set(options)
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == hashlib.sha256(image.bytes(0, image.size)).hexdigest()
    return lines[1]


def test_mount_by_type(fake, folder, private):
    image = fake.image("a", 1000)
    done = private("mount -t fuse.imagefs -o store_path=%s,ttl=5 %s mnt\n%s"
                   % (STORE_PATH, fake.uri, LOOK))
    assert check_mount(folder, fake.uri, image, done) == "0 0 444"


@pytest.mark.parametrize("options,store", [("", "nosuch://x/"), ("nosuch", "{fake}")])
def test_mount_by_type_tells_what_is_wrong(fake, folder, private, options, store):
    done = private("mount -t fuse.imagefs -o store_path=%s,%s %s mnt"
                   % (STORE_PATH, options, store.format(fake=fake.uri)), check=False)
    assert done.returncode and re.search("imagefs: .*nosuch", done.stderr)


FSTAB = {
    "defaults": "0 0 444", "ro": "0 0 444", "rw": "0 0 444", "ro,user,allow_other": "0 0 444",
    "user": "0 0 444", "defaults,nosuid,nodev": "0 0 444",
    "noauto,ro,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=60": "0 0 444",
    "allow_other,default_permissions,uid=1,gid=2,mode=0440,noexec,noatime": "1 2 440",
}


@pytest.mark.parametrize("options", FSTAB)
def test_mount_by_fstab(fake, folder, private, options):
    image = fake.image("a", 1000)
    (folder / "fstab").write_text("%s %s fuse.imagefs %s,store_path=%s 0 0\n"
                                  % (fake.uri, folder / "mnt", options, STORE_PATH))
    done = private("mount -T fstab '%s/mnt'\n%s" % (folder, LOOK))
    assert check_mount(folder, fake.uri, image, done) == FSTAB[options]


@pytest.mark.parametrize("kind", ["URI", "path"])
def test_mount_all_mounts_what_is_not_mounted_yet(fake, images, folder, private, kind):
    """mount -a knows by the source whether it is: it has to be the one in fstab."""
    source = images if kind == "path" else fake.uri
    (folder / "fstab").write_text("%s %s fuse.imagefs store_path=%s 0 0\n"
                                  % (source, folder / "mnt", STORE_PATH))
    private("mount -a -T fstab\nmount -a -T fstab\ncat /proc/self/mountinfo >table\n"
            "while mountpoint -q mnt; do umount mnt; done")
    assert len(mounts_below(folder, (folder / "table").read_text())) == 1


# ---- without privileges ----

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


@pytest.fixture
def nobody(images, folder):
    """Programs and a mount point for a user who is nobody; images that anybody may read."""
    if os.geteuid() or not shutil.which("fusermount3") or not shutil.which("setpriv"):
        pytest.skip("this needs root, fusermount3 and setpriv")
    programs = folder / "programs"
    programs.mkdir()
    for name in ("imagefs", "imagefs-store-dir"):
        shutil.copy(BUILD / name, programs / name)
    (images / "a").write_bytes(os.urandom(5 * MIB))
    (images / "secret").write_bytes(b"x")
    (images / "secret").chmod(0o600)
    (folder / "mnt").mkdir()
    os.chown(folder / "mnt", 65534, 65534)
    return [*NOBODY, programs / "imagefs"]


def wait_gone(folder):
    wait_until(lambda: not mounts_below(folder), "it is unmounted")
    wait_until(lambda: not [pid for pid in descendants(os.getpid()) if str(folder) in
                            command_of(pid)], "it has ended")


def nobodys_daemon(folder):
    found = [pid for pid in descendants(os.getpid()) if str(folder / "mnt") in command_of(pid)
             and Path("/proc/%d/comm" % pid).read_text() != "imagefs-warden\n"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("end", ["fusermount3 -u", "umount", signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_user_without_privileges_can_mount(nobody, folder, images, end):
    path = folder / "programs"
    run(*nobody, "-o", "store_path=%s" % path, images, folder / "mnt")
    where = folder / "mnt"
    try:
        assert mounts_below(where)[0][2] == "fuse.imagefs"
        assert run(*NOBODY, "ls", where).stdout == "a\n"
        run(*NOBODY, "cmp", where / "a", images / "a")
        assert run(*NOBODY, "stat", "-c", "%u %g %a", where / "a").stdout == "65534 65534 444\n"
        done = run("cat", where / "a", check=False)
        assert done.returncode and "Permission denied" in done.stderr  # root is another user, too
        if isinstance(end, str):
            run(*(NOBODY if "fuser" in end else []), *end.split(), where)
        else:
            os.kill(nobodys_daemon(folder), end)
        wait_gone(folder)
    finally:
        for _ in mounts_below(where):
            run("umount", "-l", where)


def test_a_user_without_privileges_may_not_let_others_in(nobody, folder, images):
    if "\nuser_allow_other" in "\n" + Path("/etc/fuse.conf").read_text():
        pytest.skip("/etc/fuse.conf lets users let others in")
    done = run(*nobody, "-o", "allow_other,store_path=%s" % (folder / "programs"), images,
               folder / "mnt", check=False)
    assert done.returncode == 1 and "user_allow_other" in done.stderr
    assert all(line.startswith("imagefs: ") or line.startswith("fusermount3: ")
               for line in done.stderr.splitlines())
    assert not mounts_below(folder)


def test_a_user_without_privileges_needs_a_mount_point_of_their_own(nobody, folder, images):
    os.chown(folder / "mnt", 0, 0)
    done = run(*nobody, "-o", "store_path=%s" % (folder / "programs"), images, folder / "mnt",
               check=False)
    assert done.returncode == 1 and str(folder / "mnt") in done.stderr
    assert not mounts_below(folder)


def test_others_are_kept_out_unless_they_are_let_in(nobody, images, mounted):
    closed = mounted(images)
    assert run(*NOBODY, "ls", closed.path, check=False).returncode
    opened = mounted(images, "allow_other")
    assert run(*NOBODY, "ls", opened.path).stdout == "a\nsecret\n"
    run(*NOBODY, "cmp", opened / "a", images / "a")
    guarded = mounted(images, "allow_other", "mode=0440")  # permissions hold
    assert run(*NOBODY, "ls", guarded.path, check=False).returncode
    assert run(*NOBODY, "cat", guarded / "a", check=False).returncode
