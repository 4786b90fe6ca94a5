# SPDX-License-Identifier: MIT
"""Read an image under eventlet in one of the ways that glance.py compares; print figures.

    read_image.py select-1024|select-100M|execute|file|file-direct PATH
"""

import eventlet

eventlet.monkey_patch()

import json
import os
import resource
import subprocess
import sys
import time

from oslo_concurrency import processutils

from pipe_store import read_pipe

# Through the page cache: what stays in the cache of a processor.  Past it: one request.
PIECE, PIECE_DIRECT = 128 << 10, 1 << 20


def peak():
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_select(path, piece):
    """(bytes, seconds until the first of them can be used)"""
    start = time.monotonic()
    data = read_pipe(["cat", path], piece)
    return len(data), time.monotonic() - start


def by_execute(path):
    start = time.monotonic()
    data, _ = processutils.execute("cat", path, binary=True)
    return len(data), time.monotonic() - start


def by_file(path, piece):
    size, first, start = 0, None, time.monotonic()
    buffer = bytearray(piece)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            first = first or time.monotonic() - start
            size += count
    return size, first


WAYS = {
    "select-1024": lambda path: by_select(path, 1024),
    "select-100M": lambda path: by_select(path, 100 << 20),
    "execute": by_execute,
    "file": lambda path: by_file(path, PIECE),
    "file-direct": lambda path: by_file(path, PIECE_DIRECT),
}


def main():
    way, path = sys.argv[1:]
    # What is loaded when it is first needed is not what is measured.
    subprocess.run(["true"], check=True)
    processutils.execute("true", binary=True)
    base, start = peak(), time.monotonic()
    size, first = WAYS[way](path)
    seconds = time.monotonic() - start
    assert size == os.path.getsize(path), "%d bytes" % size
    print(json.dumps({"rate": size / seconds / 1e6, "first": first * 1000,
                      "memory": (peak() - base) / 1e6}))


if __name__ == "__main__":
    main()
