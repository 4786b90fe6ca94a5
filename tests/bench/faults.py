#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long people wait when something goes wrong.

	IMAGEFS_BUILD=build tests/bench/faults.py [--runs N]

A line for each figure, the median of N runs (7) and the least and the most, in milliseconds:
from Ctrl-C to the prompt, from the store's death to the error, from its return to data.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "mount")]

import harness
from fakestore import FakeStore

MIB = 1 << 20
STALL = 2  # where it is waited for


def since(begun):
    return 1000 * (time.monotonic() - begun)


def wait_marked(fake, name):
    harness.wait_until(lambda: fake.marked(name), name)


def kill_readers(mount):
    """Returns when it was done."""
    for pid in mount.store_processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return time.monotonic()


def error_time(mount, name, begun):
    try:
        with open(mount / name, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    except OSError:
        return since(begun)
    raise AssertionError("no error")


def ctrl_c(fake, mount, number):
    name = "hangs%d" % number
    fake.fault(fake.image(name, 20 * MIB), "at=%d say=%s hang=deaf" % (5 * MIB, name))
    cat = subprocess.Popen(["cp", mount / name, "/dev/null"])
    wait_marked(fake, name)
    begun = time.monotonic()
    cat.send_signal(signal.SIGINT)
    cat.wait()
    return since(begun)


def death(fake, mount, number, fault):
    """The store dies while an image is read, and whatever is tried anew finds it dead."""
    name = "dies%d" % number
    image = fake.image(name, 20 * MIB)
    fake.fault(image, "at=%d say=%s hang" % (5 * MIB, name))
    with open(mount / name, "rb", buffering=0) as file:
        pid = os.fork()
        if pid == 0:
            try:
                while file.read(MIB):
                    pass
                os._exit(1)
            except OSError:
                os._exit(0)
        wait_marked(fake, name)
        fake.fault(image, fault)
        begun = kill_readers(mount)
        assert os.waitpid(pid, 0)[1] == 0
    return since(begun)


def hang(fake, mount, number):
    name = "stalls%d" % number
    fake.fault(fake.image(name, 20 * MIB), "at=0 hang=deaf")
    harness.wait_until(lambda: os.path.exists(mount / name), "it is listed")
    return error_time(mount, name, time.monotonic()) - 1000 * STALL


def back(fake, mount, number, fault):
    """It was away, and somebody was told so; from when it is there to the first MiB."""
    name = "back%d" % number
    image = fake.image(name, 20 * MIB)
    fake.fault(image, fault)
    error_time(mount, name, time.monotonic())
    with open(mount / name, "rb", buffering=0) as file:
        fake.fault(image)
        begun = time.monotonic()
        while True:
            try:
                assert os.pread(file.fileno(), MIB, 0) == image.bytes(0, MIB)
                return since(begun)
            except OSError:
                time.sleep(0.001)


def back_while_waiting(fake, mount, number):
    """It is away for 2 s while a read waits; the pauses between the tries grow."""
    name = "waits%d" % number
    image = fake.image(name, 20 * MIB)
    fake.fault(image, "say=%s exit=69" % name)
    harness.wait_until(lambda: os.path.exists(mount / name), "it is listed")
    pid = os.fork()
    if pid == 0:
        try:
            with open(mount / name, "rb", buffering=0) as file:
                os._exit(0 if file.read(MIB) == image.bytes(0, MIB) else 1)
        finally:
            os._exit(2)
    wait_marked(fake, name)
    time.sleep(2)
    fake.fault(image)
    begun = time.monotonic()
    assert os.waitpid(pid, 0)[1] == 0
    return since(begun)


FIGURES = {
    "Ctrl-C on a cp that waits, to its end": ctrl_c,
    "store killed and gone for good (status 69), to EIO":
        lambda *a: death(*a, "exit=69"),
    "store killed and the image gone (status 66), to ESTALE": lambda *a: death(*a, "exit=66"),
    "store hangs, to EIO, beyond stall=%d" % STALL: hang,
    "store back after an error, to the first MiB": lambda *a: back(*a, "exit=69"),
    "store back after it hung, to the first MiB": lambda *a: back(*a, "hang=deaf"),
    "store back after 2 s, while a read waits": back_while_waiting,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    harness.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="imagefs-bench-") as folder:
        fake = FakeStore(Path(folder) / "store")
        fine = harness.Mount(Path(folder), fake.uri, ["ttl=0"], noisy=True)
        soon = harness.Mount(Path(folder), fake.uri, ["ttl=0", "stall=%d" % STALL], noisy=True)
        try:
            for mount in (fine, soon):
                mount.wait_ready()
            for number, (title, measure) in enumerate(FIGURES.items()):
                mount = soon if "hangs" in title or "hung" in title else fine
                times = [measure(fake, mount, 100 * number + run) for run in range(args.runs)]
                print("%-56s %8.1f ms (%.1f to %.1f)" % (
                    title, statistics.median(times), min(times), max(times)), flush=True)
            for mount in (fine, soon):
                mount.unmount()
                mount.wait_end()
        finally:
            sys.stdout.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            for mount in (fine, soon):
                mount.abort()


if __name__ == "__main__":
    main()
