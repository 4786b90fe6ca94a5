# SPDX-License-Identifier: MIT
"""Any sequence of reads gives the image's bytes, whatever the calls, the order and the threads."""

import errno
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from harness import wait_until

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096
LARGE = 5 * GIB
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, MIB - 1, MIB, MIB + 1, 12345677, LARGE]
# Where the large ones have data; the edges are of all kinds.
RUNS = [(0, 3 * MIB), (100 * MIB + 123, 5 * MIB + 17), (2 * GIB - MIB, 2 * MIB),
        (4 * GIB - 5, 10), (LARGE - 4 * MIB - 1, 4 * MIB + 1)]


class Original:
    """A file of the dir store, as it is without us."""

    def __init__(self, path):
        self.name = path.name
        self.size = path.stat().st_size
        self.file = os.open(path, os.O_RDONLY)

    def bytes(self, offset, length):
        return os.pread(self.file, length, offset)


# ---- the calls: each reads in its way, and compares ----

def call_pread(fd, image, offset, length):
    assert os.pread(fd, length, offset) == image.bytes(offset, length)


def call_seek_and_read(fd, image, offset, length):
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, length)
    assert data == image.bytes(offset, length)
    assert os.lseek(fd, 0, os.SEEK_CUR) == offset + len(data)


def call_readv(fd, image, offset, length):
    buffers = [bytearray(n) for n in (length // 3, 1, length // 2, length // 5 + 1)]
    count = os.preadv(fd, buffers, offset)
    assert b"".join(buffers)[:count] == image.bytes(offset, sum(map(len, buffers)))


def call_aligned(fd, image, offset, length):
    """As programs that use O_DIRECT do."""
    offset -= offset % PAGE
    length = max(length - length % PAGE, PAGE)
    with mmap.mmap(-1, length) as buffer:
        count = os.preadv(fd, [buffer], offset)
        assert buffer[:count] == image.bytes(offset, length)


def call_mmap(fd, image, offset, length):
    offset -= offset % mmap.ALLOCATIONGRANULARITY
    length = min(length, image.size - offset)
    if length <= 0:
        return
    flags = mmap.MAP_SHARED if length % 2 else mmap.MAP_PRIVATE
    with mmap.mmap(fd, length, flags, mmap.PROT_READ, offset=offset) as memory:
        assert memory[:] == image.bytes(offset, length)


def call_sendfile(fd, image, offset, length):
    out = os.memfd_create("sendfile")
    try:
        sent = 0
        while sent < length:
            count = os.sendfile(out, fd, offset + sent, length - sent)
            if not count:
                break
            sent += count
        assert os.pread(out, length, 0) == image.bytes(offset, length)
    finally:
        os.close(out)


def call_splice(fd, image, offset, length):
    expected = image.bytes(offset, length)
    source, sink = os.pipe()
    try:
        done = 0
        while done < length:
            count = os.splice(fd, sink, min(length - done, 65536), offset_src=offset + done)
            if not count:
                break
            data = b""
            while len(data) < count:
                data += os.read(source, count - len(data))
            assert data == expected[done : done + count]
            done += count
        assert done == len(expected)
    finally:
        os.close(source)
        os.close(sink)


def call_copy_file_range(fd, image, offset, length):
    out = os.memfd_create("copy")
    try:
        os.copy_file_range(fd, out, length, offset)
        copied = os.fstat(out).st_size
        assert os.pread(out, copied, 0) == image.bytes(offset, copied)
    except OSError as error:
        # Kernels do not copy from one file system to another; programs then read.
        assert error.errno in (errno.EXDEV, errno.EOPNOTSUPP)
    finally:
        os.close(out)


def call_run(fd, image, offset, length):
    """Pieces one after the other: what makes a stream."""
    for piece in range(offset, min(offset + 12 * length, image.size + 1), length):
        assert os.pread(fd, length, piece) == image.bytes(piece, length)


def call_backwards(fd, image, offset, length):
    for piece in range(offset, max(offset - 8 * length, 0), -length):
        assert os.pread(fd, length, piece) == image.bytes(piece, length)


def call_strides(fd, image, offset, length):
    """Skips: less than a stream holds, more than it holds, more than it would wait for."""
    for skip in (0, 65536, MIB, 5 * MIB, 17 * MIB, GIB):
        offset += skip
        assert os.pread(fd, length, offset) == image.bytes(offset, length)


ADVICE = [os.POSIX_FADV_NORMAL, os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_RANDOM,
          os.POSIX_FADV_NOREUSE, os.POSIX_FADV_WILLNEED, os.POSIX_FADV_DONTNEED]


def call_advice(fd, image, offset, length):
    os.posix_fadvise(fd, offset, length, ADVICE[(offset + length) % len(ADVICE)])


def call_holes(fd, image, offset, length):
    """What is said to be a hole is zeros, and where data is said to begin is no hole."""
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        try:
            found = os.lseek(fd, offset, whence)
        except OSError as error:
            assert error.errno == errno.ENXIO
            assert offset >= image.size or whence == os.SEEK_DATA
            found = image.size
        assert found >= min(offset, image.size) and found <= image.size
        if whence == os.SEEK_DATA:
            for start in (offset, max(offset, found - MIB)):
                assert not any(image.bytes(start, min(MIB, max(found - start, 0))))


# On a handle that several threads share the position is nobody's.
SHARED_CALLS = [call_pread, call_readv, call_aligned, call_mmap, call_sendfile, call_splice,
                call_copy_file_range, call_run, call_backwards, call_strides, call_advice]
CALLS = SHARED_CALLS + [call_seek_and_read, call_holes]


# ---- what is drawn ----

def offsets(size):
    edges = [0, PAGE, 128 << 10, MIB, MIB + (128 << 10), 4 * MIB, size // 2, size - MIB, size - PAGE,
             size] + [edge for start, run in RUNS for edge in (start, start + run)]
    near = st.tuples(st.sampled_from(edges), st.integers(-5000, 5000)).map(sum)
    anywhere = st.integers(0, size + 2 * MIB)
    return st.one_of(near, anywhere).map(lambda offset: min(max(offset, 0), size + 2 * MIB))


LENGTHS = st.one_of(
    st.sampled_from([1, 2, 511, 512, PAGE - 1, PAGE, PAGE + 1, 65536, 128 << 10, MIB, MIB + 1]),
    st.integers(1, 20000), st.integers(1, 3 * MIB))


@st.composite
def schedules(draw, images):
    """What is read: threads of steps (handle, call, offset, length), on two images."""
    two = draw(st.lists(st.sampled_from(images), min_size=1, max_size=2))
    handles = draw(st.lists(
        st.tuples(st.sampled_from(two), st.sampled_from([0, os.O_DIRECT])),
        min_size=1, max_size=4))
    threads = []
    for _ in range(draw(st.integers(1, 3))):
        steps = []
        for _ in range(draw(st.integers(3, 16))):
            shared = draw(st.booleans())
            number = draw(st.integers(0, len(handles) - 1))
            call = draw(st.sampled_from(SHARED_CALLS if shared else [*CALLS, None]))
            size = handles[number][0].size
            steps.append((shared, number, call, draw(offsets(size)), draw(LENGTHS)))
        threads.append(steps)
    return handles, threads


def run_thread(mount, handles, shared_fds, steps, start):
    own = {}
    try:
        start.wait()
        for shared, number, call, offset, length in steps:
            image, flags = handles[number]
            if call is None:  # close it; it is opened again when it is used again
                if number in own:
                    os.close(own.pop(number))
                continue
            if shared:
                fd = shared_fds[number]
            else:
                if number not in own:
                    own[number] = os.open(mount / image.name, os.O_RDONLY | flags)
                fd = own[number]
            call(fd, image, offset, length)
    finally:
        for fd in own.values():
            os.close(fd)


def run_schedule(mount, schedule):
    handles, threads = schedule
    fds = []
    try:
        for image, flags in handles:
            fds.append(os.open(mount / image.name, os.O_RDONLY | flags))
        start = threading.Barrier(len(threads))
        with ThreadPoolExecutor(len(threads)) as pool:
            jobs = [pool.submit(run_thread, mount, handles, fds, steps, start)
                    for steps in threads]
            for job in jobs:
                job.result()
    finally:
        for fd in fds:
            os.close(fd)


def search(function, share):
    """Run @function with that many examples of what the profile says (conftest.py)."""
    count = max(int(hypothesis.settings.default.max_examples * share), 1)
    hypothesis.settings(max_examples=count)(function)()


# With little of everything the boundaries are in other places, and streams are fewer.
OPTIONS = [(), ("readahead=0", "ring=2M", "memory=2M"), ("readahead=128K",)]


@pytest.fixture
def originals(images):
    made = []
    for number, size in enumerate(SIZES):
        path = images / ("image-%d" % size)
        with open(path, "wb") as file:
            file.truncate(size)
            for start, run in RUNS if size == LARGE else [(0, size)]:
                file.seek(start)
                file.write(os.urandom(run))
        made.append(Original(path))
    yield made
    for original in made:
        os.close(original.file)


def computed(fake):
    made = [fake.image("image-%d" % size, size, publish=False, immutable=bool(number % 2))
            for number, size in enumerate(SIZES)]
    made.append(fake.image("thin", LARGE, extents=RUNS, publish=False, allocated=20 * MIB))
    fake.publish()
    return made


@pytest.mark.parametrize("options", OPTIONS, ids=",".join)
def test_random_reads_of_files_give_the_files(images, originals, mounted, options):
    mount = mounted(images, *options)

    @hypothesis.given(schedules(originals))
    def example(schedule):
        run_schedule(mount, schedule)

    search(example, 0.5)


@pytest.mark.parametrize("options", OPTIONS, ids=",".join)
def test_random_reads_of_a_store_give_what_it_sent(fake, mounted, options):
    made = computed(fake)
    mount = mounted(fake.uri, *options)

    @hypothesis.given(schedules(made))
    def example(schedule):
        run_schedule(mount, schedule)

    search(example, 0.5)
    assert not fake.calls("bad", "ask")


DEATHS = ["exit=0", "exit=1", "exit=69", "exit=74", "exit=75", "signal=9", "signal=11", "signal=15",
          "flood=200000 exit=70"]
SLOWNESS = st.one_of(
    st.integers(1, 50).map("delay=%d".__mod__),
    st.tuples(st.integers(9999, 200000), st.integers(0, 2)).map("drip=%d/%d".__mod__))


@st.composite
def faults(draw, image, schedule):
    """What goes wrong in the reads of an image, and is survived: never more failures in a row
    than there are tries."""
    handles, threads = schedule
    reads = [step[3:] for steps in threads for step in steps if handles[step[1]][0] is image]
    lines = []
    for _ in range(draw(st.integers(0, 4)) if reads and image.size else 0):
        offset, length = draw(st.sampled_from(reads))
        place = min(offset + draw(st.integers(0, length)), image.size - 1)
        kind = draw(st.integers(0, 4))
        if kind < 2:
            lines.append("at=%d times=1 %s" % (place, draw(st.sampled_from(DEATHS))))
        elif kind < 4:
            lines.append("at=%d times=3 %s" % (place, draw(SLOWNESS)))
        else:
            lines.append(draw(st.sampled_from([
                "at=begin times=1 exit=69", "at=end times=1 exit=74", "at=begin delay=20"])))
    return lines


@pytest.mark.parametrize("options", OPTIONS[:2], ids=",".join)
def test_random_reads_while_readers_die_and_drip(fake, mounted, options):
    made = computed(fake)
    mount = mounted(fake.uri, *options, noisy=True)

    @st.composite
    def plans(draw):
        schedule = draw(schedules(made))
        images = {image.id: image for image, _ in schedule[0]}
        return schedule, [(image, draw(faults(image, schedule))) for image in images.values()]

    @hypothesis.given(plans())
    def example(plan):
        schedule, wrong = plan
        for image, lines in wrong:
            fake.fault(image, *lines)
        run_schedule(mount, schedule)
        for image, _ in wrong:
            fake.fault(image)

    search(example, 0.5)
    assert not fake.calls("bad", "ask")


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__[5:])
def test_each_call_at_each_edge_of_each_size(fake, mounted, call, flags):
    made = computed(fake)
    mount = mounted(fake.uri)
    for image in made:
        fd = os.open(mount / image.name, os.O_RDONLY | flags)
        try:
            for edge in (0, MIB, image.size):
                for offset in (edge - PAGE - 1, edge - 1, edge, edge + 1):
                    if offset >= 0:
                        call(fd, image, offset, PAGE)
                        call(fd, image, offset, 100001)
        finally:
            os.close(fd)
    assert not fake.calls("bad", "ask")


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_behind_the_end_is_nothing(fake, mounted, flags):
    made = computed(fake)
    mount = mounted(fake.uri)
    for image in made:
        fd = os.open(mount / image.name, os.O_RDONLY | flags)
        try:
            for offset in (image.size, image.size + 1, image.size + MIB, 2**62, 2**63 - 20):
                assert os.pread(fd, 10, offset) == b""
            with pytest.raises(OSError):
                os.lseek(fd, -1, os.SEEK_SET)
            assert os.lseek(fd, 0, os.SEEK_END) == image.size
        finally:
            os.close(fd)


def test_an_image_of_no_bytes_asks_the_store_for_nothing(fake, mounted):
    image = fake.image("empty", 0)
    mount = mounted(fake.uri)
    assert (mount / "empty").read_bytes() == b""
    assert fake.readers(image) == 0


def test_the_largest_image_can_be_read_at_its_end(fake, mounted):
    image = fake.image("largest", 2**63 - 1)
    mount = mounted(fake.uri, "readahead=0")
    with open(mount / "largest", "rb", buffering=0) as file:
        for offset in (2**63 - 1 - MIB, 2**62 - 5, 2**63 - 11):
            assert os.pread(file.fileno(), 10, offset) == image.bytes(offset, 10)


@pytest.mark.parametrize("allocated,option,most", [
    (None, (), 4096), (MIB, (), 4096), (4096, (), 2048), (None, ("readahead=1M",), 1024),
    (None, ("readahead=0",), None),
])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change it")
def test_the_kernel_reads_ahead_as_suits_the_store(fake, mounted, allocated, option, most):
    fake.image("first", MIB)
    fake.image("second", MIB, **({"allocated": allocated} if allocated else {}))
    mount = mounted(fake.uri, *option)
    device = os.stat(mount.path).st_dev
    path = Path("/sys/class/bdi", "%d:%d" % (os.major(device), os.minor(device)), "read_ahead_kb")
    if most is None:
        assert int(path.read_text()) < 1024
    else:  # the mount is there before the daemon has raised it
        wait_until(lambda: int(path.read_text()) in (most, most // 1024 * 1016), "it is raised")


def test_a_copy_of_a_handle_reads_on_where_the_other_is(fake, mounted):
    """dup and fork share one open file: the daemon sees one handle."""
    image = fake.image("a", 10 * MIB)
    mount = mounted(fake.uri)
    fd = os.open(mount / "a", os.O_RDONLY)
    other = os.dup(fd)
    for piece in range(0, 10 * MIB, MIB):
        assert os.read(other if piece % (2 * MIB) else fd, MIB) == image.bytes(piece, MIB)
    os.close(fd)
    assert os.pread(other, 100, 5) == image.bytes(5, 100)
    os.close(other)


def test_memory_stays_mapped_when_the_file_is_closed(fake, mounted):
    image = fake.image("a", 40 * MIB)
    mount = mounted(fake.uri)
    with open(mount / "a", "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for offset in (30 * MIB, 0, 39 * MIB, 10 * MIB):
        assert memory[offset : offset + MIB] == image.bytes(offset, MIB)
    memory.close()


@pytest.mark.parametrize("options", ["", "direct_io", "immutable"])
@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE], ids=["shared", "private"])
def test_every_file_can_be_mapped(fake, mounted, options, flags):
    if flags == mmap.MAP_SHARED and options == "direct_io" and release() < (6, 6):
        pytest.skip("this kernel maps no file shared that is opened for direct I/O")
    image = fake.image("a", 3 * MIB + 5)
    mount = mounted(fake.uri, options)
    with open(mount / "a", "rb") as file:
        with mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ) as memory:
            assert memory[:] == image.bytes(0, image.size)


def release():
    return tuple(int(part) for part in os.uname().release.split(".")[:2])
