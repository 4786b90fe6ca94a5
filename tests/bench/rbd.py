#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measure imagefs beside Ceph's own ways to read an image.

A cluster of one monitor and one OSD in memory is started on loopback, with random images
in it; it takes twice their size of memory, and has the processor together with what is
measured.  Rows are measured as run.py does, which see.  What a title has in parentheses is
what imagefs is to reach.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "stores"))

import ceph_cluster
import run
from run import FIO_SECONDS, GIB, LIMIT, MIB, Missing, Row, Way, need

LS_IMAGES = 1000
TIB = 1 << 40


class Image:
    """An image of the pool, in place of a file."""

    def __init__(self, name, size):
        self.name = name
        self.size = size

    def stat(self):
        return os.stat_result((0,) * 6 + (self.size,) + (0,) * 3)


class Bench(run.Bench):
    def __init__(self, args, folder, cluster):
        super().__init__(args, folder)
        self.cluster = cluster

    def images(self, which):
        """The images of a set, made when first asked for."""
        if which not in self.sets:
            self.sets[which] = getattr(self, "make_" + which)()
        return self.sets[which]

    def forget_set(self, which):
        # Those are small, and the others are needed again and again.
        if which == "many":
            self.sets.pop(which)
            self.script("for name in pool.list(io):\n"
                        "    if name.startswith('image-'): pool.remove(io, name)\n")

    def script(self, code, **options):
        prelude = ("import rados, rbd\n"
                   "cluster = rados.Rados(conffile='')\n"
                   "cluster.connect()\n"
                   "io = cluster.open_ioctx('pool')\n"
                   "pool = rbd.RBD()\n")
        self.cluster.run("/usr/bin/python3", "-c", prelude + code, **options)

    def make_one(self):
        self.script(
            f"import os\npool.create(io, 'one', {self.size})\n"
            "with rbd.Image(io, 'one') as image:\n"
            f"    for offset in range(0, {self.size}, {4 * MIB}):\n"
            f"        image.write(os.urandom(min({4 * MIB}, {self.size} - offset)), offset)\n"
            "    image.create_snap('s')\n", timeout=LIMIT)
        return [Image("one", self.size)]

    def make_thin(self):
        """A TiB with the data of the first set in eight places of it, and that set's image."""
        dense = self.images("one")[0]
        self.script(
            f"pool.create(io, 'thin', {TIB})\n"
            "with rbd.Image(io, 'one', read_only=True) as old, rbd.Image(io, 'thin') as new:\n"
            f"    part = {self.size} // 8\n"
            f"    for start in range(0, {self.size}, {4 * MIB}):\n"
            f"        place = start // part * ({TIB} // 8) + start % part\n"
            f"        new.write(old.read(start, {4 * MIB}), place)\n", timeout=LIMIT)
        return [Image("thin", TIB), dense]

    def make_many(self):
        self.script("for i in range(%d): pool.create(io, 'image-%%04d' %% i, 1 << 30)" % LS_IMAGES,
                    timeout=LIMIT)
        return [Image("image-0000", GIB)]


# ---- the ways to read an image ----


class Imagefs(Way):
    name = title = "imagefs"
    options = ()

    def open(self):
        build = self.bench.build
        if not (build / "imagefs-store-rbd").exists():
            raise SystemExit("rbd.py: %s: not there (librbd-dev; meson setup build && "
                             "ninja -C build)" % (build / "imagefs-store-rbd"))
        options = ",".join(["store_path=%s" % build, *self.options])
        self.start(build / "imagefs", "-f", "-o", options, "rbd://pool/", self.folder)
        run.wait_until(lambda: os.path.ismount(self.folder), "imagefs has mounted", self.server)

    def path(self, index=0):
        return self.folder / self.images[index].name


class Snapshot(Imagefs):
    """Of an image that nobody writes to the pages could be kept, so they are dropped."""

    def path(self, index=0):
        return self.folder / (self.images[index].name + "@s")


class Many(Imagefs):
    options = ("ttl=1",)


class RbdFuse(Way):
    name = title = "rbd-fuse"

    def open(self):
        need("rbd-fuse", "rbd-fuse")
        self.start("rbd-fuse", "-f", "-p", "pool", self.folder)
        run.wait_until(lambda: os.path.ismount(self.folder), "rbd-fuse has mounted", self.server)

    def path(self, index=0):
        return self.folder / self.images[index].name


class Command(Way):
    """Something that writes an image to a pipe."""

    def command(self):
        raise NotImplementedError

    def reads(self, index=0, flags=(), to="/dev/null"):
        source = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        done = subprocess.Popen(["dd", "of=%s" % to, "bs=1M", "iflag=fullblock", *flags],
                                stdin=source.stdout, stderr=subprocess.PIPE,
                                env={**os.environ, "LC_ALL": "C"})
        source.stdout.close()
        return [source, done]


class Export(Command):
    name = "export"
    title = "rbd export - | dd"

    def command(self):
        return ["rbd", "export", "--no-progress", "pool/" + self.images[0].name, "-"]


class LoopPipe(Command):
    name = "loop-pipe"
    title = "librbd loop | dd"

    def command(self):
        return [self.bench.build / "librbd-loop", "pool", self.images[0].name, "out"]


class Loop(Way):
    """librbd alone: nobody gets the bytes."""

    name = "loop"
    title = "librbd loop"

    def forget(self):
        pass


class FioRbd(Way):
    name = "fio"
    title = "fio's rbd engine"


class Dense(Imagefs):
    name = "dense"
    title = "of 1 GiB"


class List(Way):
    name = "list"
    title = "rbd ls -l"

    def forget(self):
        pass


# ---- what is measured ----


def rate(way):
    if not isinstance(way, Loop):
        return run.rate(way)
    start = time.monotonic()
    subprocess.run([way.bench.build / "librbd-loop", "pool", way.images[0].name], check=True,
                   stdin=subprocess.DEVNULL, timeout=LIMIT)
    return way.images[0].size / (time.monotonic() - start) / 1e6


def random_reads(way, jobs):
    """Of fio the reads under way at a time are from one job, of the others from as many."""
    if not isinstance(way, FioRbd):
        program = way.bench.build / "random-reads"
        done = subprocess.run([program, way.path(), str(jobs), str(FIO_SECONDS)],
                              stdout=subprocess.PIPE, text=True, timeout=LIMIT)
        if done.returncode:
            raise SystemExit("rbd.py: %s failed" % program)
        return float(done.stdout)
    need("fio", "fio")
    done = subprocess.run(
        ["fio", "--name=random", "--ioengine=rbd", "--clientname=admin", "--pool=pool",
         "--rbdname=%s" % way.images[0].name, "--readonly", "--rw=randread", "--bs=4k",
         "--iodepth=%d" % jobs, "--time_based", "--runtime=%d" % FIO_SECONDS,
         "--output-format=json"],
        capture_output=True, text=True, timeout=LIMIT, cwd=way.bench.folder)
    if "{" not in done.stdout:
        raise Missing("fio's rbd engine")
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["read"]["iops"]


def copy_seconds(way):
    """Seconds to copy an image to a file: the thin one, or the one that is as large as what
    is in it."""
    index = 1 if isinstance(way, Dense) else 0
    to = way.bench.folder / "copy"
    run.drop_pages(way.path(index))
    start = time.monotonic()
    try:
        subprocess.run(["cp", way.path(index), to], check=True, timeout=LIMIT)
        taken = time.monotonic() - start
        if to.stat().st_size != way.images[index].size:
            raise SystemExit("rbd.py: the copy has another size")
        if to.stat().st_blocks * 512 > 2 * way.bench.size:
            raise SystemExit("rbd.py: the copy is not sparse")
        return taken
    finally:
        to.unlink(missing_ok=True)


def list_all(way):
    if way.server:
        time.sleep(1.5)  # longer than the listing is good for: ttl=1
        command = ["ls", "-l", way.folder]
    else:
        command = ["rbd", "ls", "-l", "pool"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT)
    taken = time.monotonic() - start
    if done.stdout.count(b"image-") != LS_IMAGES:
        raise SystemExit("rbd.py: not all images are listed")
    return taken


def all_rows():
    def row(name, title, unit, measure, peer, images="one", ours=Imagefs):
        return Row(name, title, unit, measure, peer, images=images, ours=ours)

    return [
        row("dd", "dd bs=1M (1.2)", "MB/s", rate, Export),
        row("dd", "dd bs=1M (3)", "MB/s", rate, RbdFuse),
        row("dd", "dd bs=1M (0.8)", "MB/s", rate, Loop),
        row("dd", "dd bs=1M", "MB/s", rate, LoopPipe),
        row("snapshot", "dd bs=1M of a snapshot", "MB/s", rate, Export, ours=Snapshot),
        row("random1", "random 4 KiB, one job (1)", "/s", lambda w: random_reads(w, 1), RbdFuse),
        row("random16", "random 4 KiB, 16 jobs (1.2)", "/s", lambda w: random_reads(w, 16),
            RbdFuse),
        row("random1", "random 4 KiB, one job", "/s", lambda w: random_reads(w, 1), FioRbd),
        row("random16", "random 4 KiB, 16 jobs (0.7)", "/s", lambda w: random_reads(w, 16),
            FioRbd),
        row("cp", "cp of 1 TiB with 1 GiB in it (0.77)", "s", copy_seconds, Dense, images="thin"),
        row("ls", "ls -l of 1,000 images (10)", "s", list_all, List, images="many", ours=Many),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    run.add_arguments(parser)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"),
                        help="where copies and the cluster's files are put (default: /tmp)")
    args = parser.parse_args()

    @contextlib.contextmanager
    def bench():
        if ceph_cluster.missing():
            raise SystemExit("rbd.py: %s" % ceph_cluster.missing())
        with tempfile.TemporaryDirectory(prefix="imagefs-bench-", dir=args.folder) as folder, \
                ceph_cluster.Cluster(auth="none", folder=folder) as cluster:
            os.environ["CEPH_CONF"] = str(cluster.conf)
            yield Bench(args, Path(folder), cluster)

    return run.run(args, all_rows(), bench)


if __name__ == "__main__":
    sys.exit(main())
