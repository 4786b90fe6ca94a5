#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The measurement that imagefs began with, and Glance on both sides of a mount.

Glance fetched images from sheepdog through a pipe, which Python under eventlet read 1024
bytes at a time.  Measured in turns, with the same image:

  a  the pipe as it was: eventlet, select and reads of 1024 bytes
  b  the same with large reads, which was the remedy of that time
  c  oslo_concurrency's processutils.execute(binary=True) under eventlet, as it is today
  d  the image as a file in a mount, read by the same Python; and d+, the mount having
     -o direct_io, which leaves out the page cache
  e  a download from a real Glance whose driver reads that pipe
  f  a download from a real Glance whose file store reads the mount; and f+, that with
     -o direct_io
  g  the same of a plain file, without a mount

and with a Glance as the store that is mounted: cp beside curl, 4 KiB at random, 16 at a time,
beside curl, and a list of 5,000 images.  Needs Debian's glance-api, python3-eventlet,
python3-oslo.concurrency, curl, fio; --picture needs gnuplot-nox.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / "tests" / "stores"))

import glance_cluster
from run import (
    LIMIT, MIB, Missing, drop_pages, end, figure, machine, make_image, need, parse_size,
    random_reads, wait_until,
)  # fmt: skip

HERE = Path(__file__).resolve().parent
IMAGES = 5000
RANDOM_READS = 640
AT_ONCE = 16

# name: (what it is, the way of read_image.py)
PYTHON_WAYS = {
    "a": ("pipe, 1024 bytes a read", "select-1024"),
    "b": ("pipe, large reads", "select-100M"),
    "c": ("processutils.execute today", "execute"),
    "d": ("file in the mount", "file"),
    "d+": ("file in the mount, -o direct_io", "file-direct"),
}
GLANCE_WAYS = {
    "e": "Glance, pipe driver, 1024 bytes a read",
    "f": "Glance, file in the mount",
    "f+": "Glance, file in the mount, -o direct_io",
    "g": "Glance, plain file",
}

# What it has to show: the ratio of the rates of two ways, at least;
RATIOS = [
    ("d", "a", 50),
    ("d", "b", 5),
    ("d+", "a", 50),
    ("d+", "b", 5),
    ("f", "e", 5),
    ("f", "g", 0.8),
    ("f+", "e", 5),
    ("f+", "g", 0.8),
    ("cp", "curl", 0.9),
    ("random", "curl random", 0.9),
]
# and of one way a figure, at most.  The pipes' memory is that of the image, or twice that.
MOST = [("d", "memory", 10, "MB"), ("f", "memory", 10, "MB"), ("f", "first", 200, "ms"),
        ("f+", "first", 200, "ms")]


class PipeGlance(glance_cluster.Glance):
    """A Glance that has the driver of pipe_store.py as well."""

    def prepare(self):
        plugin = self.folder / "plugin"
        info = plugin / "pipe_store-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pipe-store\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[glance_store.drivers]\npipe = pipe_store:Store\n")
        (plugin / "pipe_store.py").write_bytes((HERE / "pipe_store.py").read_bytes())
        self.drop_in = self.folder / "pipe.conf"
        self.drop_in.write_text("[glance_store]\nstores = file, http, pipe\n")
        super().prepare()

    def environment_of_server(self):
        return {**super().environment_of_server(), "PYTHONPATH": str(self.folder / "plugin")}

    def register_pipe(self, path):
        id = self.register("pipe", path, hashed=False)
        with self.database() as database, database:
            database.execute("UPDATE image_locations SET value = ? WHERE image_id = ?",
                             (f"pipe://{path}", id))
        return id

    def worker(self):
        """The process that serves."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0]) if children.split() else self.process.pid


@contextlib.contextmanager
def mounted(bench, store, *options):
    path = Path(tempfile.mkdtemp(prefix="mnt-", dir=bench.folder))
    options = ",".join([f"store_path={bench.build}", *options])
    server = subprocess.Popen([bench.build / "imagefs", "-f", "-o", options, store, path],
                              stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.ismount(path), "imagefs has mounted", server)
        yield path
    finally:
        subprocess.run(["umount", path], timeout=LIMIT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        if server.poll() is None:
            server.kill()
            server.wait(30)
        if os.path.ismount(path):
            subprocess.run(["umount", "-l", path], timeout=LIMIT)


# ---- what is measured: each returns {"rate": MB/s, "first": ms, "memory": MB} ----


def read_by_python(way, path):
    done = subprocess.run(
        [glance_cluster.PYTHON, HERE / "read_image.py", way, path],
        capture_output=True, text=True, timeout=LIMIT, check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    if done.returncode:
        raise SystemExit("glance.py: %s" % done.stderr)
    return json.loads(done.stdout)


def peak_memory(pid):
    """The most memory of a process since the last call, in MB, beyond what it had then."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak


def memory_now(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024 / 1e6


def download(glance, id, size):
    """One download by HTTP, thrown away."""
    pid = glance.worker()
    peak_memory(pid)
    base = memory_now(pid)
    buffer = bytearray(256 << 10)
    start = time.monotonic()
    connection = http.client.HTTPConnection(glance_cluster.HOST, glance.port, timeout=LIMIT)
    connection.request("GET", f"/v2/images/{id}/file")
    answer = connection.getresponse()
    got = answer.readinto(memoryview(buffer)[:1])
    first = time.monotonic() - start
    while count := answer.readinto(buffer):
        got += count
    seconds = time.monotonic() - start
    connection.close()
    if answer.status != 200 or got != size:
        raise SystemExit("glance.py: %d bytes with status %d" % (got, answer.status))
    return {"rate": size / seconds / 1e6, "first": first * 1000,
            "memory": max(0, peak_memory(pid) - base)}


def copy(bench, command, to):
    to.unlink(missing_ok=True)
    start = time.monotonic()
    subprocess.run(command, check=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    size = to.stat().st_size
    to.unlink()
    return {"rate": size / seconds / 1e6}


def curl_random(bench, url, size):
    """4 KiB at random places, side by side on kept connections, in a second."""
    numbers = random.Random(time.time())
    lines = ["parallel", "parallel-max = %d" % AT_ONCE, "silent"]
    for i in range(RANDOM_READS):
        offset = numbers.randrange(size // 4096) * 4096
        lines += (["next"] if i else []) + [
            f'url = "{url}"', f"range = {offset}-{offset + 4095}", "output = /dev/null"]
    config = bench.folder / "curl.conf"
    config.write_text("\n".join(lines) + "\n")
    start = time.monotonic()
    subprocess.run(["curl", "--config", config], check=True, timeout=LIMIT,
                   stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return {"rate": RANDOM_READS / (time.monotonic() - start)}


class Mounted:
    """What run.random_reads() takes for a way to read."""

    def __init__(self, bench, path):
        self.bench = bench
        self.file = path

    def path(self):
        return self.file


def check_same(path, url, size):
    """A copy, and pieces of it, are those of the API."""
    numbers = random.Random(1)
    if subprocess.run(["sh", "-c", 'curl -s "$1" | cmp - "$2"', "-", url, path],
                      timeout=LIMIT).returncode:
        raise SystemExit("glance.py: the copy is another than that of the API")
    with open(path, "rb", buffering=0) as file:
        for _ in range(100):
            offset = numbers.randrange(size - 4096)
            part = glance_cluster.request("GET", url, Range=f"bytes={offset}-{offset + 4095}")
            if os.pread(file.fileno(), 4096, offset) != part.data:
                raise SystemExit("glance.py: the bytes at %d differ" % offset)


# ---- the parts ----


class Bench:
    def __init__(self, args, folder):
        self.build = args.build.resolve()
        self.rounds = args.rounds
        self.size = args.size
        self.folder = folder
        self.results = {}

    def turns(self, ways):
        """Measure the ways in turns: {name: function}; the first turn warms up."""
        taken = {name: [] for name in ways}
        for turn in range(-1, self.rounds):
            order = list(ways.items())
            for name, measure in order if turn % 2 else order[::-1]:
                found = measure()
                if turn >= 0:
                    taken[name].append(found)
        self.results.update(taken)
        for name, found in taken.items():
            print_row(name, found)


def read_pipes(bench):
    images = bench.folder / "images"
    image = images / "image"
    with mounted(bench, images) as mount, mounted(bench, images, "direct_io") as direct:
        paths = {"d": mount / "image", "d+": direct / "image"}

        def read(name):
            path = paths.get(name, image)
            if name in paths:
                drop_pages(path)
            return read_by_python(PYTHON_WAYS[name][1], path)

        bench.turns({name: lambda name=name: read(name) for name in PYTHON_WAYS})


def download_all(bench):
    images = bench.folder / "images"
    size = (images / "image").stat().st_size
    with mounted(bench, images) as mount, mounted(bench, images, "direct_io") as direct, \
            PipeGlance(folder=bench.folder) as glance:
        ids = {"e": glance.register_pipe(images / "image"),
               "f": glance.register("mount", mount / "image", hashed=False),
               "f+": glance.register("direct", direct / "image", hashed=False),
               "g": glance.register("plain", images / "image", hashed=False)}

        def fetch(name):
            drop_pages(mount / "image")
            return download(glance, ids[name], size)

        bench.turns({name: lambda name=name: fetch(name) for name in GLANCE_WAYS})


def copy_out(bench):
    for program, package in (("curl", "curl"), ("fio", "fio")):
        need(program, package)
    size = bench.size
    plain = bench.folder / "large"
    make_image(plain, size)
    with glance_cluster.Glance(folder=bench.folder) as glance:
        id = glance.register("large", plain, hashed=False)
        url, to = glance.file_url(id), bench.folder / "copy"
        with mounted(bench, glance.uri) as mount:
            image = mount / "large"
            check_same(image, url, size)

            def by_cp():
                drop_pages(image)
                return copy(bench, ["cp", image, to], to)

            bench.turns({"cp": by_cp,
                         "curl": lambda: copy(bench, ["curl", "-s", "-o", to, url], to)})
            bench.turns({
                "random": lambda: {"rate": random_reads(Mounted(bench, image), AT_ONCE)},
                "curl random": lambda: curl_random(bench, url, size)})
    plain.unlink()


def list_many(bench):
    with glance_cluster.Glance(folder=bench.folder) as glance:
        ids = glance.add_many(IMAGES)

        def listed():
            start = time.monotonic()
            done = subprocess.run(
                [bench.build / "imagefs", "list", "--json", "-o", f"store_path={bench.build}",
                 glance.uri], capture_output=True, check=True, timeout=LIMIT)
            seconds = time.monotonic() - start
            found = [json.loads(line)["id"] for line in done.stdout.splitlines()]
            if sorted(found) != sorted(ids):
                raise SystemExit("glance.py: not all images are listed")
            return {"rate": IMAGES / seconds}

        def by_api():
            start = time.monotonic()
            path, count = "/v2/images?limit=1000&status=active", 0
            while path:
                page = glance.ask("GET", path)
                count += len(page["images"])
                path = page.get("next")
            assert count == IMAGES
            return {"rate": IMAGES / (time.monotonic() - start)}

        bench.turns({"list": listed, "api": by_api})


PARTS = {"pipes": read_pipes, "downloads": download_all, "copies": copy_out, "lists": list_many}
TITLES = {
    **{name: title for name, (title, _) in PYTHON_WAYS.items()}, **GLANCE_WAYS,
    "cp": "cp out of a mounted Glance", "curl": "curl of the same URL",
    "random": "4 KiB at random, 16 at a time", "curl random": "the same with curl",
    "list": "imagefs list of 5,000", "api": "the same pages, by Python",
}  # fmt: skip
UNITS = {"random": "/s", "curl random": "/s", "list": "/s", "api": "/s"}


# ---- telling ----


def medians(found, key):
    return [each[key] for each in found if key in each]


def print_row(name, found):
    rates = medians(found, "rate")
    print("%-12s %-40s %9s %-5s %9s %9s   %s-%s" % (
        name, TITLES[name], figure(rates), UNITS.get(name, "MB/s"),
        figure(medians(found, "first")), figure(medians(found, "memory")),
        figure([min(rates)]), figure([max(rates)])), flush=True)


def ratios(results, one, other):
    if one not in results or other not in results:
        return []
    return [a["rate"] / b["rate"] for a, b in zip(results[one], results[other])]


def print_bounds(results):
    for one, other, least in RATIOS:
        found = ratios(results, one, other)
        if found:
            print("%-20s %8.2f  (%.2f-%.2f; at least %g)" % (
                one + " : " + other, statistics.median(found), min(found), max(found), least))
    for name, key, most, unit in MOST:
        found = medians(results.get(name, []), key)
        if found:
            print("%-20s %8.2f  (%.2f-%.2f; at most %g %s)" % (
                "%s, %s" % (name, "first byte" if key == "first" else key),
                statistics.median(found), min(found), max(found), most, unit))


def draw(results, path, about):
    """The rates as bars, with memory and first byte beside them, by gnuplot."""
    names = [name for name in (*PYTHON_WAYS, *GLANCE_WAYS) if name in results][::-1]
    lines = ["$rows << END"]
    for i, name in enumerate(names):
        found = results[name]
        rate, first, memory = (statistics.median(medians(found, key))
                               for key in ("rate", "first", "memory"))
        lines.append("%d %g \"%.0f MB/s, first byte %.0f ms, memory %.0f MB\"" % (
            i, rate, rate, first, memory))
    lines += [
        "END",
        "set terminal pngcairo size 1000,%d font ',10'" % (110 + 36 * len(names)),
        "set output '%s'" % str(path).replace("'", "''"), "set tmargin 3",
        "set label 'An image read by Python under eventlet, and downloaded from Glance; %s' "
        "at screen 0.5, 0.96 center noenhanced" % about.replace("'", "''"),
        "set logscale x", "set xrange [10:200000]", "set xtics (10, 100, 1000, 10000) nomirror",
        "set xlabel 'MB/s'",
        "set yrange [-0.7:%d-0.3]" % len(names), "set grid xtics", "set border 1", "unset key",
        "set ytics scale 0 noenhanced (%s)" % ", ".join(
            "'%s' %d" % (TITLES[name], i) for i, name in enumerate(names)),
        "set style fill solid 0.6 noborder",
        "plot $rows using (10):1:(10):2:($1-0.3):($1+0.3) with boxxyerror lc '#4878a8', \\",
        " $rows using 2:1:3 with labels left offset 1,0 noenhanced",
    ]
    subprocess.run(["gnuplot"], input="\n".join(lines), text=True, check=True, timeout=LIMIT)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--parts", metavar="PATTERN", type=re.compile,
                        help="only these of: %s" % ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=7, help="runs of each (default: 7)")
    parser.add_argument("--size", type=parse_size, default=1 << 30,
                        help="of the image that is copied out of Glance (default: 1G)")
    parser.add_argument("--pipe-size", type=parse_size, default=1 << 30,
                        help="of the image of a to g (default: 1G)")
    parser.add_argument("--build", type=Path, default=SOURCE / "build",
                        help="where imagefs was built (default: build)")
    parser.add_argument("--source-dir", type=Path, default=Path("/dev/shm"),
                        help="where the images are put (default: /dev/shm)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--load", type=Path, action="append", default=[], metavar="FILE",
                        help="measure nothing but what --parts says, and take what an earlier "
                             "run wrote with --json")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw a to g")
    args = parser.parse_args()
    args.parts = args.parts or re.compile("^$" if args.load else "")
    return args


def load(path, results):
    """Take the results of an earlier run.  Returns what it says of the machine."""
    earlier = json.loads(path.read_text())
    for name, found in earlier["results"].items():
        results[name] = found
        print_row(name, found)
    return earlier["machine"]


def main():
    args = parse_args()
    lacking = glance_cluster.missing()
    if lacking:
        raise SystemExit("glance.py: %s (Debian package glance-api)" % lacking)
    if args.picture:
        try:
            need("gnuplot", "gnuplot-nox")
        except Missing as error:
            raise SystemExit("glance.py: --picture needs %s" % error) from None
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    about = machine()
    with tempfile.TemporaryDirectory(prefix="imagefs-bench-", dir=args.source_dir) as folder:
        bench = Bench(args, Path(folder))
        (bench.folder / "images").mkdir()
        make_image(bench.folder / "images" / "image", args.pipe_size)
        print("%-12s %-40s %15s %9s %9s   %s" % ("", "", "", "first ms", "memory MB", "spread"))
        for path in args.load:
            about = load(path, bench.results)
        for name, part in PARTS.items():
            if args.parts.search(name):
                try:
                    part(bench)
                except Missing as error:
                    print("%s: missing: %s" % (name, error))
    print_bounds(bench.results)
    if args.json:
        args.json.write_text(json.dumps(
            {"machine": about, "size": args.size, "pipe_size": args.pipe_size,
             "rounds": args.rounds, "results": bench.results}, indent=1) + "\n")
    if args.picture:
        draw(bench.results, args.picture, "%d x %s" % (about["count"], about["processor"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
