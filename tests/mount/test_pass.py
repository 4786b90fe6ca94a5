# SPDX-License-Identifier: MIT
"""Copies whose bytes go from the store program's pipe to the kernel's, past the ring, and what
can come in between."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import run, wait_until

MIB = 1 << 20
SIZE = 64 * MIB + 4321


def read_on(file, image, until=None):
    """Read from where the file is, as fast as it can be, and compare every byte."""
    start = file.tell()
    until = image.size if until is None else until
    pieces = []
    while file.tell() < until:
        pieces.append(file.read(MIB))
        assert pieces[-1], file.tell()
    compare(b"".join(pieces), image, start)


def compare(data, image, start):
    wanted = image.bytes(start, len(data))
    if data != wanted:
        raise AssertionError("wrong at byte %d" % next(
            start + i for i in range(len(data)) if data[i] != wanted[i]))


def copy(mount, image):
    with open(mount / image.name, "rb", buffering=0) as file:
        read_on(file, image)
        assert file.read(1) == b""


def test_a_copy_goes_past_the_ring(fake, mounted):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri)
    copy(mount, image)
    assert mount.figure("reads_passed_total") > 0
    assert mount.figure("reads_random_total") == 0
    assert fake.asked_bytes(image) == SIZE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to set the kernel's read-ahead")
@pytest.mark.parametrize("readahead", ["256K", "1M", "4M", "16M"])
def test_whatever_the_kernel_reads_ahead(fake, mounted, readahead):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri, "readahead=" + readahead)
    copy(mount, image)
    assert mount.figure("reads_passed_total") > 0
    assert fake.asked_bytes(image) == SIZE


# Pieces that fill a pipe before it holds a reply, and others that do not.
@pytest.mark.parametrize("piece", [1, 100, 4095, 4097, 65536, 300001])
def test_pieces_of_any_size_are_put_together(fake, mounted, piece):
    size = 8 * MIB + 70000 if piece < 4000 else SIZE
    image = fake.image("a", size)
    fake.fault(image, "at=%d drip=%d/0" % (8 * MIB if piece < 4000 else 5 * MIB, piece))
    copy(mounted(fake.uri, noisy=True), image)


@pytest.mark.parametrize("how", ["exit=74", "exit=0", "signal=9", "delay=300"])
def test_a_program_that_ends_or_waits_in_the_middle_of_a_reply(fake, mounted, how):
    image = fake.image("a", SIZE)
    fake.fault(image, *("at=%d times=1 %s" % (place, how) for place in (
        6 * MIB + 1, 11 * MIB + 4096, 23 * MIB - 1, 40 * MIB, SIZE - MIB)))
    mount = mounted(fake.uri, noisy=True)
    copy(mount, image)
    assert mount.figure("reads_passed_total") > 0


def test_a_store_that_hangs_in_the_middle_of_a_reply(fake, mounted):
    image = fake.image("a", SIZE)
    place = 20 * MIB + 12345
    fake.fault(image, "at=%d times=1 hang" % place)
    mount = mounted(fake.uri, "stall=1", noisy=True)
    with open(mount / "a", "rb", buffering=0) as file:
        with pytest.raises(OSError):
            while file.read(MIB):
                pass
        assert place - 2 * MIB <= file.tell() <= place
        wait_until(lambda: _reads(file, image), "it goes on")
        read_on(file, image)


def _reads(file, image):
    try:
        read_on(file, image, file.tell() + 1)
    except OSError:
        return False
    return True


def test_another_opens_it_and_closes_it_again(fake, mounted):
    """Then bytes go through the ring, so that both can have them."""
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri)
    with open(mount / "a", "rb", buffering=0) as file:
        for at in range(8, 64, 8):
            read_on(file, image, at * MIB)
            with open(mount / "a", "rb", buffering=0) as other:
                other.seek(file.tell() - 2 * MIB)
                read_on(other, image, other.tell() + 3 * MIB)
        read_on(file, image)
    assert mount.figure("reads_passed_total") > 0


def test_those_who_read_side_by_side_all_get_it(fake, mounted):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri)
    with ThreadPoolExecutor(6) as pool:
        for job in [pool.submit(copy, mount, image) for _ in range(6)]:
            job.result()


def test_one_descriptor_is_read_by_several_a_little_behind(fake, mounted):
    """What has gone past the ring is asked for again."""
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri)
    stop = threading.Event()
    fd = os.open(mount / "a", os.O_RDONLY)
    at = [0]

    def follow(behind):
        while not stop.is_set():
            offset = max(at[0] - behind, 0)
            os.posix_fadvise(fd, offset, 65536, os.POSIX_FADV_DONTNEED)
            piece = os.pread(fd, 65536, offset)
            assert piece == image.bytes(offset, len(piece)), offset

    try:
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(follow, behind) for behind in (65536, MIB, 3 * MIB)]
            try:
                while at[0] < SIZE:
                    piece = os.pread(fd, MIB, at[0])
                    assert piece == image.bytes(at[0], len(piece)), at[0]
                    at[0] += len(piece)
            finally:
                stop.set()
            for job in jobs:
                job.result()
    finally:
        os.close(fd)


def test_tools_copy_what_there_is(fake, mounted, folder):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri)
    for command in (["cp"], ["dd", "bs=4M", "status=none"], ["dd", "bs=65537", "status=none"]):
        if command[0] == "cp":
            run("cp", mount / "a", folder / "copy")
        else:
            run(*command, "if=%s" % (mount / "a"), "of=%s" % (folder / "copy"))
        with open(folder / "copy", "rb", buffering=0) as file:
            read_on(file, image)
            assert file.tell() == SIZE
