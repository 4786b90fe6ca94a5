#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measure the sheepdog store beside sheepdog's own tools, on real sheep.

Three nodes on this machine, two copies.  As in run.py each row runs imagefs and its peer in
turns, and more than 1 means that imagefs is ahead.  Needs sheep, dog and sheepfs on PATH.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import run
from run import GIB, LIMIT, MIB, Row, need

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "stores"))

import sheepdog_cluster  # noqa: E402

OBJECT = 4 * MIB
TIB = 1 << 40
VDIS = 1000
FIRST_READS = 10
PIECES = 64  # that the data of the thin VDI is in
LIMIT_SOURCE = Path(__file__).resolve().parent / "sheep_limit.c"


class Vdi:
    """A VDI, as far as run.py wants to know about a file."""

    def __init__(self, name, size):
        self.name = name
        self.st_size = size

    def stat(self):
        return self


class Imagefs(run.Imagefs):
    scheme = "sheepdog"

    def open(self):
        need(str(self.bench.build / "imagefs"), "meson setup build && ninja -C build")
        options = ",".join(["store_path=%s" % self.bench.build, *self.options])
        self.start(self.bench.build / "imagefs", "-f", "-o", options,
                   self.bench.cluster.uri(self.scheme),
                   self.folder)
        run.wait_until(lambda: os.path.ismount(self.folder), "imagefs has mounted", self.server)


class Plain(Imagefs):
    title = "a VDI of that size"

    def __init__(self, bench, images):
        super().__init__(bench, images[1:] + images[:1])


class Fresh(Imagefs):
    options = ("ttl=1",)


class ByDog(Imagefs):
    """The store that runs sheepdog's own tool."""

    scheme = "dog"


class Program(run.Way):
    """The store program by itself."""

    name = "program"
    title = "store program"

    def list(self):
        return [self.bench.build / "imagefs-store-sheepdog", "list", "--", self.bench.uri()]


class Dog(run.Way):
    name = "dog"
    title = "dog"

    def list(self):
        return self.bench.cluster.dog_command("vdi", "list", "-r")

    def reader(self):
        command = self.bench.cluster.dog_command("vdi", "read", self.images[0].name)
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def reads(self, index=0, flags=(), to="/dev/null"):
        reader = self.reader()
        dd = subprocess.Popen(["dd", "of=%s" % to, "bs=1M", *flags], stdin=reader.stdout,
                              stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"})
        reader.stdout.close()
        return [reader, dd]


class Sheepfs(run.Way):
    name = title = "sheepfs"
    flags = ()

    def open(self):
        need("sheepfs", "none; it is a part of sheepdog's source")
        host, port = self.bench.cluster.address().split(":")
        log = open(self.bench.folder / "sheepfs.log", "wb")
        self.server = subprocess.Popen(
            ["sheepfs", "-f", *self.flags, "-a", host, "-p", port, self.folder],
            cwd=tempfile.mkdtemp(prefix="state-", dir=self.bench.folder),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        run.wait_until(lambda: os.path.ismount(self.folder), "sheepfs has mounted", self.server)
        (self.folder / "vdi" / "mount").write_text(self.images[0].name + "\n")

    def path(self, index=0):
        return self.folder / "volume" / self.images[index].name

    def mounts(self):
        return [self.folder]


class SheepfsPages(Sheepfs):
    name = "sheepfs-k"
    title = "sheepfs -k"
    flags = ("-k",)


class PlainLimit(run.Way):
    name = "limit"
    title = "four READ_OBJ"
    connections = 4
    flight = 4
    piece = 0  # bytes; 0: whole objects

    def rate(self):
        host, port = self.bench.cluster.address().split(":")
        vdi = self.images[0]
        done = subprocess.run(
            [self.bench.limit_program(), host, port, self.bench.vid(vdi.name),
             str(vdi.st_size // OBJECT), str(self.flight), str(self.connections),
             str(self.piece)],
            capture_output=True, text=True, check=True, timeout=LIMIT)
        return float(done.stdout)


class OneLimit(PlainLimit):
    name = "limit-1"
    title = "four READ_OBJ on one connection"
    connections = 1


class SmallLimit(PlainLimit):
    name = "limit-4k"
    title = "READ_OBJ of 4 KiB"
    connections = flight = 1
    piece = 4096


class SmallLimit16(SmallLimit):
    name = "limit-4k-16"
    title = "16 READ_OBJ of 4 KiB"
    connections = flight = 16


def rate(way):
    return way.rate() if isinstance(way, PlainLimit) else run.rate(way)


def first_byte(way):
    """Milliseconds until a byte of a VDI that nobody has open is there."""
    taken = []
    for _ in range(FIRST_READS):
        way.forget()
        start = time.monotonic()
        if way.path():
            fd = os.open(way.path(), os.O_RDONLY)
            got = os.pread(fd, 1, 0)
            taken.append(time.monotonic() - start)
            os.close(fd)
        else:
            with way.reader() as reader:
                got = os.read(reader.stdout.fileno(), 1)
                taken.append(time.monotonic() - start)
                reader.kill()
        if len(got) != 1:
            raise SystemExit("sheepdog.py: no byte came")
    return 1000 * statistics.median(taken)


def random_reads(way, jobs):
    """
    Reads a second.  sheepfs answers some of those that come at the same time with an
    error, and more of them with the bytes of others: they are counted all the same.
    """
    if isinstance(way, PlainLimit):
        return way.rate()
    if isinstance(way, Sheepfs):
        return run.random_reads(way, jobs, ["--continue_on_error=all"], check=False)
    return run.random_reads(way, jobs)


def seconds_of_cp(way):
    """Seconds for cp, whose copy has to be as sparse as the VDI, and the same."""
    to = way.bench.folder / "copy"
    vdi = way.images[0]
    try:
        start = time.monotonic()
        subprocess.run(["cp", way.path(), to], check=True, timeout=LIMIT)
        taken = time.monotonic() - start
        way.bench.check_copy(to, vdi.name)
        return taken
    finally:
        to.unlink(missing_ok=True)


def seconds_of_list(way):
    if way.server:
        time.sleep(1.5)  # longer than the listing is good for: ttl=1
    command = ["ls", "-l", way.folder] if way.server else way.list()
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT)
    taken = time.monotonic() - start
    if done.stdout.count(b"\n") != VDIS + bool(way.server):
        raise SystemExit("sheepdog.py: not all VDIs were listed")
    return taken


def all_rows():
    rows = []

    def add(peers, name, title, unit, measure, **keys):
        keys.setdefault("ours", Imagefs)
        rows.extend(Row(name, title, unit, measure, peer, **keys) for peer in peers)

    mounts = (Sheepfs, SheepfsPages)
    add((Dog, *mounts), "dd", "dd bs=1M", "MB/s", rate)
    add((PlainLimit, OneLimit), "dd", "dd bs=1M", "MB/s", rate)
    add((Dog,), "by-dog", "dd bs=1M by dog://", "MB/s", rate, ours=ByDog)
    add((*mounts, SmallLimit), "random1", "random 4 KiB, one at a time", "/s",
        lambda way: random_reads(way, 1))
    add((*mounts, SmallLimit16), "random16", "random 4 KiB, 16 at a time", "/s",
        lambda way: random_reads(way, 16))
    add((Dog,), "first", "first byte of 1 TiB", "ms", first_byte, images="thin")
    add((Plain,), "cp", "cp of 1 TiB, little of it data", "s", seconds_of_cp, images="thin")
    add((Dog,), "list", "list of 1,000 by the program", "s", seconds_of_list, images="many",
        ours=Program)
    add((Dog,), "ls", "ls -l of 1,000", "s", seconds_of_list, images="many", ours=Fresh)
    return rows


class Bench(run.Bench):
    room = 3.5
    cluster = None

    def uri(self):
        return self.cluster.uri("sheepdog")

    def vid(self, name):
        listed = self.cluster.dog("vdi", "list", "-r", name).stdout.decode()
        return listed.split()[7]

    def limit_program(self):
        program = self.folder / "sheep_limit"
        if not program.exists():
            need("cc", "gcc")
            subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", program, LIMIT_SOURCE],
                           check=True)
        return program

    def images(self, which):
        """The VDIs of a set, in a cluster of their own, made when first asked for."""
        if which in self.sets:
            return self.sets[which]
        if sheepdog_cluster.missing():
            raise SystemExit("sheepdog.py: " + sheepdog_cluster.missing())
        self.cluster = sheepdog_cluster.Cluster(nodes=3, copies=2, folder=self.folder)
        self.cluster.start()
        self.sets[which] = getattr(self, "make_" + which)()
        return self.sets[which]

    def forget_set(self, which):
        self.sets.pop(which)
        self.cluster.stop()

    def close(self):
        super().close()
        if self.cluster:
            self.cluster.stop()  # one whose VDIs were not all made

    def pieces(self):
        """[(offset, size)] of the data of the thin VDI: all over it, in whole objects."""
        size = max(self.size // PIECES // OBJECT, 1) * OBJECT
        return [(at * (TIB // PIECES), size) for at in range(PIECES)]

    def write(self, name, offset, size):
        for start in range(0, size, 64 * MIB):
            data = os.urandom(min(64 * MIB, size - start))
            self.cluster.dog("vdi", "write", name, offset + start, len(data), input=data)

    def make_one(self):
        self.cluster.dog("vdi", "create", "one", self.size)
        self.write("one", 0, self.size)
        return [Vdi("one", self.size)]

    def make_thin(self):
        self.cluster.dog("vdi", "create", "thin", TIB)
        for offset, size in self.pieces():
            self.write("thin", offset, size)
        return [Vdi("thin", TIB), *self.make_one()]

    def make_many(self):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda at: self.cluster.dog("vdi", "create", "vdi%d" % at, GIB),
                          range(VDIS)))
        return [Vdi("vdi0", GIB)]

    def check_copy(self, path, name):
        stat = path.stat()
        expected = {"one": self.size, "thin": TIB}[name]
        data = {"one": self.size, "thin": sum(size for _, size in self.pieces())}[name]
        if stat.st_size != expected or stat.st_blocks * 512 > 1.02 * data:
            raise SystemExit("sheepdog.py: the copy has %d bytes, %d on disk"
                             % (stat.st_size, stat.st_blocks * 512))
        ranges = self.pieces() if name == "thin" else [(0, self.size)]
        with open(path, "rb") as file:
            for offset, size in ranges:
                file.seek(offset)
                read = self.cluster.dog_command("vdi", "read", name, offset, size)
                with subprocess.Popen(read, stdout=subprocess.PIPE) as dog:
                    for at in range(0, size, OBJECT):
                        part = min(OBJECT, size - at)
                        if file.read(part) != dog.stdout.read(part):
                            raise SystemExit("sheepdog.py: the copy of %s is wrong" % name)


if __name__ == "__main__":
    sys.exit(run.main(all_rows(), Bench, __doc__))
