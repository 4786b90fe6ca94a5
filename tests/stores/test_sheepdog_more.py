# SPDX-License-Identifier: MIT
"""The sheepdog store on real sheep of unusual clusters, and under load through the mount."""

import concurrent.futures
import errno
import mmap
import os
import random
import socket
import threading
import time

import pytest

import harness
import sheepdog_cluster
from test_sheepdog_cluster import (
    GONE, KIB, MIB, Client, Reader, cluster_of, content, content_of, create, dog_read, listed,
    read, run, uri_of, write,
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


def come_and_go(cluster, victim, coded):
    cluster.kill(victim)
    cluster.wait_running()
    if coded:
        time.sleep(1)  # nothing is copied: sheepdog_cluster.py says why
    else:
        cluster.wait_recovered()
    cluster.restart(victim)
    if not coded:
        cluster.wait_recovered()


@pytest.mark.limit(400)
@pytest.mark.parametrize("coded", [False, True], ids=["copies", "erasure code"])
def test_every_byte_is_right_while_nodes_die_and_come_back(mounted, coded):
    with cluster_of(nodes=5, copies=3) as cluster:
        expected = make_every_kind(cluster, 41 * MIB + 512)
        for name, data in expected.items():
            base, _, tag = name.partition("@")
            assert dog_read(cluster, base, tag=tag) == data
        if coded:
            cluster.keep_strips()
        mount = mounted(uri_of(cluster, 0, 1), "ttl=1")
        assert sorted(os.listdir(mount.path)) == sorted(expected)
        chosen = sorted(name for name in expected if name.startswith("code") == coded)
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            jobs = [pool.submit(read_at_random, mount / name, expected[name], seed, stop,
                                direct=seed % 3 == 0)
                    for seed, name in enumerate(chosen * (2 if coded else 1))]
            jobs += [pool.submit(read_at_random, mount / chosen[-1], expected[chosen[-1]],
                                 100 + seed, stop) for seed in range(6)]
            try:
                for victim in (0, 3, 1, 4):
                    come_and_go(cluster, victim, coded)
                    assert set(os.listdir(mount.path)) == set(expected)
            finally:
                stop.set()
            for job in jobs:
                job.result()


@pytest.mark.limit(400)
def test_two_nodes_die_while_a_strong_code_is_copied(mounted):
    with cluster_of(nodes=8, copies="4:2") as cluster:
        cluster.keep_strips()
        data = content(97 * MIB + 513)
        create(cluster, "alpha", data)
        mount = mounted(uri_of(cluster, 0, 1))
        with open(mount / "alpha", "rb") as file:
            got = file.read(MIB)
            cluster.kill(0)
            cluster.wait_running()
            got += file.read(MIB)
            cluster.kill(5)
            got += file.read()
        assert got == data


# What clusters there are.


def test_a_cluster_is_found_at_the_port_of_sheepdog(mounted, monkeypatch):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 7000))
        except OSError:
            pytest.skip("somebody listens on port 7000")
    monkeypatch.setattr(sheepdog_cluster, "free_port", lambda host: 7000)
    with cluster_of(nodes=1, copies=1) as cluster:
        image = create(cluster, "alpha", content(5 * MIB))
        for uri in ("sheepdog://", "sheepdog:///", "sheepdog+tcp:///", "sheepdog://localhost/",
                    "sheepdog://:7000", "sheepdog:///alpha", "SheepDog://127.0.0.1/alpha"):
            assert {found["id"] for found in listed(cluster, uri).values()} == {image["id"]}
        mount = mounted("sheepdog:///")
        assert (mount / "alpha").read_bytes() == content(5 * MIB)


def test_gateways_without_disks_and_zones_of_several_nodes_are_fine(mounted):
    def arguments(node):
        return {4: ["-g"], 3: ["-z", 1]}.get(node, [])

    with cluster_of(nodes=4, sheep_arguments=arguments) as cluster:
        cluster.add()  # a gateway does not take part in formatting, and sheep then waits for ever
        expected = make_every_kind(cluster, 21 * MIB + 512)
        mount = mounted(uri_of(cluster))
        for name, data in expected.items():
            assert (mount / name).read_bytes() == data
        victim = 3
        with open(mount / "plain@s", "rb") as file:
            got = file.read(MIB)
            cluster.kill(victim)
            assert got + file.read() == expected["plain@s"]


@pytest.mark.parametrize("arguments", [["-z", "20"], ["-z", "26"], ["-l"], ["-t"]],
                         ids=" ".join)  # fmt: skip
def test_clusters_are_formatted_in_many_ways(mounted, arguments):
    with cluster_of(format_arguments=arguments) as cluster:
        data = content(9 * MIB + 512)
        image = create(cluster, "alpha", data, size=70 * MIB)
        shift = int(arguments[1]) if arguments[0] == "-z" else 22
        assert image["attrs"]["object-size"] == str(1 << shift)
        with Client(cluster) as client:
            assert client.lock(b"alpha") == 0
            mount = mounted(uri_of(cluster))
            assert (mount / "alpha").read_bytes() == data.ljust(70 * MIB, b"\0")
        cluster.kill(2)
        cluster.wait_running()
        assert (mount / "alpha").read_bytes() == data.ljust(70 * MIB, b"\0")


def test_nodes_can_be_of_different_weight(mounted):
    with cluster_of(format_arguments=["-V"],
                    sheep_arguments=lambda node: ["-V", 16 << 2 * node]) as cluster:  # fmt: skip
        data = content(41 * MIB + 512)
        create(cluster, "alpha", data)
        assert (mounted(uri_of(cluster)) / "alpha").read_bytes() == data


def test_a_cluster_that_is_formatted_again_has_none_of_its_images(cluster, mounted):
    create(cluster, "alpha", content(40 * MIB))
    mount = mounted(uri_of(cluster), "ttl=1", noisy=True)
    with open(mount / "alpha", "rb", buffering=0) as file:
        assert file.read(4096) == content(4096)
        cluster.dog("cluster", "format", "-f", "-c", "2")
        cluster.wait_running()
        with pytest.raises(OSError) as error:
            os.pread(file.fileno(), 4096, 30 * MIB)
        assert error.value.errno == errno.ESTALE
    harness.wait_until(lambda: os.listdir(mount.path) == [], "it is empty")
    create(cluster, "alpha", content(40 * MIB, 2))
    harness.wait_until(lambda: os.listdir(mount.path) == ["alpha"], "the new one is there")
    assert (mount / "alpha").read_bytes() == content(40 * MIB, 2)


def test_the_number_of_copies_changes_while_a_vdi_is_read(cluster):
    data = content(64 * MIB)
    image = create(cluster, "alpha", data)
    with Reader(cluster, image) as reader:
        for copies in ("3", "1", "2"):
            reader.ask((0, 64 * MIB))
            got = reader.take(MIB)
            done = cluster.dog("vdi", "alter-copy", "-c", copies, "alpha", check=False,
                               input=b"yes\n")
            assert got + reader.take(63 * MIB) == data, done
        reader.ends()
    found = listed(cluster)[b"alpha"]
    assert found["id"] == image["id"]
    assert content_of(read(cluster, found)) == data


# Through the mount.


def test_names_that_meet_are_files_of_their_own(cluster, mounted):
    for seed, name in enumerate(("a@t", "a/b", ".."), 5):
        create(cluster, name, content(MIB, seed))
    create(cluster, "a", content(MIB, 1))
    cluster.dog("vdi", "snapshot", "-s", "t", "a")
    cluster.dog("vdi", "snapshot", "-s", "4@", "a")
    write(cluster, "a", content(MIB, 2))
    cluster.dog("vdi", "snapshot", "a")
    write(cluster, "a", content(MIB, 3))
    cluster.dog("vdi", "snapshot", "a")
    write(cluster, "a", content(MIB, 4))
    mount = mounted(uri_of(cluster))
    names = os.listdir(mount.path)
    found = sorted((mount / name).read_bytes() for name in names)
    assert found == sorted([content(MIB, seed) for seed in (1, 1, 2, 3, 4, 5, 6, 7)]), names


def test_a_uri_of_one_image_is_a_folder_of_one_file(cluster, mounted):
    create(cluster, "big disk", content(MIB, 1))
    cluster.dog("vdi", "snapshot", "-s", "v 1#", "big disk")
    write(cluster, "big disk", content(MIB, 2))
    host, port = cluster.address().split(":")
    socket_path = f"{cluster.folder}/node0/sock"
    for uri, name, seed in (
        (f"sheepdog://{host}:{port}/big%20disk", "big disk", 2),
        (f"sheepdog://{host}:{port}/big%20disk#v%201%23", "big disk@v 1#", 1),
        (f"sheepdog://{host}:{port}/big%20disk#1", "big disk@v 1#", 1),
        (f"sheepdog+unix:///big%20disk?socket={socket_path}#1", "big disk@v 1#", 1),
        (f"sheepdog://{host}:{port}:big%20disk", "big disk", 2),
    ):
        mount = mounted(uri)
        assert os.listdir(mount.path) == [name]
        assert (mount / name).read_bytes() == content(MIB, seed)
        mount.end()
    for wrong in ("nothing", "big%20disk#2", "big%20disk#v1"):
        done = run("list", "--", f"sheepdog://{host}:{port}/{wrong}")
        assert (done.returncode, done.stdout) == (GONE, b"")


def read_or_none(file, offset):
    try:
        return os.pread(file.fileno(), 4096, offset)
    except OSError as error:
        assert error.errno == errno.EIO
        return None


def test_a_cluster_that_is_gone_is_eio_in_time_and_then_comes_back(mounted):
    with cluster_of() as cluster:
        end_and_begin_again(cluster, mounted)


def end_and_begin_again(cluster, mounted):
    data = content(64 * MIB)
    create(cluster, "alpha", data)
    mount = mounted(uri_of(cluster, 0, 1, 2), "stall=5", noisy=True)
    with open(mount / "alpha", "rb", buffering=0) as file:
        assert file.read(4096) == data[:4096]
        for node in range(3):
            cluster.kill(node)
        with pytest.raises(OSError) as error:
            os.pread(file.fileno(), 4096, 50 * MIB)
        assert error.value.errno == errno.EIO
        assert b"Connection refused" in os.getxattr(file.fileno(), "user.imagefs.error")
        assert "started again" not in mount.log()
        for node in range(3):
            assert any(cluster._start(node) for _ in range(20))
        cluster.wait_running()
        # For a second after the limit a read is refused at once.
        harness.wait_until(lambda: read_or_none(file, 50 * MIB) == data[50 * MIB :][:4096],
                           "it is back")
    assert (mount / "alpha").read_bytes() == data


def test_many_who_read_one_image_all_read_it_right(cluster, mounted):
    """They share what imagefs has of it, and a node dies meanwhile."""
    size = 80 * MIB + 512
    cluster.dog("vdi", "create", "alpha", size)
    write(cluster, "alpha", content(30 * MIB), offset=20 * MIB)
    cluster.dog("vdi", "snapshot", "-s", "s", "alpha")
    data = bytes(20 * MIB) + content(30 * MIB) + bytes(30 * MIB + 512)
    mount = mounted(uri_of(cluster, 0, 1), "memory=32M")
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        jobs = [pool.submit(read_at_random, mount / ("alpha@s" if seed % 2 else "alpha"), data,
                            seed, stop, direct=seed % 3 == 0) for seed in range(24)]
        try:
            cluster.kill(0)
            cluster.wait_running()
            cluster.wait_recovered()
        finally:
            stop.set()
        for job in jobs:
            job.result()
