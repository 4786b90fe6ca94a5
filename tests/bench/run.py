#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measure imagefs beside other ways to read an image.

Each row runs imagefs and its peer in turns, so that whatever else the machine does hits both,
and tells the median of the ratios of each turn and their spread.  More than 1 means that
imagefs is ahead.  Before each run the pages that the kernel keeps of the mounted file, and
only those, are dropped; the image itself stays warm.  Peers that are not installed are said
to be missing.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
MIB = 1 << 20
GIB = 1 << 30
LIMIT = 600  # seconds after which a run is taken to hang
LS_IMAGES = 10000
FIRST_READS = 20  # of each measurement of the first byte
FIO_SECONDS = 3
TICK = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """Something that a row needs is not installed."""


def need(program, package):
    if not shutil.which(program):
        raise Missing("%s (Debian package %s)" % (program, package))
    return program


def wait_until(condition, what, process):
    end = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("run.py: not so: %s" % what)
        time.sleep(0.01)


def has_size(path, size):
    with contextlib.suppress(OSError):
        return os.stat(path).st_size == size
    return False


def drop_pages(path):
    """Have the kernel forget what it keeps of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def process_tree(pid):
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path("/proc", entry, "stat").read_text(errors="replace")
                parents[int(entry)] = int(stat[stat.rindex(")") + 2:].split()[1])
    tree = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in tree} - tree
        if not more:
            return tree
        tree |= more


def cpu_seconds(pid):
    """What a process and those below it used so far, those that were waited for as well."""
    ticks = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            stat = Path("/proc/%d/stat" % member).read_text(errors="replace")
            ticks += sum(map(int, stat[stat.rindex(")") + 2:].split()[11:15]))
    return ticks / TICK


# ---- the ways to read an image ----


class Way:
    """One way to come to the bytes of the images; a file for each, if it has a server."""

    name = ""
    server = None  # the process, if there is one

    def __init__(self, bench, images):
        self.bench = bench
        self.images = images
        self.folder = Path(tempfile.mkdtemp(prefix=self.name + "-", dir=bench.folder))

    def open(self):
        pass

    def start(self, *command):
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def close(self):
        if not self.server:
            return
        subprocess.run(["umount", *self.mounts()], stderr=subprocess.DEVNULL, timeout=LIMIT)
        if self.server.poll() is None:
            self.server.terminate()
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait(30)
        for mount in self.mounts():
            if os.path.ismount(mount):
                subprocess.run(["umount", "-l", mount], timeout=LIMIT)

    def mounts(self):
        return [self.folder]

    def path(self, index=0):
        """The file to read, or None: by a pipe."""
        return None

    def reads(self, index=0, flags=(), to="/dev/null"):
        """The processes that read an image, started; the last of them is dd."""
        dd = ["dd", "of=%s" % to, "bs=1M", *flags]
        keys = {"stderr": subprocess.PIPE, "env": {**os.environ, "LC_ALL": "C"}}
        if self.path(index):
            return [subprocess.Popen([*dd, "if=%s" % self.path(index)], **keys)]
        cat = subprocess.Popen(["cat", self.images[index]], stdout=subprocess.PIPE)
        done = subprocess.Popen([*dd, "iflag=fullblock"] if to != "/dev/null" else dd,
                                stdin=cat.stdout, **keys)
        cat.stdout.close()
        return [cat, done]

    def forget(self):
        for index in range(len(self.images)):
            if self.path(index):
                drop_pages(self.path(index))


class Pipe(Way):
    name = "cat"
    title = "cat | dd"


class Imagefs(Way):
    name = title = "imagefs"
    options = ()

    def open(self):
        build = self.bench.build
        if not (build / "imagefs").exists():
            raise SystemExit("run.py: %s: not there (meson setup build && ninja -C build)"
                             % (build / "imagefs"))
        options = ",".join(["store_path=%s" % build, *self.options])
        self.start(build / "imagefs", "-f", "-o", options, self.images[0].parent, self.folder)
        wait_until(lambda: os.path.ismount(self.folder), "imagefs has mounted", self.server)

    def path(self, index=0):
        return self.folder / self.images[index].name


class Nbdfuse(Way):
    name = title = "nbdfuse"

    def open(self):
        need("nbdfuse", "libnbd-bin")
        need("nbdkit", "nbdkit")
        self.start("nbdfuse", self.path(), "[", "nbdkit", "file", self.images[0], "]")
        size = self.images[0].stat().st_size
        wait_until(lambda: has_size(self.path(), size), "nbdfuse has mounted", self.server)

    def path(self, index=0):
        return self.folder / "image"


class Qemu(Way):
    name = "qemu"
    title = "qemu's export"

    def open(self):
        need("qemu-storage-daemon", "qemu-system-common")
        self.path().touch()
        self.start("qemu-storage-daemon",
                   "--blockdev", "driver=file,node-name=image,read-only=on,filename=%s"
                   % self.images[0],
                   "--export", "type=fuse,id=export,node-name=image,mountpoint=%s" % self.path())
        size = self.images[0].stat().st_size
        wait_until(lambda: has_size(self.path(), size), "qemu has mounted", self.server)

    def mounts(self):
        return [self.path()]

    def path(self, index=0):
        return self.folder / "image"


class Folder(Way):
    name = title = "folder"

    def path(self, index=0):
        return self.images[index]

    def forget(self):
        pass


# ---- what is measured: each takes a way and returns a figure ----


def finish(processes, size):
    """Wait for the processes of Way.reads(); their CPU seconds."""
    said = processes[-1].stderr.read().decode()
    processes[-1].stderr.close()
    seconds = 0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds += usage.ru_utime + usage.ru_stime
        if process.returncode:
            raise SystemExit("run.py: %s failed: %s" % (process.args[0], said))
    if not re.search(r"^%d bytes" % size, said, re.M):
        raise SystemExit("run.py: not %d bytes were read: %s" % (size, said))
    return seconds


def rate(way, flags=(), to="/dev/null"):
    size = way.images[0].stat().st_size
    start = time.monotonic()
    finish(way.reads(flags=flags, to=to), size)
    return size / (time.monotonic() - start) / 1e6


def rate_direct(way):
    return rate(way, ["iflag=direct"] if way.path() else [])


def rate_cp(way):
    to = way.bench.folder / "copy"
    to.unlink(missing_ok=True)
    try:
        if not way.path():
            return rate(way, to=to)
        start = time.monotonic()
        subprocess.run(["cp", way.path(), to], check=True, timeout=LIMIT)
        return way.images[0].stat().st_size / (time.monotonic() - start) / 1e6
    finally:
        to.unlink(missing_ok=True)


def rate_four(way):
    start = time.monotonic()
    running = [way.reads(index) for index in range(4)]
    size = 0
    for image, processes in zip(way.images, running):
        finish(processes, image.stat().st_size)
        size += image.stat().st_size
    return size / (time.monotonic() - start) / 1e6


def cpu(way):
    before = cpu_seconds(way.server.pid) if way.server else 0
    size = way.images[0].stat().st_size
    seconds = finish(way.reads(), size)
    if way.server:
        seconds += cpu_seconds(way.server.pid) - before
    return seconds * GIB / size


def first_byte(way):
    """Milliseconds until a byte of an image is there, nothing of it being open or kept."""
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
            with subprocess.Popen(["cat", way.images[0]], stdout=subprocess.PIPE) as cat:
                got = os.read(cat.stdout.fileno(), 1)
                taken.append(time.monotonic() - start)
        if len(got) != 1:
            raise SystemExit("run.py: no byte came")
    return 1000 * statistics.median(taken)


def list_all(way):
    """Seconds for ls -l, the store being listed anew."""
    if way.server:
        time.sleep(1.5)  # longer than the names and the listing are good for: ttl=1
    folder = way.path().parent
    start = time.monotonic()
    done = subprocess.run(["ls", "-l", folder], capture_output=True, check=True, timeout=LIMIT)
    taken = time.monotonic() - start
    if done.stdout.count(b"\n") != LS_IMAGES + 1:
        raise SystemExit("run.py: ls did not show all images")
    return taken


def random_reads(way, jobs, flags=(), check=True):
    need("fio", "fio")
    done = subprocess.run(
        ["fio", "--name=random", "--filename=%s" % way.path(), "--readonly", "--rw=randread",
         "--bs=4k", "--direct=1", "--ioengine=psync", "--thread", "--numjobs=%d" % jobs,
         "--group_reporting", "--time_based", "--runtime=%d" % FIO_SECONDS, "--invalidate=0",
         "--output-format=json", *flags],
        capture_output=True, text=True, check=check, timeout=LIMIT, cwd=way.bench.folder)
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["read"]["iops"]


class Many(Imagefs):
    options = ("ttl=1",)


class Row:
    def __init__(self, name, title, unit, measure, peer, images="one", ours=Imagefs):
        self.name = "%s:%s" % (name, peer.name)
        self.title = "%s : %s" % (title, peer.title)
        self.unit = unit
        self.measure = measure
        self.ways = (ours, peer)
        self.set = images


def all_rows():
    rows = []

    def add(peers, name, title, unit, measure, **keys):
        rows.extend(Row(name, title, unit, measure, peer, **keys) for peer in peers)

    mounts = (Nbdfuse, Qemu)
    add((Pipe, *mounts), "dd", "dd bs=1M", "MB/s", rate)
    add((Pipe, *mounts), "direct", "dd bs=1M iflag=direct", "MB/s", rate_direct)
    add((Pipe,), "cp", "cp", "MB/s", rate_cp)
    add((Pipe,), "four", "four dd at once", "MB/s", rate_four, images="four")
    add((Pipe, *mounts), "cpu", "CPU", "s/GiB", cpu)
    add((Pipe, *mounts), "first", "first byte", "ms", first_byte)
    add((Folder,), "ls", "ls -l of 10,000", "s", list_all, images="many", ours=Many)
    add(mounts, "random1", "random 4 KiB, one at a time", "/s", lambda w: random_reads(w, 1))
    add(mounts, "random16", "random 4 KiB, 16 at a time", "/s", lambda w: random_reads(w, 16))
    return rows


LESS_IS_BETTER = ("s/GiB", "ms", "s")


# ---- running ----


def make_image(path, size):
    with open(path, "wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))


class Bench:
    room = 2.2  # that is needed, in sizes of the image

    def __init__(self, args, folder):
        self.build = args.build.resolve()
        self.rounds = args.rounds
        self.size = args.size
        self.folder = folder
        self.sets = {}

    def images(self, which):
        """The images of a set, in a folder of their own, made when first asked for."""
        if which in self.sets:
            return self.sets[which]
        folder = self.folder / which
        folder.mkdir()
        count, size = {"one": (1, self.size), "four": (4, self.size // 4),
                       "many": (LS_IMAGES, 4096)}[which]
        paths = [folder / ("image-%05d" % i) for i in range(count)]
        for path in paths:
            make_image(path, size)
        self.sets[which] = paths
        return paths

    def forget_set(self, which):
        for path in self.sets.pop(which, []):
            path.unlink()
        with contextlib.suppress(OSError):
            (self.folder / which).rmdir()

    def close(self):
        for which in list(self.sets):
            self.forget_set(which)

    def run_row(self, row):
        """Measure a row: {"imagefs": [figure], "peer": [figure], "ratio": [times]}."""
        images = self.images(row.set)
        figures = ([], [])
        missing = None
        with contextlib.ExitStack() as stack:
            ways = []
            for kind in row.ways:
                way = kind(self, images)
                stack.callback(way.close)
                try:
                    way.open()
                    ways.append(way)
                except Missing as error:
                    missing = str(error)
            try:
                for turn in range(-1, self.rounds):  # the first one warms up
                    order = list(zip(ways, figures))
                    for way, taken in order if turn % 2 else order[::-1]:
                        way.forget()
                        figure = row.measure(way)
                        if turn >= 0:
                            taken.append(figure)
            except Missing as error:
                missing = str(error)
        ratios = [a / b for a, b in zip(*figures)]
        if row.unit in LESS_IS_BETTER:
            ratios = [1 / ratio for ratio in ratios]
        return {"name": row.name, "title": row.title, "unit": row.unit, "missing": missing,
                "imagefs": figures[0], "peer": figures[1], "ratio": ratios}


def print_head():
    print("%-44s %9s %9s  %-6s %6s  %s" % ("imagefs : peer", "imagefs", "peer", "", "times",
                                          "spread"), flush=True)


def figure(values):
    if not values:
        return "-"
    median = statistics.median(values)
    return "%.0f" % median if median >= 100 else "%.3g" % median


def print_row(result):
    print("%-44s %9s %9s  %-6s" % (result["title"], figure(result["imagefs"]),
                                   figure(result["peer"]), result["unit"]), end=" ")
    if result["ratio"]:
        print("%6.2f  %.2f-%.2f" % (statistics.median(result["ratio"]), min(result["ratio"]),
                                    max(result["ratio"])), flush=True)
    else:
        print("missing: %s" % result["missing"], flush=True)


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"processor": model[1] if model else platform.machine(), "count": os.cpu_count(),
            "kernel": platform.release(), "root": os.geteuid() == 0,
            "load_before": os.getloadavg()[0], "time": time.strftime("%Y-%m-%d %H:%M:%S")}


def draw(results, path, about):
    """The ratios as bars from 1 on, with their spread, by gnuplot."""
    rows = [r for r in results if r["ratio"]][::-1]
    if not rows:
        return
    lines = ["$rows << END"]
    for i, row in enumerate(rows):
        lines.append("%d %g %g %g" % (i, statistics.median(row["ratio"]), min(row["ratio"]),
                                      max(row["ratio"])))
    lines += [
        "END",
        "set terminal pngcairo size 1000,%d font ',11'" % (140 + 30 * len(rows)),
        "set tmargin 3", "set output '%s'" % str(path).replace("'", "''"),
        "set label 'imagefs : others, in times (more is better); %s' at screen 0.5, 0.97 "
        "center noenhanced" % about,
        "set logscale x", "set xrange [*<0.5:2<*]",
        "set xtics nomirror (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)",
        "set yrange [-0.7:%d-0.3]" % len(rows), "set grid xtics", "set border 1", "unset key",
        "set arrow from 1, graph 0 to 1, graph 1 nohead lw 2",
        "set ytics scale 0 noenhanced (%s)" % ", ".join(
            "'%s' %d" % (row["title"].replace("'", "''"), i) for i, row in enumerate(rows)),
        "set style fill solid 0.6 noborder",
        "plot $rows using (1):1:(1):2:($1-0.3):($1+0.3) with boxxyerror lc '#4878a8', \\",
        " $rows using 2:1:3:4 with xerrorbars pt 7 ps 0.6 lc 'black'",
    ]
    subprocess.run(["gnuplot"], input="\n".join(lines), text=True, check=True, timeout=LIMIT)


def parse_size(text):
    match = re.fullmatch(r"(\d+)([KMG]?)", text, re.I)
    if not match:
        raise argparse.ArgumentTypeError("a size is 512M, 1G, ...")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def add_arguments(parser):
    """The arguments that all benchmarks have."""
    parser.add_argument("--rows", default="", metavar="PATTERN", type=re.compile,
                        help="only rows whose name this regular expression is in")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each (default: 7)")
    parser.add_argument("--size", type=parse_size, default=GIB, help="of the image (default: 1G)")
    parser.add_argument("--build", type=Path, default=SOURCE / "build",
                        help="where imagefs was built (default: build)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the ratios")


def parse_args(description):
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    add_arguments(parser)
    parser.add_argument("--source-dir", type=Path, default=Path("/dev/shm"),
                        help="where the images are put (default: /dev/shm)")
    return parser.parse_args()


def end(number, frame):
    raise SystemExit(128 + number)


def run(args, rows, bench):
    """Measure the @rows that were asked for; @bench() is a context manager that makes the
    Bench.  Returns the exit status."""
    rows = [row for row in rows if re.search(args.rows, row.name)]
    if args.list or not rows:
        print("\n".join(row.name for row in rows) or "no such row")
        return 0 if rows else 1
    if args.picture:
        try:
            need("gnuplot", "gnuplot-nox")
        except Missing as error:
            raise SystemExit("run.py: --picture needs %s" % error) from None
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    about = machine()
    results = []
    with bench() as made:
        print_head()
        for row in rows:
            for other in set(made.sets) - {row.set}:
                made.forget_set(other)
            results.append(made.run_row(row))
            print_row(results[-1])
    if args.json:
        args.json.write_text(json.dumps(
            {"machine": about, "size": args.size, "rounds": args.rounds, "rows": results},
            indent=1) + "\n")
    if args.picture:
        draw(results, args.picture, "%d x %s" % (about["count"], about["processor"]))
    return 0


def main(rows=None, bench_class=Bench, description=__doc__):
    """Measure @rows, all that are here by default, with a bench of @bench_class."""
    args = parse_args(description)

    @contextlib.contextmanager
    def bench():
        if shutil.disk_usage(args.source_dir).free < bench_class.room * args.size:
            raise SystemExit("run.py: not enough room in %s (see --size, --source-dir)"
                             % args.source_dir)
        with tempfile.TemporaryDirectory(prefix="imagefs-bench-", dir=args.source_dir) as folder:
            made = bench_class(args, Path(folder))
            try:
                yield made
            finally:
                made.close()

    return run(args, rows or all_rows(), bench)


if __name__ == "__main__":
    sys.exit(main())
