#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Read for a long time while readers die and images change, and compare every byte.

	IMAGEFS_BUILD=build tests/soak.py [--minutes N] [--seed N] [--json FILE]

Once a minute all reading stops: the memory, descriptors, threads and processes of the daemon
have to be what they were the first time.  Prints a table of figures; the status is 1 if a byte
was wrong, an errno was one that nothing was the cause of, a read hung, or something leaked.
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "mount")]

import errno

import harness
from fakestore import FakeStore
from model import Reader, World, check_recovery

READERS = 6
STALL = 5
HANG = 60  # seconds; a step of a reader waits for a store that hangs a few times at most
OPTIONS = ("stall=%d" % STALL, "idle=2", "ttl=1", "memory=12M", "ring=4M")
REST_EVERY = 60
LEAK_BYTES = 32 << 20  # beyond what it had when it first rested


def resident(pid):
    text = Path("/proc/%d/status" % pid).read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


def percentile(values, share):
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


class Soak:
    def __init__(self, folder, seed):
        self.world = World(FakeStore(folder / "store"), seed, names=8, fatal=True, hangs=True)
        self.random = random.Random("kill %d" % seed)
        self.mount = harness.Mount(folder, self.world.fake.uri, OPTIONS, background=True)
        self.mount.wait_ready()
        self.readers = [Reader(self.world, self.mount, "%d %d" % (seed, number), sys.maxsize)
                        for number in range(READERS)]
        self.rests = []  # (bytes, descriptors, threads, processes) when nothing is read
        self.hung = set()

    def kill(self):
        """End a reader from outside; it may be the sixth time in a row for what it reads."""
        for version in self.world.current.values():
            if version:
                version.errnos.add(errno.EIO)
        programs = self.mount.store_processes()
        if programs:
            program = self.random.choice(programs)
            if harness.command_of(program).split(" ")[1:2] == ["list"]:
                self.world.list_died = time.monotonic()
            try:
                os.kill(program, self.random.choice(
                    [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]))
            except ProcessLookupError:
                return
            self.world.counts.add(deaths=1)

    def look_for_hangs(self):
        for reader in self.readers:
            begun = reader.begun
            if begun and time.monotonic() - begun > HANG and (reader, begun) not in self.hung:
                self.hung.add((reader, begun))

    def rest(self):
        """All close what they have open, and the daemon is looked at."""
        self.world.resting.set()
        for reader in self.readers:
            while reader.is_alive() and not reader.rests.wait(1):
                self.look_for_hangs()
        for reader in self.readers:
            reader.close_all()
        pid, before = self.mount.pid, None
        end = time.monotonic() + 30
        # The first time nothing is known of what it should be: it is when it falls no more.
        while time.monotonic() < end:
            now = (self.mount.descriptors(), self.mount.threads(), len(self.mount.children()))
            if not self.mount.store_processes() and (
                    now == before if not self.rests
                    else all(a <= b for a, b in zip(now, self.rests[0][1:]))):
                break
            before = now
            time.sleep(0.5)
        self.rests.append((resident(pid), *now))
        self.world.counts.add(rests=1)
        self.world.resting.clear()
        for reader in self.readers:
            while reader.is_alive() and reader.rests.is_set():
                time.sleep(0.01)

    def run(self, seconds):
        begun = time.monotonic()
        next_rest = begun + min(REST_EVERY, seconds / 4)
        for reader in self.readers:
            reader.start()
        while time.monotonic() < begun + seconds:
            self.random.choice([self.world.fault, self.world.fault, self.kill, self.kill,
                                self.world.change])()
            time.sleep(self.random.random() / 4)
            self.look_for_hangs()
            if time.monotonic() > next_rest:
                self.rest()
                next_rest = time.monotonic() + min(REST_EVERY, seconds / 4)
        for reader in self.readers:
            reader.ending = True
        for reader in self.readers:
            reader.join(HANG)
            if reader.is_alive():
                self.hung.add((reader, reader.begun))
        self.rest()
        check_recovery(self.world, self.mount)

    def leaks(self):
        first, last = self.rests[0], self.rests[-1]
        names = ("bytes of memory", "descriptors", "threads", "processes")
        slack = (LEAK_BYTES, 0, 0, 0)
        return ["%s: %d, and %d in the end" % (name, was, now)
                for name, was, now, more in zip(names, first, last, slack) if now > was + more]

    def figures(self, seconds):
        counts = self.world.counts
        waits = sorted(counts.waits)
        return {
            "minutes": round(seconds / 60, 1), "reads": counts.reads, "opens": counts.opens,
            "bytes_compared": counts.bytes, "seeks": counts.seeks,
            "faults": counts.faults, "readers_killed": counts.deaths,
            "images_changed": counts.changes, "reads_failed": counts.errors,
            "mismatches": len(counts.wrong), "hangs": len(self.hung), "leaks": self.leaks(),
            "wait_ms": {name: round(1000 * percentile(waits, share), 2) for name, share in
                        (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))},
            "memory_mib": [round(rest[0] / (1 << 20), 1) for rest in self.rests],
            "descriptors": [rest[1] for rest in self.rests],
            "threads": [rest[2] for rest in self.rests],
            "processes": [rest[3] for rest in self.rests],
        }


def table(figures):
    ends = {name: "%s first, %s last, %s most" % (values[0], values[-1], max(values))
            for name, values in figures.items() if isinstance(values, list) and name != "leaks"}
    shown = {**figures, **ends, "leaks": len(figures["leaks"]), "wait_ms": ", ".join(
        "%s %s" % pair for pair in figures["wait_ms"].items())}
    return "\n".join("%-16s %s" % (name.replace("_", " "), value)
                     for name, value in shown.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("seed %d" % args.seed, flush=True)
    harness.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="imagefs-soak-") as folder:
        os.chmod(folder, 0o755)
        leftovers = harness.Leftovers(Path(folder))
        soak = Soak(Path(folder), args.seed)
        begun = time.monotonic()
        try:
            soak.run(60 * args.minutes)
            figures = soak.figures(time.monotonic() - begun)
            log = (soak.mount / ".imagefs/log").read_text()
            soak.mount.end()
        finally:
            soak.mount.abort()
        leftovers.check()
    print(table(figures))
    for line in [*soak.world.counts.wrong[:20], *figures["leaks"]]:
        print(line)
    bad = figures["mismatches"] or figures["hangs"] or figures["leaks"]
    if bad:
        print(log)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
