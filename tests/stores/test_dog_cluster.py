# SPDX-License-Identifier: MIT
"""The dog store on real sheep.  Skipped where there are none."""

import json
import random
import subprocess
from pathlib import Path

import pytest

import conformance
import sheepdog_cluster

SOURCE = Path(__file__).resolve().parent.parent.parent
DOG = SOURCE / "src" / "stores" / "dog"
LIMIT = 120
MIB = 1 << 20
GONE, UNAVAILABLE = 66, 69

pytestmark = pytest.mark.skipif(
    sheepdog_cluster.missing() is not None, reason=str(sheepdog_cluster.missing())
)


@pytest.fixture
def cluster():
    with sheepdog_cluster.Cluster(nodes=3, copies=2) as cluster:
        yield cluster


def run(*arguments, stdin=b""):
    return subprocess.run(
        [DOG, *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
        check=False,
    )


def listed(cluster, node=0):
    """{name: image}"""
    done = run("list", "--", cluster.uri(node=node))
    assert (done.returncode, done.stderr) == (0, b"")
    images = [json.loads(line) for line in done.stdout.splitlines()]
    found = {conformance.name_of(image): image for image in images}
    assert len(found) == len(images)
    return found


def read(cluster, image, *asks, node=0):
    stdin = "".join(f"{offset} {length}\n" for offset, length in asks).encode()
    return run("read", "--", cluster.uri(node=node), image["id"], stdin=stdin)


def content(size, seed):
    return random.Random(seed).randbytes(size)


def write(cluster, name, data, offset=0):
    cluster.dog("vdi", "write", "--", name, offset, len(data), input=data)


def test_every_vdi_snapshot_and_clone_is_listed_and_read(cluster):
    odd = "-a b\\\n\t'\"$(id)größe"
    first, second, third = (content(9 * MIB + 4096, seed) for seed in range(3))
    cluster.dog("vdi", "create", "--", odd, "20M")
    write(cluster, odd, first)
    cluster.dog("vdi", "snapshot", "-s", "before upgrade", "--", odd)
    write(cluster, odd, second)
    cluster.dog("vdi", "snapshot", "--", odd)
    write(cluster, odd, third, offset=5 * MIB)
    cluster.dog("vdi", "clone", "-s", "before upgrade", "--", odd, "copy")
    write(cluster, "copy", b"clone", offset=100)
    cluster.dog("vdi", "create", "thin", "100G")
    cluster.dog("vdi", "create", "gone", "4M")
    cluster.dog("vdi", "delete", "gone")

    size = 20 * MIB
    name = odd.encode()
    expected = {
        name + b"@before upgrade": first.ljust(size, b"\0"),
        name + b"@2": second.ljust(size, b"\0"),
        name: (second[: 5 * MIB] + third).ljust(size, b"\0"),
        b"copy": (first[:100] + b"clone" + first[105:]).ljust(size, b"\0"),
    }
    found = listed(cluster)
    assert set(found) == {*expected, b"thin"}
    assert found[b"thin"]["size"] == 100 << 30
    assert found[b"thin"]["allocated"] == 0
    for image, data in expected.items():
        assert found[image]["size"] == size
        assert found[image].get("immutable", False) == (b"@" in image)
        done = read(cluster, found[image], (0, size), (5 * MIB - 3, 1000))
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == data + data[5 * MIB - 3 :][:1000]
    done = read(cluster, found[b"thin"], ((100 << 30) - 4096, 4096))
    assert (done.returncode, done.stdout) == (0, bytes(4096))


@pytest.mark.parametrize(
    "kind", [("-z", "20"), ("-z", "24"), ("-c", "2:1"), ("-c", "3"), ("-y",)], ids="".join
)
def test_vdis_of_every_kind_are_read(cluster, kind):
    size = 20 * MIB + 512
    data = content(size, 5)
    cluster.dog("vdi", "create", *kind, "alpha", size)
    write(cluster, "alpha", data)
    image = listed(cluster)[b"alpha"]
    assert image["size"] == size
    done = read(cluster, image, (0, size), (size - 513, 513))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data + data[-513:]


def test_all_rules_of_the_protocol_are_kept(cluster):
    cluster.dog("vdi", "create", "alpha", "10M")
    write(cluster, "alpha", content(9 * MIB, 1))
    cluster.dog("vdi", "snapshot", "-s", "a b", "alpha")
    cluster.dog("vdi", "create", "beta", "1T")
    results = list(conformance.check(str(DOG), cluster.uri(), limit=LIMIT))
    assert [result for result in results if result[2] == "wrong"] == []


def test_an_empty_cluster_is_an_empty_list(cluster):
    assert listed(cluster) == {}


def test_a_cluster_that_is_not_formatted_is_no_empty_list():
    with sheepdog_cluster.Cluster(nodes=1, copies=1, formatted=False) as cluster:
        done = run("list", "--", cluster.uri())
        assert (done.returncode, done.stdout) == (UNAVAILABLE, b"")
        assert done.stderr


def test_a_gateway_that_is_not_there_is_unavailable_and_another_one_does(cluster):
    cluster.dog("vdi", "create", "alpha", "10M")
    data = content(10 * MIB, 1)
    write(cluster, "alpha", data)
    image = listed(cluster)[b"alpha"]
    cluster.kill(0)
    cluster.wait_running()
    for done in (run("list", "--", cluster.uri()), read(cluster, image, (0, 1))):
        assert (done.returncode, done.stdout) == (UNAVAILABLE, b"")
        assert b"failed to connect" in done.stderr
    assert listed(cluster, node=1)[b"alpha"] == image
    assert read(cluster, image, (0, len(data)), node=1).stdout == data


def test_a_node_that_dies_in_the_middle_of_a_copy_is_not_noticed(cluster):
    cluster.dog("vdi", "create", "alpha", "64M")
    data = content(64 * MIB, 1)
    write(cluster, "alpha", data)
    image = listed(cluster)[b"alpha"]
    store = conformance.Store(str(DOG), cluster.uri(), limit=LIMIT)
    with store.read(image) as run_:
        run_.ask((0, len(data)))
        got = run_.take(MIB)
        cluster.kill(2)
        got += run_.take(len(data) - MIB)
        # dog tells of what it had to try again, if it had to; the bytes are right anyway.
        assert got == data
        run_.end_input()
        assert run_.rest() == b""


def test_a_snapshot_taken_while_a_vdi_is_open_keeps_its_version(cluster):
    cluster.dog("vdi", "create", "alpha", "10M")
    before, after = content(10 * MIB, 1), content(10 * MIB, 2)
    write(cluster, "alpha", before)
    image = listed(cluster)[b"alpha"]
    store = conformance.Store(str(DOG), cluster.uri(), limit=LIMIT)
    with store.read(image) as run_:
        run_.ask((0, MIB))
        assert run_.take(MIB) == before[:MIB]
        cluster.dog("vdi", "snapshot", "-s", "t", "alpha")
        write(cluster, "alpha", after)
        run_.ask((MIB, MIB))
        run_.end_input()
        assert run_.rest() == b""
        assert run_.wait() == GONE

    # Whoever starts anew with the old id gets the old bytes, now from the snapshot.
    done = read(cluster, image, (0, len(before)))
    assert (done.returncode, done.stdout == before) == (0, True)
    found = listed(cluster)
    assert found[b"alpha"]["id"] != image["id"]
    assert read(cluster, found[b"alpha"], (0, len(after))).stdout == after
    assert read(cluster, found[b"alpha@t"], (0, len(before))).stdout == before


def test_what_is_deleted_is_gone_also_if_it_is_made_anew(cluster):
    cluster.dog("vdi", "create", "alpha", "10M")
    image = listed(cluster)[b"alpha"]
    cluster.dog("vdi", "delete", "alpha")
    done = read(cluster, image, (0, 1))
    assert (done.returncode, done.stdout) == (GONE, b"")
    cluster.dog("vdi", "create", "alpha", "12M")
    done = read(cluster, image, (0, 1))
    assert (done.returncode, done.stdout) == (GONE, b"")
