# SPDX-License-Identifier: MIT
"""Random schedules of reads, changes, faults and rests: one version's bytes, or an errno.

The seeds are fixed; IMAGEFS_SEED=N begins with another, IMAGEFS_STEPS=N makes each longer.
"""

import os

import pytest
from harness import SANITIZER, wait_until
from model import Reader, World, check_recovery, rest

SEED = int(os.environ.get("IMAGEFS_SEED", 1))
STEPS = int(os.environ.get("IMAGEFS_STEPS", 25 if SANITIZER else 60))
READERS = 4
SMALL = ("ring=2M", "memory=2M", "idle=1", "readahead=128K")
PLENTY = ("idle=1", "ttl=1")
UNCACHED = ("ring=2M", "memory=4M", "idle=1", "ttl=1", "readahead=0")


def run_schedule(world, mount, seed):
    """What happens to the store goes by what was read, not by the time."""
    readers = [Reader(world, mount, "%d %d" % (seed, number), STEPS) for number in range(READERS)]
    for reader in readers:
        reader.start()
    happened = rests = 0
    while any(reader.is_alive() for reader in readers):
        made = sum(reader.made for reader in readers)
        if made >= 3 * happened:
            world.random.choice([world.fault, world.fault, world.change])()
            happened += 1
        if made >= READERS * STEPS * (rests + 1) // 3:
            rest(world, readers, mount)
            rests += 1
        next(reader for reader in readers + readers[:1] if reader.is_alive() or reader is readers[0]
             ).join(0.01)
    for reader in readers:
        reader.join()


@pytest.mark.parametrize("number, options, kinds", [
    (0, SMALL, {}),
    (1, PLENTY, {}),
    (2, UNCACHED, {}),
    (3, SMALL, {"fatal": True}),
    (4, PLENTY, {"fatal": True}),
    (5, (*UNCACHED, "stall=1"), {"fatal": True, "hangs": True}),
], ids=["small", "plenty", "uncached", "small, failing", "plenty, failing", "uncached, hanging"])
def test_a_handle_gives_the_bytes_of_its_version_or_an_errno(fake, mounted, number, options, kinds):
    seed = SEED + number
    print("seed %d, %d steps" % (seed, STEPS))
    world = World(fake, seed, **kinds)
    # In the background all of it is there when the command has ended.
    mount = mounted(fake.uri, *options, background=True)
    descriptors, threads = mount.descriptors(), mount.threads()
    run_schedule(world, mount, seed)
    check_recovery(world, mount)
    counts = world.counts
    print("%d reads, %d bytes, %d errors, %d faults, %d changes, %d rests"
          % (counts.reads, counts.bytes, counts.errors, counts.faults, counts.changes,
             counts.rests))
    assert not counts.wrong, "\n".join([*counts.wrong, (mount / ".imagefs/log").read_text()])
    assert not fake.calls("bad", "ask")
    assert counts.reads and counts.rests
    wait_until(lambda: not mount.store_processes() and mount.descriptors() <= descriptors
               and mount.threads() <= threads, "all is given back")
