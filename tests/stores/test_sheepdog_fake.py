# SPDX-License-Identifier: MIT
"""The sheepdog store against sheep that do wrong when told."""

import concurrent.futures
import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import threading
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

import conformance
import fake_sheep
from fake_sheep import (
    NO_OBJ, NODE_LIST, READ_DEL_VDIS, READ_OBJ, READ_VDIS, SECOND, Change, Do, FakeCluster, Half,
    Held, Never, Result, Shuffled, object_bytes, wait_until,
)  # fmt: skip

SOURCE = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("IMAGEFS_BUILD", SOURCE / "build")).resolve()
PROGRAM = BUILD / "imagefs-store-sheepdog"
LIMIT = 100
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
OBJECT = 4 * MIB
USAGE, GONE, UNAVAILABLE, IO, AGAIN = 64, 66, 69, 74, 75


@pytest.fixture
def one():
    with FakeCluster() as cluster:
        yield cluster
        assert cluster.wrong == []


@pytest.fixture
def two():
    """Two nodes, both of them named in the URI."""
    with FakeCluster(nodes=2) as cluster:
        yield cluster
        assert cluster.wrong == []


def environment(stall_ms):
    return dict(os.environ, IMAGEFS_STALL_MS=str(stall_ms), LC_ALL="C.UTF-8",
                IMAGEFS_STORE_PROTOCOL="1")  # fmt: skip


def run(*arguments, stdin=b"", stall_ms=60000):
    return subprocess.run(
        [PROGRAM, *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(stall_ms),
        timeout=LIMIT,
        check=False,
    )


def lines_of(asks):
    return "".join(f"{offset} {length}\n" for offset, length in asks).encode()


def read(cluster, vdi, *asks, **options):
    asks = asks or ((0, vdi.size),)
    uri = options.pop("uri", None) or cluster.uri()
    return run("read", "--", uri, vdi.id, stdin=lines_of(asks), **options)


def reads_well(cluster, vdi, *asks, **options):
    expected = b"".join(vdi.content(*ask) for ask in asks) if asks else vdi.content()
    done = read(cluster, vdi, *asks, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == expected


def listed(cluster, uri=None, **options):
    """{name: image}, of a list that ends well."""
    done = run("list", "--", uri or cluster.uri(), **options)
    assert (done.returncode, done.stderr) == (0, b"")
    images = [json.loads(line) for line in done.stdout.splitlines()]
    found = {conformance.name_of(image): image for image in images}
    assert len(found) == len(images)
    return found


def fails(done, status, *words):
    """The program failed with @status, and its last line says @words."""
    assert done.returncode == status, done.stderr
    last = done.stderr.decode().splitlines()[-1]
    for word in words:
        assert word in last


def at_once(test, cases):
    """Run test(case) for all @cases at the same time: most of it is waiting."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(test, case) for case in cases]:
            done.result()


class Reader:
    """A reader that runs while the test does something."""

    def __init__(self, cluster, vdi, stall_ms=60000):
        self.process = subprocess.Popen(
            [PROGRAM, "read", "--", cluster.uri(), vdi.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(stall_ms),
        )
        self.timer = threading.Timer(LIMIT, self.process.kill)
        self.timer.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.timer.cancel()
        self.process.kill()
        self.process.wait(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def ask(self, *asks):
        self.process.stdin.write(lines_of(asks))
        self.process.stdin.flush()

    def take(self, count):
        data = self.process.stdout.read(count)
        assert len(data) == count, self.process.stderr.read()
        return data

    def end(self):
        self.process.stdin.close()
        assert self.process.stdout.read() == b""
        error = self.process.stderr.read()
        return self.process.wait(), error


# Lists.


def test_a_list_says_all_there_is_to_say_about_an_image(one):
    alpha = one.vdi("alpha", 10 * MIB, [0, 2], copies=3, parent=0xABC)
    assert list(listed(one).values()) == [{
        "name": "alpha", "id": alpha.id, "size": 10 * MIB, "allocated": 8 * MIB,
        "mtime": alpha.created >> 32,
        "attrs": {
            "vid": f"{alpha.vid:06x}", "copies": "3", "object-size": "4194304",
            "parent": "000abc", "uri": f"sheepdog://{one.nodes[0].address}/alpha",
        },
    }]  # fmt: skip


def test_snapshots_are_called_by_their_tags_or_their_numbers(one):
    vdi = one.vdi("a", MIB)
    for tag in ("first", "", "twice", "twice", "3", "2 x"):
        previous, vdi = vdi, one.snapshot(vdi, tag)
        assert previous.snapped
    found = listed(one)
    assert set(found) == {b"a", b"a@first", b"a@2", b"a@3", b"a@4", b"a@5", b"a@2 x"}
    # "3" is a tag and the number of another snapshot: both go by their numbers.
    assert found[b"a@5"]["attrs"]["tag"] == "3"
    assert found[b"a@3"]["attrs"]["tag"] == "twice"
    for name, image in found.items():
        assert image.get("immutable", False) == (name != b"a")
    assert found[b"a@first"]["attrs"]["snapshot-id"] == "1"
    assert found[b"a@first"]["attrs"]["uri"].endswith("/a#first")
    assert found[b"a@2"]["attrs"]["uri"].endswith("/a#2")
    assert found[b"a@first"]["mtime"] == found[b"a"]["mtime"] - found[b"a"]["mtime"] + (
        fake_sheep.CREATED + 5 * SECOND >> 32
    )


def test_what_is_deleted_is_not_listed(one):
    one.vdi("kept", MIB)
    for name in ("gone", "forgotten", "half"):
        one.delete(one.vdi(name, MIB))
    one.deleted.pop()
    assert set(listed(one)) == {b"kept"}
    one.knows_deleted = False
    assert set(listed(one)) == {b"kept"}


def test_any_name_is_listed(one):
    names = [b"-a b\\\n\t'\"$(id)", "größe".encode(), b"\xff\xfe", b"n" * 255, b"@", b"a/b"]
    for name in names:
        one.vdi(name, 5 * MIB, [1])
    found = listed(one)
    assert set(found) == set(names)
    for image in found.values():
        assert image["allocated"] == OBJECT


def test_an_erasure_code_is_an_attribute(one):
    one.vdi("a", MIB, copies=6, copy_policy=0x22)
    one.vdi("b", MIB, copies=3, copy_policy=0x11)
    found = listed(one)
    assert [found[name]["attrs"]["copies"] for name in (b"a", b"b")] == ["4:2", "2:1"]


@pytest.mark.parametrize("tree", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, OBJECT, 100 * GIB + 7, 4 * TIB])
def test_what_is_allocated_is_counted(one, tree, size):
    last = max(0, (size - 1) // OBJECT)
    owners = {at for at in (0, 1, 511, 512, 513, 17000, 25600, last) if at <= last and size}
    one.vdi("a", size, owners, tree=tree, leaf_entries=3)
    image = listed(one)[b"a"]
    assert (image["size"], image["allocated"]) == (size, len(owners) * OBJECT)


def test_thousands_are_listed_through_all_nodes():
    with FakeCluster(nodes=4, named=1) as cluster:
        for number in range(3000):
            cluster.vdi(f"vdi{number}", number * 512 * KIB, [0] if number else [])
        found = listed(cluster)
        assert len(found) == 3000
        for number in range(1, 3000):
            image = found[b"vdi%d" % number]
            assert (image["size"], image["allocated"]) == (number * 512 * KIB, OBJECT)
        # One request for each, and every node has its share: otherwise they were fetched
        # from one another.
        assert len(cluster.requests(READ_OBJ)) == 3000
        for node in cluster.nodes:
            assert any(request.op == READ_OBJ for request in node.requests)
        assert cluster.wrong == []


def test_an_empty_cluster_has_an_empty_list(one):
    assert listed(one) == {}


@pytest.mark.parametrize("state", [fake_sheep.WAIT_FOR_FORMAT, fake_sheep.WAIT_FOR_JOIN])
def test_a_cluster_that_does_not_run_has_no_list(one, state):
    one.vdi("a", MIB)
    one.state = state
    done = run("list", "--", one.uri(), stall_ms=3000)
    fails(done, AGAIN, "waits" if state == fake_sheep.WAIT_FOR_JOIN else "not formatted")
    assert done.stdout == b""


def test_a_list_waits_for_a_cluster_that_starts_up(one):
    one.vdi("a", MIB)
    one.nodes[0].fault(Result(fake_sheep.STARTUP), op=fake_sheep.STAT_RECOVERY, times=3)
    one.nodes[0].fault(Result(fake_sheep.HALT), op=READ_OBJ, times=3)
    assert set(listed(one)) == {b"a"}


def test_an_inode_that_makes_no_sense_is_left_out_with_a_word(one):
    one.vdi("a", MIB)
    one.vdi("bad", MIB, shift_shown=60)
    lost = one.vdi("lost", MIB)
    one.objects[fake_sheep.INODE_BIT | lost.vid << 32] = None
    done = run("list", "--", one.uri())
    assert done.returncode == 0
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["a"]
    assert b"makes no sense" in done.stderr
    assert b"lost" in done.stderr


def test_an_inode_that_cannot_be_read_ends_the_list(one):
    one.vdi("a", MIB)
    one.nodes[0].fault(Result(fake_sheep.EIO), op=READ_OBJ)
    fails(run("list", "--", one.uri(), stall_ms=3000), IO, "input/output error")


def test_a_store_can_be_one_image(one):
    alpha = one.vdi("alpha", 8 * MIB)
    now = one.snapshot(one.snapshot(alpha, "v 1"), "v2")
    one.vdi("beta", MIB)
    assert {image["id"] for image in listed(one, one.uri("alpha")).values()} == {now.id}
    by_tag = listed(one, one.uri("alpha#v%201"))
    by_number = listed(one, one.uri("alpha#1"))
    assert by_tag == by_number
    assert [image["id"] for image in by_tag.values()] == [alpha.id]
    for uri in ("gamma", "alpha#v3", "alpha#7"):
        fails(run("list", "--", one.uri(uri)), GONE, "no such")


def test_one_image_is_found_where_numbers_are_used_again(one):
    a = one.vdi("alpha", MIB, vid=fake_sheep.name_hash(b"alpha") + 3)
    assert [image["id"] for image in listed(one, one.uri("alpha")).values()] == [a.id]


# URIs.


def test_gateways_are_named_in_many_ways(one, tmp_path):
    alpha = one.vdi("alpha", MIB, [0])
    port = one.nodes[0].port
    path = str(tmp_path / "so ck")
    one.nodes.append(fake_sheep.Node(one, socket.AF_UNIX, path))
    uris = [
        f"sheepdog://127.0.0.1:{port}", f"sheepdog://127.0.0.1:{port}/",
        f"sheepdog+tcp://127.0.0.1:{port}/", f"SHEEPDOG://localhost:{port}/",
        f"sheepdog+unix:///?socket={path.replace(' ', '%20')}",
        f"sheepdog://127.0.0.1:{port}:alpha", f"sheepdog://127.0.0.1:{port}/%61lpha",
    ]  # fmt: skip
    for uri in uris:
        assert set(listed(one, uri)) == {b"alpha"}
        reads_well(one, alpha, uri=uri)
    assert "socket=" in listed(one, uris[4])[b"alpha"]["attrs"]["uri"]


def test_a_gateway_can_have_an_ipv6_address():
    with FakeCluster(nodes=0) as cluster:
        try:
            cluster.nodes.append(fake_sheep.Node(cluster, socket.AF_INET6))
        except OSError:
            pytest.skip("no IPv6 here")
        alpha = cluster.vdi("alpha", MIB, [0])
        reads_well(cluster, alpha, uri=f"sheepdog://[::1]:{cluster.nodes[0].port}/")


@pytest.mark.parametrize(
    "uri",
    [
        "sheepdog", "sheepdog:", "rbd://a/", "sheepdog:/x", "sheepdog://a:b/", "sheepdog://a:0/",
        "sheepdog://a:65536/", "sheepdog://[::1/", "sheepdog://[::1]x/", "sheepdog://a/b/c",
        "sheepdog://a/%zz", "sheepdog://a/%00", "sheepdog://a/?x=y", "sheepdog://a/#tag",
        "sheepdog+unix:///", "sheepdog+unix://a/?socket=x", "sheepdog+unix:///?socket=",
        "sheepdog+unix:///?port=7", "sheepdog://a/" + "n" * 256, "sheepdog://" + "a," * 20,
    ],
)  # fmt: skip
def test_a_wrong_uri_is_refused(uri):
    for arguments in (("list", "--", uri), ("read", "--", uri, "000001-0000000000000001")):
        done = run(*arguments)
        assert done.returncode == USAGE
        assert len(done.stderr.splitlines()) == 1


# Reading.


@pytest.mark.parametrize("shift", [12, 16, 20, 22])
@pytest.mark.parametrize("tree", [0, 1, 2])
def test_every_byte_of_every_kind_is_read(one, shift, tree):
    step = 1 << shift
    parent = one.vdi("parent", 12 * step, range(12), shift=shift)
    owners = {0: parent.vid, 1: 0, 3: parent.vid, 7: parent.vid}
    own = one.vdi("own", 11 * step + 513, {}, shift=shift, tree=tree)
    own.owners = {**owners, 2: own.vid, 9: own.vid, 10: own.vid, 11: own.vid}
    reads_well(one, own)
    edges = [0, 1, step - 1, step, 3 * step, 9 * step, 11 * step, own.size - 1, own.size]
    asks = [(a, b - a) for a in edges for b in edges if a < b]
    reads_well(one, own, *asks[:: 1 if shift < 20 else 8])


def test_objects_can_be_large(one):
    reads_well(one, one.vdi("a", (96 << 20) + 5, [0, 2], shift=25))


def test_an_old_vdi_has_objects_of_4_mib(one):
    reads_well(one, one.vdi("old", 9 * MIB, [0, 2], shift_shown=0))


@pytest.mark.parametrize("seed", range(2))
def test_answers_in_any_order_are_written_in_order(two, seed):
    alpha = two.vdi("alpha", 30 * MIB, [0, 1, 2, 5, 6])
    for node in two.nodes:
        node.fault(Shuffled(seed), op=READ_OBJ)
    reads_well(two, alpha)
    chance = random.Random(seed)
    asks = []
    for _ in range(150):
        offset = chance.randrange(alpha.size)
        asks.append((offset, min(chance.choice([1, 512, 4096, 70000]), alpha.size - offset)))
    reads_well(two, alpha, *asks)


@hypothesis.given(
    strategies.lists(strategies.tuples(strategies.integers(0, 1 << 19),
                                       strategies.integers(1, 1 << 19)), max_size=40),
    strategies.sets(strategies.integers(0, 31)),
)  # fmt: skip
@hypothesis.settings(max_examples=40)
def test_any_asks_are_answered_with_the_image(asks, owned):
    with FakeCluster() as cluster:
        vdi = cluster.vdi("a", (1 << 19) - 5, owned, shift=14)
        asks = [(start, min(length, vdi.size - start)) for start, length in asks
                if start < vdi.size]  # fmt: skip
        if asks:
            reads_well(cluster, vdi, *asks)


def test_sixteen_asks_are_sixteen_requests_at_once(one):
    alpha = one.vdi("alpha", 80 * MIB, range(20))
    held = one.nodes[0].fault(Held(), match=lambda request: request.length == 4096)
    asks = [(at * OBJECT + 8192, 4096) for at in range(16)]
    with Reader(one, alpha) as reader:
        reader.ask(*asks)
        assert held.wait(16), f"only {held.most} requests"
        held.release()
        assert reader.take(16 * 4096) == b"".join(alpha.content(*ask) for ask in asks)
        assert reader.end() == (0, b"")


def test_objects_are_asked_for_ahead_across_asks(one):
    alpha = one.vdi("alpha", 64 * MIB, range(16))
    held = one.nodes[0].fault(Held(), match=lambda request: request.object < fake_sheep.TREE_BIT)
    with Reader(one, alpha) as reader:
        reader.ask(*((at * MIB, MIB) for at in range(8)))
        assert held.wait(8)
        held.release()
        assert reader.take(8 * MIB) == alpha.content(0, 8 * MIB)
        assert reader.end() == (0, b"")


def test_an_answer_does_not_wait_for_the_next_ask(one):
    alpha = one.vdi("alpha", 10 * MIB, [0, 2])
    with Reader(one, alpha) as reader:
        for offset in (0, 4 * MIB - 100, 9 * MIB, 5 * MIB):
            reader.ask((offset, 1000))
            assert reader.take(1000) == alpha.content(offset, 1000)
        assert reader.end() == (0, b"")


def test_holes_cost_no_request(one):
    thin = one.vdi("thin", 2 * GIB, [20])
    reads_well(one, thin, (0, 20 * OBJECT), (21 * OBJECT, 50 * MIB), (20 * OBJECT, 9))
    assert len(one.data_requests()) == 1


def test_opening_costs_the_inode_and_a_bit_of_the_index(one):
    thin = one.vdi("thin", TIB, [0])
    reads_well(one, thin, (0, 4096))
    inodes = [request for request in one.requests(READ_OBJ) if request not in one.data_requests()]
    assert sum(request.length for request in inodes) < 16 * KIB
    one.nodes[0].requests.clear()
    reads_well(one, thin, (TIB - 4096, 4096))
    inodes = [request for request in one.requests(READ_OBJ) if request not in one.data_requests()]
    assert sum(request.length for request in inodes) < 128 * KIB


def test_an_index_is_read_once_of_a_snapshot(one):
    alpha = one.vdi("alpha", 200 * GIB, [0, 40000])
    one.snapshot(alpha, "s")
    with Reader(one, alpha) as reader:
        for _ in range(20):
            reader.ask((0, 512), (40000 * OBJECT, 512))
            assert reader.take(1024) == alpha.content(0, 512) + alpha.content(40000 * OBJECT, 512)
        assert reader.end() == (0, b"")
    # The inode, a part of the index, and the inode after it; and again at the end, for the
    # holes if there were any.
    inode = fake_sheep.INODE_BIT | alpha.vid << 32
    assert sum(request.object == inode for request in one.requests(READ_OBJ)) <= 4


def test_what_a_guest_writes_is_seen_by_and_by(one):
    alpha = one.vdi("alpha", 10 * MIB)
    with Reader(one, alpha) as reader:
        reader.ask((0, 4096))
        assert reader.take(4096) == bytes(4096)
        alpha.owners[0] = alpha.vid

        def sees_it():
            reader.ask((0, 4096))
            return reader.take(4096) == alpha.content(0, 4096)

        wait_until(sees_it)
        assert reader.end() == (0, b"")


def test_strips_of_a_code_are_asked_for_where_there_are_none():
    """Of copies it is the other way round."""
    with FakeCluster(nodes=4) as cluster:
        vdi = cluster.vdi("a", 40 * MIB, range(10), copies=3)

        def asked(policy):
            """{object: the nodes that are asked}, once they have all been connected to."""
            vdi.copy_policy = policy
            seen = {}
            with Reader(cluster, vdi) as reader:
                for _ in range(3):
                    for node in cluster.nodes:
                        node.requests.clear()
                    reader.ask((0, vdi.size))
                    assert reader.take(vdi.size) == vdi.content()
                for node in cluster.nodes:
                    for request in node.requests:
                        if request.object < 1 << 59:
                            seen.setdefault(request.object, set()).add(node)
                assert reader.end() == (0, b"")
            return seen

        def are_apart():
            holders, others = asked(0), asked(0x11)
            assert len(holders) == len(others) == 10
            return not any(holders[number] & others[number] for number in holders)

        wait_until(are_apart)
        assert cluster.wrong == []


def test_memory_is_bounded(one):
    alpha = one.vdi("alpha", 200 * MIB, range(50))
    with Reader(one, alpha) as reader:
        reader.ask((0, alpha.size))
        # What is not taken is not read: 32 MiB are more than all buffers.
        first = reader.take(MIB)
        wait_until(lambda: len(one.data_requests()) >= 16)
        status = Path(f"/proc/{reader.process.pid}/status").read_text()
        rest = reader.take(alpha.size - MIB)
        assert first + rest == alpha.content()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        if "sanitize" not in os.environ.get("IMAGEFS_BUILD", "") and not is_sanitized():
            assert int(peak.split()[1]) < 32 * KIB
        assert reader.end() == (0, b"")


def is_sanitized():
    return b"__asan_init" in PROGRAM.read_bytes() or b"__tsan_init" in PROGRAM.read_bytes()


@pytest.mark.parametrize(
    "asks", [b"x\n", b"0 0\n", b"0\n", b"-1 5\n", b"0 5", b"10485760 1\n", b"0 10485761\n"]
)
def test_a_wrong_ask_ends_the_reader(one, asks):
    alpha = one.vdi("alpha", 10 * MIB, [0])
    done = run("read", "--", one.uri(), alpha.id, stdin=asks)
    assert done.returncode == USAGE
    assert done.stdout == b""


def test_a_vdi_that_grew_is_read_to_its_new_end(one):
    alpha = one.vdi("alpha", 10 * MIB, [0])
    with Reader(one, alpha) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == alpha.content(0, 512)
        alpha.size = 30 * GIB
        alpha.owners[7000] = alpha.vid
        reader.ask((7000 * OBJECT, 4096))
        assert reader.take(4096) == alpha.content(7000 * OBJECT, 4096)
        assert reader.end() == (0, b"")


def test_nobody_reading_is_no_error(one):
    alpha = one.vdi("alpha", 100 * MIB, range(25))
    with Reader(one, alpha) as reader:
        reader.ask((0, alpha.size))
        reader.take(MIB)
        reader.process.stdout.close()
        assert reader.process.wait(LIMIT) == 0
        assert reader.process.stderr.read() == b""


# Extents.


@pytest.mark.parametrize("tree", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 9 * MIB, 3 * TIB + 5])
def test_extents_are_the_objects_that_have_an_owner(one, tree, size):
    last = (size - 1) // OBJECT
    owners = [at for at in (0, 1, 2, 5, 1023, 1024, 16383, 16384, 400000, last) if at <= last]
    vdi = one.vdi("a", size, owners, tree=tree)
    done = run("extents", "--", one.uri(), vdi.id)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [tuple(map(int, line.split())) for line in done.stdout.splitlines()] == vdi.extents()


# Which version.


def test_a_number_that_another_vdi_has_now_is_gone(one):
    alpha = one.vdi("alpha", 10 * MIB, [0])
    old = alpha.id
    alpha.created += SECOND
    for call in ("read", "extents"):
        fails(run(call, "--", one.uri(), old), GONE, "gone")
    one.delete(alpha)
    fails(run("read", "--", one.uri(), alpha.id), GONE, "gone")
    fails(run("read", "--", one.uri(), "123456-0000000000000001"), GONE, "gone")


def test_an_id_stays_good_when_a_snapshot_is_taken(one):
    alpha = one.vdi("alpha", 10 * MIB, [0, 1])
    before = alpha.id
    one.snapshot(alpha, "s")
    done = run("read", "--", one.uri(), before, stdin=lines_of([(0, alpha.size)]))
    assert (done.returncode, done.stdout) == (0, alpha.content())
    assert alpha.id == before + "-s"
    reads_well(one, alpha)


def test_an_object_that_moved_is_read_where_it_is(one):
    """The guest wrote to it, and the snapshot that had it was deleted."""
    base = one.vdi("base", 8 * MIB, [0, 1])
    alpha = one.vdi("alpha", 8 * MIB, {0: base.vid, 1: base.vid})
    with Reader(one, alpha) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == object_bytes(base.vid, 0, OBJECT)[:512]
        alpha.owners = {0: base.vid, 1: alpha.vid}
        one.lose(base.vid, 1)
        reader.ask((OBJECT, OBJECT))
        assert reader.take(OBJECT) == object_bytes(alpha.vid, 1, OBJECT)
        assert reader.end() == (0, b"")


def test_an_object_that_was_discarded_becomes_zeros(one):
    alpha = one.vdi("alpha", 40 * MIB, range(10))
    with Reader(one, alpha) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == alpha.content(0, 512)
        del alpha.owners[5]
        one.lose(alpha.vid, 5)
        reader.ask((5 * OBJECT, OBJECT))
        assert reader.take(OBJECT) == bytes(OBJECT)
        assert reader.end() == (0, b"")


@pytest.mark.parametrize("tree", [0, 1, 2])
def test_a_vdi_that_is_being_deleted_is_never_zeros(one, tree):
    """Its index is overwritten first, then its objects go, its name at last."""
    alpha = one.vdi("alpha", 40 * MIB, range(10), tree=tree)
    with Reader(one, alpha) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == alpha.content(0, 512)
        for at in range(10):
            one.lose(alpha.vid, at)
        alpha.owners = {}
        asked = len(one.requests())
        reader.ask((5 * OBJECT, OBJECT))
        # It looks again and again, and says nothing.
        wait_until(lambda: len(one.requests()) > asked + 12)
        one.delete(alpha)
        status, error = reader.end()
        assert status == GONE
        assert b"gone" in error


@pytest.mark.parametrize("tree", [0, 2])
def test_a_vdi_whose_deletion_takes_long_is_gone(one, tree):
    """Its name is there all the time, so that whoever opened it anew would see zeros."""
    alpha = one.vdi("alpha", 40 * MIB, range(10), tree=tree)
    with Reader(one, alpha, stall_ms=5000) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == alpha.content(0, 512)
        for at in range(10):
            one.lose(alpha.vid, at)
        alpha.owners = {}
        reader.ask((5 * OBJECT, OBJECT))
        status, error = reader.end()
        assert status == GONE
        assert b"gone" in error


def test_an_inode_that_is_lost_is_an_error_and_not_a_vdi_that_is_gone(two):
    """No node has it any more, but the cluster has not forgotten the VDI."""
    alpha = two.vdi("alpha", 40 * MIB, range(10))
    with Reader(two, alpha, stall_ms=20000) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == alpha.content(0, 512)
        two.objects[fake_sheep.INODE_BIT | alpha.vid << 32] = None
        reader.ask((alpha.size, 512))  # beyond the end: has it grown?
        status, error = reader.end()
        assert (status, b"inode is lost" in error) == (IO, True)
    for call in ("read", "extents"):
        fails(run(call, "--", two.uri(), alpha.id, stall_ms=20000), IO, "inode is lost")


def test_a_snapshot_without_one_of_its_objects_is_an_error(one):
    alpha = one.vdi("alpha", 40 * MIB, range(10))
    one.snapshot(alpha, "s")
    one.lose(alpha.vid, 5)
    done = read(one, alpha, stall_ms=5000)
    fails(done, IO, "not in the cluster")
    assert done.stdout == alpha.content(0, len(done.stdout))
    assert len(done.stdout) <= 5 * OBJECT


def test_holes_of_a_vdi_that_was_deleted_meanwhile_are_no_success(one):
    alpha = one.vdi("alpha", 10 * MIB)
    with Reader(one, alpha) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == bytes(512)
        one.delete(alpha)
        status, _ = reader.end()
        assert status == GONE


@pytest.mark.parametrize("result", [NO_OBJ, fake_sheep.EIO])
def test_a_leaf_that_cannot_be_read_is_no_hole(one, result):
    alpha = one.vdi("alpha", 40 * MIB, range(10), tree=2)
    leaf = alpha.leaf_object(1)
    one.nodes[0].fault(Result(result), match=lambda request: request.object == leaf)
    done = read(one, alpha, stall_ms=4000)
    assert done.returncode == IO
    assert done.stdout == alpha.content(0, len(done.stdout))
    assert run("extents", "--", one.uri(), alpha.id, stall_ms=4000).returncode == IO


def test_an_index_that_makes_no_sense_is_no_hole(one):
    alpha = one.vdi("alpha", 40 * MIB, range(10), tree=1)
    alpha.tree_root = lambda: b"\x74\x62\x07\0\xff\xff\xff\xff"
    fails(read(one, alpha), IO, "makes no sense")


# Faults.


WRONG = {
    "another id": Change(id=lambda number: number ^ 0x5A5A),
    "another version": Change(version=7),
    "another operation": Change(op=0x14),
    "an unknown operation": Change(op=0x77),
    "too short": Change(length=lambda length: length - 1, data=lambda data: data[:-1]),
    "empty": Change(length=0, data=b""),
    "too long": Change(length=lambda length: length + 1, data=lambda data: data + b"!"),
    "huge": Change(length=0xFFFFFFFF),
    "not the protocol": Change(version=0x48, op=0x54),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("after", [0, 3])
def test_a_wrong_answer_is_not_believed(two, wrong, after):
    alpha = two.vdi("alpha", 20 * MIB, range(5))
    two.nodes[0].fault(wrong, op=READ_OBJ, after=after)
    reads_well(two, alpha)
    assert set(listed(two)) == {b"alpha"}


def test_wrong_answers_only_are_an_error():
    def answers(wrong):
        with FakeCluster() as cluster:
            alpha = cluster.vdi("alpha", 20 * MIB, range(5))
            cluster.nodes[0].fault(wrong, op=READ_OBJ)
            done = read(cluster, alpha, stall_ms=3000)
            fails(done, UNAVAILABLE, "no sheepdog")
            assert done.stdout == b""

    at_once(answers, WRONG.values())


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" * 3, b"HTTP"])
def test_something_else_that_listens_is_no_sheep(two, greeting):
    alpha = two.vdi("alpha", 20 * MIB, range(5))
    two.nodes[0].greeting = greeting
    reads_well(two, alpha)
    two.nodes[1].stop()
    done = run("list", "--", two.uri(), stall_ms=3000)
    assert done.returncode == UNAVAILABLE


@pytest.mark.parametrize("after", [1, 2, 10, 30])
def test_a_gateway_that_dies_in_an_answer_is_replaced_at_the_exact_byte(two, after):
    alpha = two.vdi("alpha", 40 * MIB, range(10))
    two.nodes[0].fault(Half(fake_sheep.Node.stop), op=READ_OBJ, after=after)
    reads_well(two, alpha)


def test_a_gateway_that_nobody_named_takes_over():
    with FakeCluster(nodes=3, named=1) as cluster:
        alpha = cluster.vdi("alpha", 60 * MIB, range(15))
        with Reader(cluster, alpha) as reader:
            reader.ask((0, OBJECT))
            assert reader.take(OBJECT) == alpha.content(0, OBJECT)
            cluster.nodes[0].stop()
            reader.ask((OBJECT, alpha.size - OBJECT))
            assert reader.take(alpha.size - OBJECT) == alpha.content(OBJECT)
            assert reader.end() == (0, b"")
        assert cluster.wrong == []


def test_a_node_of_another_cluster_is_not_asked_for_data():
    """Its address is in the list of nodes, but what listens there now is not that node."""
    with FakeCluster(nodes=2, named=1) as cluster, FakeCluster() as other:
        alpha = cluster.vdi("alpha", 40 * MIB, range(10))
        other.vdi("else", 40 * MIB, range(10), vid=alpha.vid, created=5 * SECOND)
        cluster.nodes[1].stop()
        cluster.nodes[1].port = other.nodes[0].port
        reads_well(cluster, alpha)
        assert set(listed(cluster)) == {b"alpha"}
        assert other.data_requests() == []


def test_a_named_gateway_of_another_cluster_is_not_asked_for_data():
    with FakeCluster() as cluster, FakeCluster() as other:
        alpha = cluster.vdi("alpha", 40 * MIB, range(10))
        other.vdi("else", 40 * MIB, range(10), vid=alpha.vid, created=5 * SECOND)
        uri = cluster.uri(nodes=other.nodes + cluster.nodes)
        reads_well(cluster, alpha, uri=uri)
        assert other.data_requests() == []


def test_the_only_gateway_may_come_back(one):
    alpha = one.vdi("alpha", 40 * MIB, range(10))
    with Reader(one, alpha) as reader:
        reader.ask((0, OBJECT))
        assert reader.take(OBJECT) == alpha.content(0, OBJECT)
        one.nodes[0].stop()
        reader.ask((OBJECT, alpha.size - OBJECT))
        one.nodes[0].start()
        assert reader.take(alpha.size - OBJECT) == alpha.content(OBJECT)
        assert reader.end() == (0, b"")


def test_all_gateways_gone_is_unavailable(two):
    alpha = two.vdi("alpha", 40 * MIB, range(10))
    with Reader(two, alpha, stall_ms=1500) as reader:
        reader.ask((0, OBJECT))
        assert reader.take(OBJECT) == alpha.content(0, OBJECT)
        for node in two.nodes:
            node.stop()
        reader.ask((OBJECT, OBJECT))
        status, error = reader.end()
        assert status == UNAVAILABLE
        assert b"Connection refused" in error
    fails(run("list", "--", two.uri()), UNAVAILABLE, "Connection refused")
    fails(read(two, alpha, stall_ms=1000), UNAVAILABLE, "Connection refused")


def test_a_host_that_does_not_exist_is_unavailable():
    done = run("list", "--", "sheepdog://no-such-host.invalid/")
    fails(done, UNAVAILABLE, "no-such-host.invalid")


@pytest.mark.parametrize("op", [READ_OBJ, NODE_LIST])
def test_a_gateway_that_accepts_and_never_answers_is_passed_over(two, op):
    alpha = two.vdi("alpha", 20 * MIB, range(5))
    two.nodes[0].fault(Never(), op=op)
    reads_well(two, alpha, stall_ms=10000)
    assert set(listed(two)) == {b"alpha"}


@pytest.mark.parametrize("fault", [Never(), Half()], ids=["nothing", "half an answer"])
def test_a_gateway_that_stops_answering_is_left(two, fault):
    """Its connection stays open, and there is long to go to the stall limit."""
    alpha = two.vdi("alpha", 80 * MIB, range(20))
    two.nodes[0].fault(fault, match=lambda request: request.object < fake_sheep.TREE_BIT, after=5)
    reads_well(two, alpha, stall_ms=10000)


def test_one_answer_that_does_not_come_is_asked_for_elsewhere(two):
    """As of an object that is being recovered; the others go on meanwhile."""
    alpha = two.vdi("alpha", 40 * MIB, range(10))
    for node in two.nodes:
        node.fault(Never(), match=lambda request: request.object == alpha.vid << 32 | 3, times=1)
    # Both nodes keep it waiting once: it is asked for at the second one, and then again on
    # another connection.
    reads_well(two, alpha, stall_ms=10000)


def test_only_gateways_that_never_answer_are_unavailable(two):
    alpha = two.vdi("alpha", 20 * MIB, range(5))
    for node in two.nodes:
        node.fault(Never(), match=lambda request: request.object < fake_sheep.TREE_BIT)
    fails(read(two, alpha, stall_ms=2000), UNAVAILABLE, "no answer")


@pytest.mark.parametrize(
    "result",
    [fake_sheep.STARTUP, fake_sheep.WAIT_FOR_JOIN, fake_sheep.HALT, fake_sheep.EIO, 0x11, 0x86, 1],
)
def test_a_cluster_that_cannot_answer_now_is_asked_again(one, result):
    alpha = one.vdi("alpha", 20 * MIB, range(5))
    one.nodes[0].fault(Result(result), op=READ_OBJ, times=4)
    one.nodes[0].fault(Result(result), op=READ_OBJ, after=10, times=6)
    reads_well(one, alpha)


SAID = [
    (fake_sheep.STARTUP, AGAIN, "starting up"),
    (fake_sheep.WAIT_FOR_FORMAT, AGAIN, "not formatted"),
    (fake_sheep.WAIT_FOR_JOIN, AGAIN, "waits for nodes"),
    (fake_sheep.HALT, AGAIN, "halted"),
    (0x11, UNAVAILABLE, "shutting down"),
    (fake_sheep.VER_MISMATCH, UNAVAILABLE, "another version"),
    (fake_sheep.EIO, IO, "input/output error"),
    (0xEE, IO, "0xee"),
]


@pytest.mark.parametrize("after", [0, 3])
def test_what_the_cluster_says_all_the_time_is_told(after):
    def says(case):
        result, status, words = case
        with FakeCluster() as cluster:
            alpha = cluster.vdi("alpha", 40 * MIB, range(10))
            cluster.nodes[0].fault(Result(result), op=READ_OBJ, after=after)
            done = read(cluster, alpha, stall_ms=3000)
            fails(done, status, words)
            assert done.stdout == alpha.content(0, len(done.stdout))

    at_once(says, SAID)


def test_a_reader_that_pauses_does_not_try_the_patience(one):
    """The time that the output waits is not the cluster's."""
    alpha = one.vdi("alpha", 80 * MIB, range(20))
    with Reader(one, alpha, stall_ms=4000) as reader:
        reader.ask((0, alpha.size))
        reader.take(MIB)
        threading.Event().wait(3.5)  # longer than its patience
        assert reader.take(alpha.size - MIB) == alpha.content(MIB)
        assert reader.end() == (0, b"")


def test_answers_are_taken_off_the_sockets_though_nobody_reads(one):
    """A sheep whose answer is not taken has one thread less for its guests."""
    alpha = one.vdi("alpha", 200 * MIB, range(50))
    with Reader(one, alpha) as reader:
        reader.ask((0, alpha.size))
        reader.take(1)
        # All that was asked for gets sent, which blocks if it is not taken.
        sent = []

        def is_calm():
            connections = one.nodes[0].connections
            free = True
            for connection in list(connections):
                if connection.lock.acquire(timeout=10):
                    connection.lock.release()
                else:
                    free = False
            sent.append(len(one.data_requests()))
            return free and len(sent) > 20 and len(set(sent[-20:])) == 1

        wait_until(is_calm)
        assert reader.take(alpha.size - 1) == alpha.content(1)
        assert reader.end() == (0, b"")


def test_a_snapshot_taken_in_the_middle_changes_nothing(one):
    alpha = one.vdi("alpha", 80 * MIB, range(20))
    expected = alpha.content()

    def take_snapshot():
        now = one.snapshot(alpha, "s")
        now.owners = dict.fromkeys(range(20), now.vid)  # the guest writes everywhere

    one.nodes[0].fault(Do(take_snapshot), match=lambda r: r.object < fake_sheep.TREE_BIT, after=9,
                       times=1)  # fmt: skip
    done = read(one, alpha)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == expected


def test_all_rules_of_the_protocol_are_kept(two):
    two.vdi("empty", 0)
    alpha = two.vdi("alpha", 9 * MIB + 5, [0, 2])
    two.snapshot(alpha, "s")
    done = subprocess.run(
        [SOURCE / "tests/stores/conformance.py", PROGRAM, two.uri()],
        stdout=subprocess.PIPE, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
