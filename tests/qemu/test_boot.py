# SPDX-License-Identifier: MIT
"""qemu, for real: guests whose disks are in the mount."""

import hashlib
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import guest
import pytest
from guest import Guest, drive
from harness import SANITIZER, run, wait_until

MIB = 1 << 20
GUESTS = 2 if SANITIZER else 10  # at the same time, of little memory
EXTRA = 8 * MIB  # of each image that a guest only reads
WRITE = "dd if=/dev/urandom of=/written bs=64k count=100 2>/dev/null && sync && md5sum /written"

# What qemu's cache modes and ways of asynchronous I/O go together.
MODES = [("writeback", "threads"), ("writeback", "io_uring"), ("none", "threads"),
         ("none", "native"), ("none", "io_uring"), ("directsync", "threads"),
         ("directsync", "native"), ("directsync", "io_uring")]

pytestmark = pytest.mark.limit(900)


def digest(path):
    return run("sha256sum", path).stdout.split()[0]


@pytest.fixture(scope="module")
def disk():
    try:
        return guest.guest_disk()
    except guest.Unavailable as error:
        pytest.skip("no guest can be made: %s" % error)


@pytest.fixture
def store(disk, images):
    """The guest's disk as images of the dir store: a raw one and a qcow2."""
    run("cp", "--sparse=always", disk, images / "disk.raw")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, images / "disk.qcow2")
    return images


def io_uring_works(folder):
    (folder / "empty").write_bytes(bytes(4096))
    return not run("qemu-io", "-r", "-f", "raw", "-i", "io_uring", "-c", "read 0 4k",
                   folder / "empty", check=False).returncode


def test_a_guest_boots_from_a_raw_image_that_it_may_only_read(store, mounted, folder):
    mount = mounted(store)
    with Guest(folder, drive(mount / "disk.raw", readonly="on")) as machine:
        machine.login()
        assert machine.do("touch /x 2>/dev/null || echo no") == "no"
        assert machine.do("blockdev --getro /dev/vda") == "1"
        machine.power_off()


def test_a_guest_with_a_snapshot_of_its_own_writes_and_changes_nothing(store, mounted, folder):
    mount = mounted(store)
    before = digest(mount / "disk.raw")
    disk = drive(mount / "disk.raw", snapshot="on", cache="none", aio="native")
    with Guest(folder, disk) as machine:
        machine.login()
        machine.do("mount -o remount,rw /")
        machine.do(WRITE)
        machine.do("echo 3 > /proc/sys/vm/drop_caches; sha256sum -c -s /manifest")
        machine.power_off()
    assert digest(mount / "disk.raw") == before


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_guest_boots_from_an_overlay_on_an_image(store, mounted, folder, format):
    mount = mounted(store)
    backing, overlay = mount / ("disk." + format), folder / "overlay"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", format, overlay)
    with Guest(folder, drive(overlay, "qcow2", cache="none", aio="threads")) as machine:
        machine.login()
        machine.do("mount -o remount,rw /")
        written = machine.do(WRITE)
        machine.do("mount -o remount,ro /")
        machine.power_off()
    run("qemu-img", "check", overlay)
    done = run("qemu-img", "compare", "-f", "qcow2", overlay, "-F", format, backing, check=False)
    assert done.returncode == 1  # the overlay has what was written, the image has not
    if format == "qcow2":
        return
    with Guest(folder, drive(overlay, "qcow2")) as machine:
        machine.login()
        assert machine.do("md5sum /written") == written
        machine.power_off()


def test_a_guest_reads_disks_of_every_cache_mode_at_the_same_time(store, mounted, folder):
    modes = [mode for mode in MODES if mode[1] != "io_uring" or io_uring_works(folder)]
    sums = []
    for number in range(len(modes)):
        data = os.urandom(EXTRA)
        sums.append(hashlib.md5(data).hexdigest())
        (store / ("extra-%d" % number)).write_bytes(data)
    mount = mounted(store)
    drives = [drive(mount / ("extra-%d" % number), readonly="on", cache=cache, aio=aio)
              for number, (cache, aio) in enumerate(modes)]
    names = ["/dev/vd" + chr(ord("b") + number) for number in range(len(modes))]
    with Guest(folder, drive(mount / "disk.raw", readonly="on"), *drives) as machine:
        machine.login()
        # The end first, then all of it, with the others.
        machine.do("for d in %s; do { dd if=$d of=/dev/null bs=4k skip=%d 2>/dev/null; "
                   "md5sum $d > /tmp/${d##*/}; } & done; wait" % (
                       " ".join(names), EXTRA // 4096 - 9))
        found = [line.split() for line in machine.do("cat /tmp/vd*").splitlines()]
        machine.power_off()
    assert found == [[total, name] for total, name in zip(sums, names)]


def sent_bytes(mount):
    text = (mount / ".imagefs/stats").read_text()
    return int(re.search(r"^imagefs_store_bytes_total\{[^}]*\} (\d+)$", text, re.M)[1])


def test_ten_guests_of_one_immutable_image_read_it_from_the_store_about_once(
        store, mounted, folder):
    (store / "disk.qcow2").unlink()
    mount = mounted(store, "immutable")

    def boot(number):
        disk = drive(mount / "disk.raw", snapshot="on")
        with Guest(folder, disk, memory=96) as machine:
            machine.login()
            machine.power_off()

    with ThreadPoolExecutor(GUESTS) as pool:
        list(pool.map(boot, range(GUESTS)))
    # Each reads more than half of it, and what is between.
    assert sent_bytes(mount) <= 1.2 * os.stat(mount / "disk.raw").st_size


# ---- qemu's servers ----

@pytest.mark.parametrize("aio", ["threads", "native", "io_uring"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_qemu_storage_daemon_serves_an_image(store, mounted, folder, format, aio):
    if aio == "io_uring" and not io_uring_works(folder):
        pytest.skip("no io_uring here")
    mount = mounted(store)
    socket = folder / "nbd"
    server = subprocess.Popen(
        ["qemu-storage-daemon",
         "--blockdev", "driver=file,node-name=file,read-only=on,cache.direct=%s,aio=%s,filename=%s"
         % ("off" if aio == "threads" else "on", aio, mount / ("disk." + format)),
         "--blockdev", "driver=%s,node-name=disk,read-only=on,file=file" % format,
         "--nbd-server", "addr.type=unix,addr.path=%s" % socket,
         "--export", "type=nbd,id=export,node-name=disk"], stdin=subprocess.DEVNULL)
    try:
        wait_until(socket.exists, "qemu-storage-daemon listens")
        run("qemu-img", "compare", "-f", "raw", store / "disk.raw", "-F", "raw",
            "nbd+unix:///disk?socket=%s" % socket)
    finally:
        server.terminate()
        assert server.wait(60) == 0


# ---- a partition of the disk ----

def test_the_ext4_partition_can_be_mounted_by_a_loop_device(store, mounted, folder):
    mount, target = mounted(store), folder / "fs"
    target.mkdir()
    done = run("mount", "-t", "ext4", "-o", "ro,noload,loop,offset=%d" % guest.ROOT_START,
               mount / "disk.raw", target, check=False)
    if done.returncode and not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop device: %s" % done.stderr.strip())
    assert not done.returncode, done.stderr
    try:
        for line in (target / "manifest").read_text().splitlines():
            expected, path = line.split("  /", 1)
            assert hashlib.sha256((target / path).read_bytes()).hexdigest() == expected
    finally:
        run("umount", target)
        wait_until(lambda: not re.search(r"\(%s" % re.escape(str(mount.path)), run(
            "losetup", "--all").stdout), "the loop device is gone")
