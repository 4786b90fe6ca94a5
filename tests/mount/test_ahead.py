# SPDX-License-Identifier: MIT
"""Reads whose next place can be told: behind holes, and at one distance from one another."""

import errno
import mmap
import os
import random
import threading

import pytest
from harness import SANITIZER

MIB = 1 << 20
SIZE = 96 * MIB + 4321
DIRECT = [pytest.param(0, id="buffered"), pytest.param(os.O_DIRECT, id="direct")]


class Handle:
    def __init__(self, mount, image, flags=0):
        self.image = image
        self.file = os.open(mount / image.name, os.O_RDONLY | flags)
        self.buffer = mmap.mmap(-1, 8 * MIB)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.file)

    def read(self, offset, length):
        with memoryview(self.buffer) as view:
            count = os.preadv(self.file, [view[:length]], offset)
            got = bytes(view[:count])
        wanted = self.image.bytes(offset, length)
        assert len(got) == len(wanted), offset
        if got != wanted:
            bad = next(i for i in range(len(got)) if got[i] != wanted[i])
            raise AssertionError("at %d: wrong from %d on" % (offset, offset + bad))


@pytest.mark.parametrize("flags", DIRECT)
@pytest.mark.parametrize("stride", [6 * MIB, 9 * MIB + 4096, -MIB, -3 * MIB])
@pytest.mark.parametrize("length", [MIB, 256 << 10])
def test_what_is_read_at_one_distance_is_read_ahead(fake, mounted, flags, stride, length):
    image = fake.image("a", SIZE, immutable=True)
    mount = mounted(fake.uri)
    start = 0 if stride > 0 else (SIZE - length) & ~4095
    with Handle(mount, image, flags) as handle:
        places = range(start, SIZE - length if stride > 0 else -1, stride)
        for offset in places:
            handle.read(offset, length)
        # Where all is slow it is better to read through what lies between.
        if not SANITIZER:
            assert mount.figure("reads_random_total") <= 12
            assert fake.readers(image) <= 3


@pytest.mark.parametrize("flags", DIRECT)
def test_whoever_goes_elsewhere_is_answered_as_well(fake, mounted, flags):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri)
    with Handle(mount, image, flags) as handle:
        for turn in range(3):
            for offset in range(turn * MIB, 40 * MIB, 4 * MIB):
                handle.read(offset, MIB)
            handle.read(offset + MIB, 2 * MIB)  # on, where nothing was read ahead
            handle.read(offset + 4 * MIB + 8192, 4096)  # in the midst of what was
            handle.read(offset + 4 * MIB, 3 * MIB)  # and beyond it
            handle.read(4096, 4096)
        for offset in range(0, SIZE, MIB):
            handle.read(offset, MIB)


@pytest.mark.parametrize("flags", DIRECT)
@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_of_patterns_is_read_right(fake, mounted, flags, seed):
    image = fake.image("a", SIZE, immutable=bool(seed % 2))
    thin = fake.image("t", SIZE, allocated=30 * MIB, extents=[
        (start, 2 * MIB + 4096 * (start // MIB % 3)) for start in range(0, SIZE - 4 * MIB, 6 * MIB)])
    mount = mounted(fake.uri, *(["memory=16M"] if seed == 5 else []))
    failed = []

    def work(number):
        dice = random.Random(seed * 100 + number)
        try:
            for _ in range(3):
                with Handle(mount, dice.choice([image, thin]), flags) as handle:
                    for _ in range(6):
                        pattern(handle, dice)
        except BaseException as error:
            failed.append(error)

    def pattern(handle, dice):
        length = dice.choice([4096, 128 << 10, 508 << 10, MIB, 3 * MIB])
        stride = dice.choice([length, -length, 2 * length, 5 * MIB + 4096, -2 * MIB, 6 * MIB])
        offset = dice.randrange(0, SIZE) & ~4095
        for _ in range(dice.randrange(2, 14)):
            if not 0 <= offset < SIZE:
                break
            handle.read(offset, length)
            if dice.random() < 0.1:
                handle.read(dice.randrange(0, SIZE) & ~4095, dice.choice([4096, MIB]))
            offset += stride

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    assert not fake.calls("bad", "ask")


@pytest.mark.parametrize("how", ["exit=74", "exit=0", "signal=9"])
def test_programs_that_die_meanwhile_are_not_noticed(fake, mounted, how):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri, noisy=True)
    fake.fault(image, *("at=%d times=1 %s" % (place * MIB + 5000, how) for place in (24, 40, 64)))
    with Handle(mount, image) as handle:
        for offset in range(0, SIZE - MIB, 8 * MIB):
            handle.read(offset, MIB)


def test_what_cannot_be_read_ahead_is_an_error_only_for_whom_it_concerns(fake, mounted):
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri, noisy=True)
    fake.fault(image, "at=%d exit=77" % (40 * MIB + 5000))
    with Handle(mount, image, os.O_DIRECT) as handle:
        for offset in range(0, 40 * MIB, 8 * MIB):
            handle.read(offset, MIB)
        handle.read(3 * MIB, MIB)
        with pytest.raises(OSError) as error:
            handle.read(40 * MIB, MIB)
        assert error.value.errno == errno.EACCES
        handle.read(60 * MIB, MIB)


def test_a_thin_image_is_read_on_behind_its_holes(fake, mounted):
    runs = [(start, 3 * MIB) for start in range(0, 90 * MIB, 10 * MIB)]
    image = fake.image("a", SIZE, extents=runs, allocated=sum(run for _, run in runs))
    mount = mounted(fake.uri)
    with Handle(mount, image) as handle:
        place = 0
        while True:
            try:
                place = os.lseek(handle.file, place, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                break
            end = os.lseek(handle.file, place, os.SEEK_HOLE)
            for offset in range(place, end, 256 << 10):
                handle.read(offset, min(256 << 10, end - offset))
            place = end
    assert mount.figure("reads_random_total") <= 2
    # The kernel reads on into the holes.
    assert fake.sent_bytes(image) <= sum(run + MIB for _, run in runs) + 4 * MIB
    assert fake.readers(image) <= 2
