# SPDX-License-Identifier: MIT
"""The sheepdog store on real sheep of unusual clusters, and under load through the mount."""

import concurrent.futures
import errno
import mmap
import os
import random
import socket
import struct
import threading
import time

import pytest

import harness
import sheepdog_cluster
from test_sheepdog_cluster import (
    AGAIN, GIB, GONE, IO, KIB, MIB, OBJECT, TIB, UNAVAILABLE, Client, Reader, cluster_of,
    content, content_of, create, dog_read, extents, fails, listed, read, run, uri_of, write,
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    sheepdog_cluster.missing() is not None, reason=str(sheepdog_cluster.missing())
)


@pytest.fixture
def cluster():
    with cluster_of() as cluster:
        yield cluster


def make_every_kind(cluster, size):
    """VDIs of each kind, some with data in part; {name: what is in it}."""
    kinds = {
        "plain": (), "small": ("-z", "20"), "large": ("-z", "25"), "tree": ("-y",),
        "code": ("-c", "2:1"), "codetree": ("-y", "-c", "2:1"), "one": ("-c", "3"),
    }  # fmt: skip
    expected = {}
    for seed, (name, arguments) in enumerate(kinds.items()):
        data = bytearray(size)
        cluster.dog("vdi", "create", *arguments, name, size)
        for at in range(0, size, size // 3):
            piece = content(min(size // 5, size - at), (seed << 20) + at)
            data[at : at + len(piece)] = piece
            write(cluster, name, piece, offset=at)
        expected[name] = bytes(data)
        if "-y" in arguments:
            continue  # sheepdog makes no snapshots of these
        cluster.dog("vdi", "snapshot", "-s", "s", name)
        expected[name + "@s"] = expected[name]
        cluster.dog("vdi", "clone", "-s", "s", name, name + "-clone")
        later = content(MIB, seed + 77)
        write(cluster, name + "-clone", later, offset=size // 2)
        data[size // 2 : size // 2 + MIB] = later
        expected[name + "-clone"] = bytes(data)
    return expected


def read_at_random(path, data, seed, stop, direct=False):
    """Read @path as its kind of reader does, until @stop; every byte has to be right."""
    dice = random.Random(seed)
    flags = os.O_RDONLY | (os.O_DIRECT if direct else 0)
    rounds = 0
    while not stop.is_set() or rounds == 0:
        rounds += 1
        fd = os.open(path, flags)
        try:
            if dice.random() < 0.3:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            at = dice.randrange(len(data)) & ~4095
            for _ in range(dice.randrange(1, 60)):
                length = dice.choice([4 * KIB, 4 * KIB, 64 * KIB, MIB, 3 * MIB])
                if dice.random() < 0.5:
                    at = dice.randrange(len(data)) & ~4095
                if direct:
                    buffer = mmap.mmap(-1, length)
                    got = os.preadv(fd, [buffer], at)
                    piece = buffer[:got]
                else:
                    piece = os.pread(fd, length, at)
                wanted = data[at : at + length]
                assert len(piece) == len(wanted), (path, at, length, len(piece))
                if piece != wanted:
                    bad = next(i for i in range(len(wanted)) if piece[i] != wanted[i])
                    raise AssertionError((str(path), at, length, bad))
                at = (at + length) % len(data) & ~4095
        finally:
            os.close(fd)
    return rounds


@pytest.mark.limit(400)
def test_every_byte_is_right_while_nodes_die_and_come_back(mounted):
    with cluster_of(nodes=5, copies=3) as cluster:
        expected = make_every_kind(cluster, 41 * MIB + 512)
        for name, data in expected.items():
            base, _, tag = name.partition("@")
            assert dog_read(cluster, base, tag=tag) == data
        mount = mounted(uri_of(cluster, 0, 1), "ttl=1")
        assert sorted(os.listdir(mount.path)) == sorted(expected)
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            jobs = []
            for seed, (name, data) in enumerate(expected.items()):
                jobs.append(pool.submit(read_at_random, mount / name, data, seed, stop,
                                        direct=seed % 3 == 0))
            for seed in range(6):
                jobs.append(pool.submit(read_at_random, mount / "plain@s", expected["plain@s"],
                                        100 + seed, stop))
            try:
                for victim in (0, 3, 1, 4):
                    cluster.kill(victim)
                    cluster.wait_running()
                    cluster.wait_recovered()
                    cluster.restart(victim)
                    cluster.wait_recovered()
                    assert set(os.listdir(mount.path)) == set(expected)
            finally:
                stop.set()
            for job in jobs:
                job.result()
