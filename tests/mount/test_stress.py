# SPDX-License-Identifier: MIT
"""Reads of all sizes on one handle, as fast as they come."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

MIB = 1 << 20
SECONDS = 8


def test_small_and_large_direct_reads_at_the_same_time(images, mounted):
    size = 64 * MIB
    data = os.urandom(size)
    (images / "a").write_bytes(data)
    mount = mounted(images)
    fd = os.open(mount / "a", os.O_RDONLY | os.O_DIRECT)
    end = time.monotonic() + SECONDS

    def read(seed):
        choose = random.Random(seed)
        while time.monotonic() < end:
            for _ in range(100):
                length = choose.choice([512, 4096, 4096, 4096, 20000, 70000, 200000])
                offset = choose.randrange(size - length)
                assert os.pread(fd, length, offset) == data[offset : offset + length]

    try:
        with ThreadPoolExecutor(6) as pool:
            for job in [pool.submit(read, seed) for seed in range(6)]:
                job.result()
    finally:
        os.close(fd)
