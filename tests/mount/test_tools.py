# SPDX-License-Identifier: MIT
"""The programs that people read images with, as they are."""

import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import SANITIZER, run, wait_until

MIB = 1 << 20
GIB = 1 << 30
MEMORY_MAX = 64 * MIB  # of the daemon while it reads one image after the other


def needs(*programs):
    """Mark for a test that cannot run without these programs."""
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason="no %s here" % ", ".join(missing))


def digest(data):
    return hashlib.sha256(data).hexdigest()


def write_image(path, size, runs=None):
    """Random bytes; only in the @runs, and holes elsewhere, if there are any."""
    with open(path, "wb") as file:
        file.truncate(size)
        for start, length in [(0, size)] if runs is None else runs:
            file.seek(start)
            while length:
                piece = min(length, 8 * MIB)
                file.write(os.urandom(piece))
                length -= piece
    return path


@pytest.fixture
def original(images):
    """A file of the dir store, of no round size."""
    return write_image(images / "disk.raw", 41 * MIB + 12345)


@pytest.fixture
def mount(original, images, mounted):
    return mounted(images)


# ---- copies ----

@pytest.mark.parametrize("how", ["", "--sparse=always", "--sparse=auto", "--sparse=never",
                                 "--reflink=auto", "-p", "-a"])
def test_cp(original, mount, folder, how):
    run("cp", *how.split(), mount / "disk.raw", folder / "copy")
    run("cmp", original, folder / "copy")


def test_cmp_finds_the_one_byte_that_differs(original, mount, folder):
    run("cmp", original, mount / "disk.raw")
    run("cp", original, folder / "other")
    with open(folder / "other", "r+b") as file:
        file.seek(31 * MIB + 77)
        byte = file.read(1)[0]
        file.seek(31 * MIB + 77)
        file.write(bytes([byte ^ 1]))
    done = run("cmp", folder / "other", mount / "disk.raw", check=False)
    assert done.returncode == 1 and "byte %d," % (31 * MIB + 78) in done.stdout


@pytest.mark.parametrize("program", ["sha256sum", "md5sum", "cksum", "b2sum"])
def test_sums(original, mount, program):
    with open(original) as one, open(mount / "disk.raw") as other:
        assert run(program, stdin=one).stdout == run(program, stdin=other).stdout


@pytest.mark.parametrize("count", ["0", "1", "4096", "1000000", "30000000", "+1", "+5000000",
                                   "+42999000"])
@pytest.mark.parametrize("program", ["tail", "head"])
def test_tail_and_head(original, mount, program, count):
    if program == "head":
        count = count.replace("+", "-")
    done = [run(program, "-c", count, path, text=False).stdout
            for path in (original, mount / "disk.raw")]
    assert digest(done[0]) == digest(done[1])


DD = ["bs=512", "bs=4k", "bs=64k", "bs=1M", "bs=3M", "bs=1234567", "bs=64M",
      "bs=512 iflag=direct count=20000", "bs=4k iflag=direct", "bs=1M iflag=direct",
      "bs=3M iflag=direct", "bs=1234567 iflag=direct", "bs=1M skip=3", "bs=1M skip=3 count=7",
      "bs=1M skip=50", "bs=1M skip=40 iflag=direct", "bs=4k skip=9999 count=1",
      "bs=1M skip=12345678 iflag=skip_bytes", "bs=1M count=12345678 iflag=count_bytes",
      "bs=1M iflag=fullblock", "bs=1M iflag=nocache", "bs=512 skip=84000", "ibs=4k obs=1M",
      "bs=1M iflag=sync,noatime"]


@pytest.mark.parametrize("how", DD)
def test_dd(original, mount, how):
    # A disk's file system may refuse direct reads of any size; the data is the same.
    indirect = how.replace("iflag=direct", "")
    done = [run("dd", "if=%s" % path, "status=none", *words.split(), text=False)
            for path, words in ((original, indirect), (mount / "disk.raw", how))]
    assert digest(done[0].stdout) == digest(done[1].stdout)


def test_dd_tells_of_the_last_short_block(original, mount):
    done = run("dd", "if=%s" % (mount / "disk.raw"), "of=/dev/null", "bs=1M")
    assert done.stderr.startswith("41+1 records in\n41+1 records out\n")


def test_tac_reads_backwards(images, mounted, folder):
    with open(images / "text", "w") as file:
        for number in range(1000000):
            file.write("line %d\n" % number)
    mount = mounted(images)
    with open(folder / "copy", "wb") as out:
        subprocess.run(["tac", mount / "text"], stdout=out, check=True, timeout=60)
    run("tac", folder / "copy", text=False)
    assert digest(run("tac", folder / "copy", text=False).stdout) == digest(
        (images / "text").read_bytes())


def test_many_copies_at_the_same_time(images, mounted, folder):
    paths = [write_image(images / name, 30 * MIB + n) for n, name in enumerate("abc")]
    mount = mounted(images)

    def copy(number):
        source = paths[number % len(paths)]
        target = folder / ("copy-%d" % number)
        run("cp", mount / source.name, target)
        run("cmp", source, target)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, range(8)))


def test_a_pipe_of_programs(original, mount):
    done = run("bash", "-o", "pipefail", "-c",
               "cat disk.raw | tee /dev/null | gzip -1 | gunzip | cmp - '%s'" % original,
               cwd=mount.path)
    assert not done.stdout


@pytest.mark.limit(600)
def test_a_large_image_in_little_memory(images, mounted, folder):
    """4 GiB, most of it holes to the folder, but not to cmp and sha256sum."""
    size = GIB if SANITIZER else 4 * GIB
    runs = [(start, 7 * MIB + 4321) for start in range(0, size - 16 * MIB, 100 * MIB)]
    original = write_image(images / "large.raw", size, [*runs, (size - MIB, MIB)])
    mount = mounted(images)
    run("cmp", mount / "large.raw", original, limit=300)
    run("cp", mount / "large.raw", folder / "copy", limit=300)
    for start, length in runs:
        run("cmp", "-n", str(length + 2 * MIB), "-i", str(max(start - MIB, 0)), original,
            folder / "copy")
    assert os.stat(folder / "copy").st_blocks * 512 < size // 4
    (folder / "copy").unlink()
    if not SANITIZER:
        assert mount.peak_memory() < MEMORY_MAX


@pytest.mark.limit(600)
def test_a_large_image_without_holes_in_little_memory(fake, mounted):
    image = fake.image("large", (300 * MIB if SANITIZER else 4 * GIB) + 513)
    mount = mounted(fake.uri)
    with open(mount / "large", "rb", buffering=0) as file:
        offset = 0
        while offset < image.size:
            # All is read; a part of it is compared, as making it takes longer than that.
            data = file.read(16 * MIB)
            end = max(len(data) - 5000, 0)
            assert data[:5000] == image.bytes(offset, 5000)
            assert data[end:] == image.bytes(offset + end, len(data) - end)
            offset += len(data)
    assert offset == image.size
    # The kernel's read-ahead comes so late now and then that a reader of its own brings it.
    assert fake.readers(image) <= 5
    assert fake.sent_bytes(image) <= 1.05 * image.size
    if not SANITIZER:
        assert mount.peak_memory() < MEMORY_MAX


# ---- thin images: the copy is thin, and costs what there is ----

THIN_SIZE = 600 * MIB
THIN_RUNS = [(0, 2 * MIB), (300 * MIB, 20 * MIB), (500 * MIB - MIB, 2 * MIB + 4096),
             (THIN_SIZE - MIB, MIB)]
THIN_DATA = sum(length for _, length in THIN_RUNS)


@pytest.fixture
def thin(fake):
    return fake.image("thin.raw", THIN_SIZE, extents=THIN_RUNS, allocated=THIN_DATA)


def check_thin_copy(image, path, allocated_max=2 * THIN_DATA):
    assert os.stat(path).st_size == image.size
    assert os.stat(path).st_blocks * 512 <= allocated_max
    with open(path, "rb") as file:
        for start, length in image.extents:
            low, high = max(start - MIB, 0), min(start + length + MIB, image.size)
            file.seek(low)
            assert file.read(high - low) == image.bytes(low, high - low)
        # What has no block is zeros; where the blocks are was looked at.
        position = 0
        while True:
            try:
                data = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            assert any(start - MIB <= data and position <= start + length + MIB
                       for start, length in image.extents)


def check_thin_cost(fake, image):
    """The store sends the data, and little more: what a pipe holds at each end of a run."""
    assert fake.sent_bytes(image) <= 1.2 * THIN_DATA + len(THIN_RUNS) * 2 * MIB


@pytest.mark.parametrize("how", ["", "--sparse=auto", "--sparse=always"])
def test_cp_of_a_thin_image_costs_its_data(fake, thin, mounted, folder, how):
    mount = mounted(fake.uri)
    run("cp", *how.split(), mount / "thin.raw", folder / "copy")
    check_thin_copy(thin, folder / "copy")
    check_thin_cost(fake, thin)


def test_tar_of_a_thin_image_costs_its_data(fake, thin, mounted, folder):
    mount = mounted(fake.uri)
    run("tar", "-C", mount.path, "-cSf", folder / "tar", "thin.raw")
    assert os.stat(folder / "tar").st_size < 2 * THIN_DATA
    run("tar", "-C", folder, "-xSf", folder / "tar")
    check_thin_copy(thin, folder / "thin.raw")
    check_thin_cost(fake, thin)


@needs("rsync")
def test_rsync_of_a_thin_image_is_thin(fake, thin, mounted, folder):
    mount = mounted(fake.uri)
    run("rsync", "-S", "--whole-file", mount / "thin.raw", folder / "copy", limit=120)
    check_thin_copy(thin, folder / "copy")
    check_most_holes_cost_nothing(fake, thin)


def check_most_holes_cost_nothing(fake, image):
    """Of who does not ask for holes it is seen when he reads on; some zeros come before."""
    assert fake.sent_bytes(image) <= image.size / 4


def test_most_holes_cost_nothing_who_does_not_look_for_them(fake, thin, mounted):
    mount = mounted(fake.uri)
    run("dd", "if=%s" % (mount / "thin.raw"), "of=/dev/null", "bs=1M", limit=120)
    check_most_holes_cost_nothing(fake, thin)


@needs("qemu-img")
@pytest.mark.parametrize("how", ["-O raw", "-O qcow2", "-O raw -W -m 16"])
def test_qemu_img_convert_of_a_thin_image_costs_its_data(fake, thin, mounted, folder, how):
    mount = mounted(fake.uri)
    run("qemu-img", "convert", "-f", "raw", *how.split(), mount / "thin.raw", folder / "copy")
    if "qcow2" in how:
        run("qemu-img", "convert", folder / "copy", folder / "raw")
        os.rename(folder / "raw", folder / "copy")
    check_thin_copy(thin, folder / "copy")
    check_thin_cost(fake, thin)


@needs("qemu-img")
def test_qemu_img_map_of_a_thin_image_reads_nothing(fake, thin, mounted):
    mount = mounted(fake.uri)
    assert data_runs(mount / "thin.raw") == THIN_RUNS
    assert fake.sent_bytes(thin) <= 4 * MIB  # qemu looks at the first sector


def test_du_shows_what_is_allocated(fake, thin, mounted):
    mount = mounted(fake.uri)
    assert int(run("du", "-B1", mount / "thin.raw").stdout.split()[0]) == THIN_DATA
    assert int(run("du", "-b", mount / "thin.raw").stdout.split()[0]) == THIN_SIZE


# ---- qemu ----

@pytest.fixture
def disks(images, mounted):
    """A raw image and a qcow2 of the same content, made by qemu itself."""
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        pytest.skip("no qemu-img and qemu-io here")
    run("qemu-img", "create", "-q", "-f", "raw", images / "disk.raw", "200M")
    run("qemu-io", "-f", "raw", *(word for n in range(1, 20) for word in
        ("-c", "write -P %d %dK %dK" % (n, n * n * 500, 300 + n * 36))), images / "disk.raw")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", images / "disk.raw", images / "disk.qcow2")
    return mounted(images)


def test_qemu_img_info(disks, images):
    for name in ("disk.raw", "disk.qcow2"):
        info = [json.loads(run("qemu-img", "info", "--output=json", path).stdout)
                for path in (images / name, disks / name)]
        for one in info:
            del one["filename"]
            one.pop("children", None)
        assert info[0] == info[1]


def test_qemu_img_check(disks):
    assert "No errors were found" in run("qemu-img", "check", disks / "disk.qcow2").stdout


def test_qemu_img_compare(disks, images):
    for one in ("disk.raw", "disk.qcow2"):
        for other in ("disk.raw", "disk.qcow2"):
            text = run("qemu-img", "compare", "-s", images / one, disks / other,
                       check=one.endswith(other[-3:])).stdout
            assert one[-3:] != other[-3:] or "Images are identical" in text
            run("qemu-img", "compare", images / one, disks / other)


def test_qemu_img_compare_finds_a_difference(disks, images, folder):
    run("cp", images / "disk.raw", folder / "other")
    run("qemu-io", "-f", "raw", "-c", "write -P 77 100M 512", folder / "other")
    for name in ("disk.raw", "disk.qcow2"):
        assert run("qemu-img", "compare", "-f", "raw", folder / "other", "-F",
                   name[5:], disks / name, check=False).returncode == 1


@pytest.mark.parametrize("options", ["", "-t none -T none", "-T directsync", "-m 16 -W", "-c -m 1"])
@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
def test_qemu_img_convert(disks, images, folder, name, options):
    run("qemu-img", "convert", *options.split(), "-O", "qcow2", disks / name, folder / "copy")
    run("qemu-img", "compare", images / "disk.raw", folder / "copy")


def data_runs(path):
    text = run("qemu-img", "map", "-f", "raw", "--output=json", path).stdout
    return [(run_["start"], run_["length"]) for run_ in json.loads(text) if run_["data"]]


def test_qemu_img_map(disks, images):
    expected = data_runs(images / "disk.raw")
    assert len(expected) == 20
    assert data_runs(disks / "disk.raw") == expected


@needs("qemu-img")
def test_qemu_img_finds_the_holes_of_a_store_that_takes_its_time(fake, thin, mounted):
    fake.fault("extents." + thin.id, "delay=200")
    mount = mounted(fake.uri)
    for _ in range(5):
        assert data_runs(mount / "thin.raw") == THIN_RUNS


@needs("qemu-img")
def test_native_aio_of_a_store_that_takes_its_time(fake, mounted):
    image = fake.image("disk.raw", 200 * MIB)
    fake.fault(image, "drip=200000/5")
    mount = mounted(fake.uri)
    for _ in range(10):
        run("qemu-img", "bench", "-q", "-f", "raw", "-t", "none", "-i", "native", "-c", "50",
            "-d", "8", "-s", "64k", "-S", "3M", mount / "disk.raw")


def test_qemu_img_map_of_a_qcow2(disks, images):
    one, other = [json.loads(run("qemu-img", "map", "--output=json", path).stdout)
                  for path in (images / "disk.qcow2", disks / "disk.qcow2")]
    assert one == other


@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
def test_qemu_img_measure(disks, images, name):
    one, other = [run("qemu-img", "measure", "--output=json", "-O", "qcow2", path).stdout
                  for path in (images / name, disks / name)]
    assert one == other


NATIVE = "-c 500 -d 32 -s 64k -S 200k -t none -i native"


@pytest.mark.parametrize("how", ["-c 2000 -d 64 -s 4k", "-c 200 -d 16 -s 1M -t none",
                                 NATIVE,
                                 "-c 500 -d 32 -s 64k -i io_uring -t none"])
@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
def test_qemu_img_bench(disks, name, how):
    run("qemu-img", "bench", "-q", "-f", name[5:], *how.split(), disks / name)


@pytest.mark.parametrize("how", ["", "-t none", "-t directsync", "-t none -i io_uring",
                                 "-t none -i native"])
@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
def test_qemu_io_finds_each_pattern(disks, name, how):
    numbers = [7, 3, 19, 1, 12, 18, 5, 11, 2, 16]
    commands = [word for n in numbers for word in
                ("-c", "aio_read -P %d %dK %dK" % (n, n * n * 500, 300 + n * 36))]
    done = run("qemu-io", "-r", "-f", name[5:], *how.split(), *commands, "-c", "aio_flush",
               "-c", "read -P 0 199M 1M", disks / name)
    assert "failed" not in done.stdout + done.stderr
    assert done.stdout.count("bytes at offset") == len(numbers) + 1
    done = run("qemu-io", "-r", "-f", name[5:], *how.split(), "-c", "read -P 9 500K 10K",
               disks / name, check=False)
    assert "Pattern verification failed" in done.stdout  # so it is compared indeed


def test_qemu_storage_daemon_and_qemu_nbd_on_top(disks, images, folder):
    if not shutil.which("qemu-nbd"):
        pytest.skip("no qemu-nbd here")
    socket = folder / "nbd"
    server = subprocess.Popen(["qemu-nbd", "-r", "-f", "qcow2", "-k", socket, "--cache=none",
                               disks / "disk.qcow2"], stdin=subprocess.DEVNULL)
    try:
        wait_until(socket.exists, "qemu-nbd listens")
        run("qemu-img", "compare", "-f", "raw", images / "disk.raw", "-F", "raw",
            "nbd+unix:///?socket=%s" % socket)
        server.wait(60)  # it ends with its first client
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


# ---- fio ----

FIO = ["--rw=read --bs=64k", "--rw=read --bs=64k --ioengine=mmap", "--rw=randread --bs=64k",
       "--rw=randread --bs=64k --direct=1 --ioengine=libaio --iodepth=16",
       "--rw=read --bs=64k --direct=1 --ioengine=libaio --iodepth=32",
       "--rw=randread --bs=64k --ioengine=io_uring --iodepth=16",
       "--rw=randread --bs=64k --numjobs=4 --thread", "--rw=read --bs=64k --ioengine=splice"]


@pytest.fixture
def patterned(images, mounted):
    if not shutil.which("fio"):
        pytest.skip("no fio here")
    run("fio", "--name=write", "--filename=%s" % (images / "disk"), "--size=64m", "--rw=write",
        "--bs=64k", "--verify=crc32c", "--do_verify=0", "--output-format=json", cwd=images)
    for path in images.iterdir():  # fio's own state
        if path.name != "disk":
            path.unlink()
    return mounted(images, noisy=True)


def fio(path, how, folder, **keys):
    return run("fio", "--name=read", "--filename=%s" % path, "--readonly", "--size=64m",
               "--verify=crc32c", "--verify_fatal=1", "--verify_state_load=0",
               "--allow_file_create=0", "--output-format=json", *how.split(), cwd=folder, **keys)


@pytest.mark.parametrize("how", FIO)
def test_fio_finds_its_pattern(patterned, folder, how):
    text = fio(patterned / "disk", how, folder).stdout
    jobs = json.loads(text[text.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs)
    assert sum(job["read"]["io_bytes"] for job in jobs) == 64 * MIB * len(jobs)


def test_fio_would_tell_of_a_wrong_byte(patterned, images, folder):
    with open(images / "disk", "r+b") as file:
        file.seek(33 * MIB + 5000)
        file.write(b"xx")
    wait_until(lambda: fio(patterned / "disk", FIO[0], folder, check=False).returncode,
               "the changed file is a new image")


# ---- a file system in an image ----

@needs("mkfs.ext4", "losetup")
@pytest.mark.parametrize("direct", ["off", "on"])
def test_a_file_system_in_an_image_can_be_mounted(images, mounted, folder, direct):
    tree = folder / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / ("file-%d" % number)).write_bytes(os.urandom(number * number * 10))
    run("mkfs.ext4", "-q", "-d", tree, images / "fs.img", "100M")
    mount = mounted(images)
    done = run("losetup", "--find", "--show", "--read-only", "--direct-io=%s" % direct,
               mount / "fs.img", check=False)
    if done.returncode:
        pytest.skip("no loop device: %s" % done.stderr.strip())
    device, target = done.stdout.strip(), folder / "fs"
    target.mkdir()
    try:
        run("mount", "-t", "ext4", "-o", "ro,noload", device, target)
        try:
            names = [path.name for path in tree.iterdir()]
            same, different, failed = filecmp.cmpfiles(tree, target, names, shallow=False)
            assert (len(same), different, failed) == (200, [], [])
        finally:
            run("umount", target)
    finally:
        run("losetup", "--detach", device)
        wait_until(lambda: not re.search(r"\(%s" % re.escape(str(mount.path)), run(
            "losetup", "--all").stdout), "the loop device is gone")
