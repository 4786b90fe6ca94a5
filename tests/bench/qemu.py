#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measure what qemu and many readers at once do to a mount, as run.py measures.

  fio-*      sequential reads by fio, 256 KiB and 1 MiB, 1 and 4 jobs, with and without the
             page cache, beside nbdfuse and qemu's export
  skip*, reverse*, two*   patterns beside a sequential read of the same mount
  twenty*    twenty readers of one immutable image: what the store sends, beside one reader
  fair*      200 images that are read at once: the slowest reader's rate in parts of the
             fastest one's, beside plain files
  boot       until a guest asks who logs in, beside a plain file
  cache-*    the page cache beside -o direct_io

Needs Debian's fio, qemu-system-x86, qemu-utils and what tests/guest.py says.
"""

import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / "tests"))

import guest
import run
from run import (
    LIMIT, MIB, Folder, Imagefs, Missing, Nbdfuse, Qemu, Row, make_image, need,
    random_reads, rate, rate_cp, rate_direct, rate_four,
)  # fmt: skip

TWENTY = 20
FAIR_IMAGES = 200
FAIR_SIZE = 32 * MIB  # less is read by the first before the last has started
FAIR_SECONDS = 6
SKIP = 17 * MIB
SKIP_ROUNDS = 4

run.LESS_IS_BETTER += ("MiB",)


# ---- fio ----


def fio(way, *flags):
    need("fio", "fio")
    done = subprocess.run(
        ["fio", "--readonly", "--ioengine=psync", "--thread", "--invalidate=0",
         "--output-format=json", *flags],
        capture_output=True, text=True, check=True, timeout=LIMIT, cwd=way.bench.folder)
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"]


def fio_sequential(block, jobs, direct):
    """Each job reads its part of the image once; their rates together, MB/s."""

    def measure(way):
        part = 100 // jobs
        (found,) = fio(way, "--name=seq", "--filename=%s" % way.path(), "--rw=read",
                       "--bs=%s" % block, "--direct=%d" % direct, "--numjobs=%d" % jobs,
                       "--size=%d%%" % part, "--offset_increment=%d%%" % part,
                       "--group_reporting")
        return found["read"]["bw_bytes"] / 1e6

    return measure


# ---- patterns, each a generator of offsets in blocks of 1 MiB ----


def sequential(size):
    yield from range(0, size, MIB)


def skip(size):
    for turn in range(SKIP_ROUNDS):
        yield from range(turn * 2 * MIB, size - MIB, MIB + SKIP)


def reverse(size):
    yield from range(size - MIB, -1, -MIB)


def two(size):
    for offset in range(0, size // 2, MIB):
        yield offset
        yield offset + size // 2


def rate_pattern(way):
    size = way.images[0].stat().st_size
    buffer = mmap.mmap(-1, MIB)
    fd = os.open(way.path(), os.O_RDONLY | way.flags)
    count, start = 0, time.monotonic()
    for offset in way.pattern(size):
        count += os.preadv(fd, [buffer], offset)
    seconds = time.monotonic() - start
    os.close(fd)
    return count / seconds / 1e6


def patterned(pattern, flags):
    names = {"name": pattern.__name__, "title": pattern.__name__,
             "pattern": staticmethod(pattern), "flags": flags}
    return type(pattern.__name__, (Imagefs,), names)


# ---- many readers ----


class Immutable(Imagefs):
    options = ("immutable",)
    readers = TWENTY
    flags = 0

    def sent(self):
        text = (self.folder / ".imagefs" / "stats").read_text()
        return int(re.search(r"^imagefs_store_bytes_total\{[^}]*\} (\d+)$", text, re.M)[1])


class One(Immutable):
    name = title = "one reader"
    readers = 1


class ImmutableDirect(Immutable):
    flags = os.O_DIRECT


class OneDirect(One):
    flags = os.O_DIRECT


def sent_mib(way):
    """What the store sent until all readers had the whole image, each by an open of his own."""
    before = way.sent()
    flags = ["iflag=direct"] if way.flags else []
    readers = [subprocess.Popen(["dd", "if=%s" % way.path(), "of=/dev/null", "bs=1M",
                                 "status=none", *flags]) for _ in range(way.readers)]
    for reader in readers:
        if reader.wait(LIMIT):
            raise SystemExit("qemu.py: dd failed")
    return (way.sent() - before) / MIB


def fair(direct):
    """Slowest : fastest of the readers of all images at once."""

    def measure(way):
        flags = ["--rw=read", "--bs=256k", "--direct=%d" % direct]
        if direct:
            flags += ["--time_based", "--runtime=%d" % FAIR_SECONDS]
        for index in range(len(way.images)):
            flags += ["--name=%d" % index, "--filename=%s" % way.path(index)]
        rates = [job["read"]["bw_bytes"] for job in fio(way, *flags)]
        return min(rates) / max(rates)

    return measure


# ---- guests ----


def boot_seconds(way):
    with tempfile.TemporaryDirectory(dir=way.bench.folder) as folder:
        start = time.monotonic()
        with guest.Guest(folder, guest.drive(way.path(), readonly="on")) as machine:
            machine.wait_login()
            return time.monotonic() - start


# ---- page cache or direct I/O ----


class DirectIo(Imagefs):
    name = title = "direct_io"
    options = ("direct_io",)


def rate_convert(way):
    need("qemu-img", "qemu-utils")
    to = way.bench.folder / "converted"
    start = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", way.path(), to],
                   check=True, timeout=LIMIT)
    seconds = time.monotonic() - start
    to.unlink()
    return way.images[0].stat().st_size / seconds / 1e6


def rate_again(way):
    """A second read, right after the first."""
    rate(way)
    return rate(way)


def buffered_random(way):
    return random_reads(way, 1, ["--direct=0"])


class Bench(run.Bench):
    def images(self, which):
        if which in self.sets or which not in ("guest", "fair"):
            return super().images(which)
        folder = self.folder / which
        folder.mkdir()
        if which == "guest":
            try:
                disk = guest.guest_disk()
            except guest.Unavailable as error:
                raise Missing(str(error)) from None
            shutil.copy(disk, folder / "disk.raw")
            guest.accelerator()
            self.sets[which] = [folder / "disk.raw"]
            return self.sets[which]
        paths = [folder / ("image-%03d" % i) for i in range(FAIR_IMAGES)]
        for path in paths:
            make_image(path, FAIR_SIZE)
        self.sets[which] = paths
        return paths


def all_rows():
    rows = []

    def add(name, title, unit, measure, peer, **keys):
        rows.append(Row(name, title, unit, measure, peer, **keys))

    for block in ("256k", "1m"):
        for jobs in (1, 4):
            for direct in (0, 1):
                how = "direct" if direct else "buffered"
                for peer in (Nbdfuse, Qemu):
                    add("fio-%s-%d-%s" % (block, jobs, how),
                        "fio %s, %d, %s" % (block, jobs, how), "MB/s",
                        fio_sequential(block, jobs, direct), peer)
    for how, flags in (("", 0), ("-direct", os.O_DIRECT)):
        for pattern in (skip, reverse, two):
            add(pattern.__name__ + how, pattern.__name__ + how, "MB/s", rate_pattern,
                patterned(sequential, flags), ours=patterned(pattern, flags))
    add("twenty", "sent to 20 readers", "MiB", sent_mib, One, ours=Immutable)
    add("twenty-direct", "sent to 20 readers, direct", "MiB", sent_mib, OneDirect,
        ours=ImmutableDirect)
    add("fair", "slowest of 200 in fastest", "", fair(0), Folder, images="fair")
    add("fair-direct", "slowest of 200 in fastest, direct", "", fair(1), Folder, images="fair")
    add("boot", "boot to login", "s", boot_seconds, Folder, images="guest")
    for name, title, unit, measure in (
            ("dd", "dd bs=1M", "MB/s", rate), ("cp", "cp", "MB/s", rate_cp),
            ("convert", "qemu-img convert", "MB/s", rate_convert),
            ("four", "four dd at once", "MB/s", rate_four),
            ("again", "dd, a second time", "MB/s", rate_again),
            ("fio", "fio 256k", "MB/s", fio_sequential("256k", 1, 0)),
            ("small", "fio 4k", "MB/s", fio_sequential("4k", 1, 0)),
            ("random", "random 4 KiB, buffered", "/s", buffered_random),
            ("odirect", "dd bs=1M iflag=direct", "MB/s", rate_direct)):
        add("cache-" + name, title, unit, measure, DirectIo,
            images="four" if name == "four" else "one")
    add("cache-boot", "boot to login", "s", boot_seconds, DirectIo, images="guest")
    return rows


if __name__ == "__main__":
    sys.exit(run.main(all_rows(), Bench, __doc__))
