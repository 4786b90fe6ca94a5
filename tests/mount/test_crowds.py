# SPDX-License-Identifier: MIT
"""Many images at the same time: what the daemon takes, and gives back."""

import os
import re
import threading
from pathlib import Path

import pytest
from harness import SANITIZER, wait_until

MIB = 1 << 20
READ_AT_ONCE = 50 if SANITIZER else 200
OPEN = 200 if SANITIZER else 1000
MEMORY = 256 * MIB
# What the daemon has beside the memory of its streams: itself, and for each that runs a
# stack that was used, its bookkeeping and what malloc keeps of it.
BESIDE = 24 * MIB
SIZE = 6 * MIB + 1234

pytestmark = pytest.mark.limit(600)


def resident(mount):
    text = Path("/proc/%d/status" % mount.pid).read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


def stat_of(mount, name):
    text = (mount / ".imagefs/stats").read_text()
    return int(re.search(r"^imagefs_%s\{[^}]*\} (\d+)$" % name, text, re.M)[1])


def publish(fake, count, size):
    images = [fake.image("image-%04d" % n, size, publish=False) for n in range(count)]
    fake.publish()
    return images


def taken(mount):
    return mount.descriptors(), mount.threads(), len(mount.children())


def wait_given_back(mount, before):
    def is_given_back():
        now = taken(mount)
        # The thread for signals, which has two descriptors, is started when the mount is
        # there already: it may not be in @before.
        return now[0] <= before[0] + 2 and now[1] <= before[1] + 1 and now[2] <= before[2]

    try:
        wait_until(is_given_back, "all is given back")
    except AssertionError:
        raise AssertionError("descriptors, threads, processes: %s, and before %s" % (
            taken(mount), before)) from None


def read_all(mount, image, begun, errors):
    """Read an image once all the others have begun to be read, and look at each byte."""
    try:
        with open(mount / image.name, "rb", buffering=0) as file:
            offset = 0
            while offset < image.size:
                data = file.read(MIB)
                if not data or data != image.bytes(offset, len(data)):
                    errors.append("%s at %d: %d bytes" % (image.name, offset, len(data)))
                    return
                offset += len(data)
                if offset == len(data):
                    begun.wait()
    except Exception as error:
        errors.append("%s: %s" % (image.name, error))
        begun.abort()


def test_many_images_that_are_read_at_the_same_time_stay_within_the_limit(fake, mounted):
    """None is read on before all have been begun, so all are open and have their readers."""
    images = publish(fake, READ_AT_ONCE, SIZE)
    mount = mounted(fake.uri, "memory=%d" % MEMORY, "idle=1")
    os.listdir(mount.path)
    before, errors = taken(mount), []
    begun = threading.Barrier(len(images), timeout=300)
    readers = [threading.Thread(target=read_all, args=(mount, image, begun, errors))
               for image in images]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not errors, errors[:5]
    assert stat_of(mount, "memory_bytes") <= MEMORY
    if not SANITIZER:
        assert mount.peak_memory() <= MEMORY + BESIDE
    wait_given_back(mount, before)
    assert stat_of(mount, "memory_bytes") == 0
    assert stat_of(mount, "programs_running") == 0


def test_many_images_that_are_open_and_idle_cost_next_to_nothing(fake, mounted):
    images = publish(fake, OPEN, SIZE)
    mount = mounted(fake.uri, "memory=%d" % MEMORY, "idle=1")
    os.listdir(mount.path)
    before = taken(mount)
    files = [os.open(mount / image.name, os.O_RDONLY) for image in images]
    try:
        for file, image in zip(files, images):
            assert os.pread(file, 4096, 0) == image.bytes(0, 4096)
        wait_given_back(mount, before)
        assert stat_of(mount, "open_files") == len(files)
        assert stat_of(mount, "memory_bytes") == 0
        if not SANITIZER:
            assert resident(mount) <= BESIDE
        # They come back unseen.
        for file, image in zip(files[::10], images[::10]):
            assert os.pread(file, 100000, 3 * MIB) == image.bytes(3 * MIB, 100000)
    finally:
        for file in files:
            os.close(file)
    wait_until(lambda: stat_of(mount, "open_files") == 0, "all are closed")
    wait_given_back(mount, before)
