# SPDX-License-Identifier: MIT
"""A store driver for Glance that reads images through a pipe, as that of sheepdog did.

glance_store had a driver for sheepdog until 2019.  It ran a command for each 64 MiB of an
image and took its output with subprocess.communicate() under eventlet, which in Python 2.7
waited with select(2) and read 1024 bytes at a time.  This one does the same, with a command
that prints a part of a file: pipe:///PATH.

read_pipe() is that loop; tests/bench/read_image.py measures it alone.
"""

import os
import subprocess

import eventlet.green.os
import eventlet.green.select
import eventlet.green.subprocess

CHUNK = 64 << 20
PIECE = int(os.environ.get("PIPE_STORE_PIECE", "1024"))


def read_pipe(command, piece):
    """All that a command prints, read @piece bytes at a time, as communicate() did: what is
    waited for are the two files, each of which is asked for its descriptor every time."""
    process = eventlet.green.subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waiting = [process.stdout, process.stderr]
    output, errors = [], []
    while waiting:
        ready, _, _ = eventlet.green.select.select(waiting, [], [])
        for file, taken in ((process.stdout, output), (process.stderr, errors)):
            if file not in ready:
                continue
            data = eventlet.green.os.read(file.fileno(), piece)
            if not data:
                file.close()
                waiting.remove(file)
            taken.append(data)
    data = b"".join(output)
    if process.wait():
        raise RuntimeError("%s failed: %r" % (command, b"".join(errors)))
    return data


def part_of(path, offset, length):
    """A command that prints a part of a file, as "collie vdi read" did of an image."""
    return ["sh", "-c", 'tail -c +"$2" "$1" | head -c "$3"', "-", path, str(offset + 1),
            str(length)]


try:
    import glance_store.capabilities
    import glance_store.driver
    import glance_store.location
except ImportError:  # only read_pipe() is wanted
    pass
else:

    class StoreLocation(glance_store.location.StoreLocation):
        def parse_uri(self, uri):
            self.path = uri.removeprefix("pipe://")

        def process_specs(self):
            self.path = self.specs.get("path")

        def get_uri(self):
            return "pipe://" + self.path

    class Store(glance_store.driver.Store):
        _CAPABILITIES = (glance_store.capabilities.BitMasks.READ_ACCESS
                         | glance_store.capabilities.BitMasks.DRIVER_REUSABLE)

        def get_schemes(self):
            return ("pipe",)

        def get_size(self, location, context=None):
            return os.path.getsize(location.store_location.path)

        def get(self, location, offset=0, chunk_size=None, context=None):
            path = location.store_location.path
            size = os.path.getsize(path)

            def chunks():
                for start in range(0, size, CHUNK):
                    yield read_pipe(part_of(path, start, min(CHUNK, size - start)), PIECE)

            return chunks(), size
