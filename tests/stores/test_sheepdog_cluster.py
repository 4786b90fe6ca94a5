# SPDX-License-Identifier: MIT
"""The sheepdog store on real sheep, beside dog.  Skipped where there are none."""

import concurrent.futures
import contextlib
import errno
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

import conformance
import harness
import sheepdog_cluster

PROGRAM = harness.BUILD / "imagefs-store-sheepdog"
LIMIT = 120
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
OBJECT = 4 * MIB
GONE, UNAVAILABLE, IO, AGAIN = 66, 69, 74, 75
SHORT_MS = 4000  # a stall limit for what is to fail

pytestmark = pytest.mark.skipif(
    sheepdog_cluster.missing() is not None, reason=str(sheepdog_cluster.missing())
)


def cluster_of(*arguments, **keys):
    keys.setdefault("nodes", 3)
    keys.setdefault("copies", 2)
    return sheepdog_cluster.Cluster(*arguments, **keys)


@pytest.fixture
def cluster():
    with cluster_of() as cluster:
        yield cluster


@pytest.fixture(params=["2", "2:1"], ids=["two copies", "erasure code"])
def any_cluster(request):
    """Survives the death of one of its four nodes."""
    with cluster_of(nodes=4, copies=request.param) as cluster:
        if ":" in request.param:
            cluster.keep_strips()
        yield cluster


def run(*arguments, stdin=b"", stall_ms=60000):
    return subprocess.run(
        [PROGRAM, *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, IMAGEFS_STALL_MS=str(stall_ms)),
        timeout=LIMIT,
        check=False,
    )


def uri_of(cluster, *nodes):
    nodes = nodes or (0,)
    return "sheepdog://" + ",".join(cluster.address(node) for node in nodes) + "/"


def listed(cluster, uri=None):
    """{name: image}"""
    done = run("list", "--", uri or uri_of(cluster))
    assert (done.returncode, done.stderr) == (0, b"")
    images = [json.loads(line) for line in done.stdout.splitlines()]
    found = {conformance.name_of(image): image for image in images}
    assert len(found) == len(images)
    return found


def lines_of(asks):
    return "".join(f"{offset} {length}\n" for offset, length in asks).encode()


def read(cluster, image, *asks, uri=None, **keys):
    asks = asks or ([(0, image["size"])] if image["size"] else [])
    uri = uri or uri_of(cluster)
    return run("read", "--", uri, image["id"], stdin=lines_of(asks), **keys)


def content_of(done):
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def fails(done, status, *words):
    assert done.returncode == status, done.stderr
    last = done.stderr.decode().splitlines()[-1]
    for word in words:
        assert word in last


def dog_read(cluster, name, offset=0, length=None, tag=None):
    arguments = (["-s", tag] if tag else []) + ["--", name, offset]
    return cluster.dog("vdi", "read", *arguments, *([length] if length else [])).stdout


def content(size, seed=1):
    return random.Random(seed).randbytes(size)


def write(cluster, name, data, offset=0):
    cluster.dog("vdi", "write", "--", name, offset, len(data), input=data)


def create(cluster, name, data, *arguments, size=None):
    """Make a VDI of @data; its image."""
    cluster.dog("vdi", "create", *arguments, "--", name, size or len(data))
    write(cluster, name, data)
    return listed(cluster)[name.encode()]


def extents(cluster, image):
    done = run("extents", "--", uri_of(cluster), image["id"])
    return [tuple(map(int, line.split())) for line in content_of(done).splitlines()]


class Reader(conformance.Run):
    """A reader that runs while the test does something."""

    def __init__(self, cluster, image, *nodes):
        store = conformance.Store(str(PROGRAM), uri_of(cluster, *nodes), limit=LIMIT)
        super().__init__(store, "read", "--", store.uri, image["id"])

    def ends(self, status=0):
        self.end_input()
        assert self.rest() == b""
        assert self.wait() == status, self.said()
        return self.said()


class Client:
    """Requests that dog does not make."""

    READ_OBJ, CREATE_AND_WRITE_OBJ, WRITE_OBJ, LOCK_VDI = 0x02, 0x01, 0x03, 0x12
    WRITE = 1

    def __init__(self, cluster, node=0):
        self.socket = socket.create_connection((cluster.host, cluster.ports[node]), LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, op, middle, data=b"", flags=WRITE, length=None):
        """@middle: the 32 bytes of a header that depend on the operation."""
        length = len(data) if length is None else length
        self.socket.sendall(struct.pack("<BBHIII", 2, op, flags, 0, 1, length) + middle + data)
        header = self.take(48)
        length, result = struct.unpack_from("<II", header, 12)
        return result, self.take(length)

    def take(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece
            data += piece
        return data

    def write(self, number, data, offset=0, create=False, copies=2):
        op = self.CREATE_AND_WRITE_OBJ if create else self.WRITE_OBJ
        middle = struct.pack("<QQBBBBIII", number, 0, copies, 0, 0, 0, 0, offset, 0)
        assert self.ask(op, middle, data) == (0, b"")

    def lock(self, name):
        data = name.ljust(512, b"\0")
        result, _ = self.ask(self.LOCK_VDI, bytes(32), data)
        return result


def stored(cluster):
    """{file: its bytes} of all that the nodes keep of VDIs."""
    return {path: path.read_bytes() for path in cluster.folder.glob("node*/obj/*")
            if path.is_file()}  # fmt: skip


# What there is.


def test_every_vdi_snapshot_and_clone_is_listed_and_read(cluster):
    odd = "-a b\\\n\t'\"$(id)größe%41#@"
    first, second, third = (content(9 * MIB + 4096, seed) for seed in range(3))
    size = 20 * MIB
    create(cluster, odd, first, size=size)
    cluster.dog("vdi", "snapshot", "-s", "before upgrade", "--", odd)
    write(cluster, odd, second)
    cluster.dog("vdi", "snapshot", "--", odd)
    write(cluster, odd, third, offset=5 * MIB)
    cluster.dog("vdi", "clone", "-s", "before upgrade", "--", odd, "copy")
    write(cluster, "copy", b"clone", offset=100)
    cluster.dog("vdi", "create", "thin", "100G")
    cluster.dog("vdi", "create", "gone", "4M")
    cluster.dog("vdi", "delete", "gone")

    name = odd.encode()
    expected = {
        name + b"@before upgrade": first.ljust(size, b"\0"),
        name + b"@2": second.ljust(size, b"\0"),
        name: (second[: 5 * MIB] + third).ljust(size, b"\0"),
        b"copy": (first[:100] + b"clone" + first[105:]).ljust(size, b"\0"),
    }
    found = listed(cluster)
    assert set(found) == {*expected, b"thin"}
    assert (found[b"thin"]["size"], found[b"thin"]["allocated"]) == (100 * GIB, 0)
    for image, data in expected.items():
        assert found[image]["size"] == size
        assert found[image]["allocated"] == 3 * OBJECT + (OBJECT if image == name else 0)
        assert found[image].get("immutable", False) == (image not in (name, b"copy"))
        assert content_of(read(cluster, found[image])) == data
        # The URI leads to the one image.
        uri = found[image]["attrs"]["uri"]
        assert [alone["id"] for alone in listed(cluster, uri).values()] == [found[image]["id"]]
    vids = {image: found[image]["attrs"]["vid"] for image in found}
    assert found[b"copy"]["attrs"]["parent"] == vids[name + b"@before upgrade"]
    assert found[name]["attrs"]["parent"] == vids[name + b"@2"]
    assert content_of(read(cluster, found[b"thin"], (100 * GIB - 4096, 4096))) == bytes(4096)


def test_any_name_and_tag_is_listed(cluster):
    names = ["n" * 255, "a/b", "@", "a@b", "..", "größe", "\\x41", "100%"]
    for name in names:
        cluster.dog("vdi", "create", "--", name, "4M")
    cluster.dog("vdi", "create", "a", "4M")
    for tag in ("t" * 255, "1x", "a@b", " ", "größe/\\"):
        cluster.dog("vdi", "snapshot", "-s", tag, "a")
    cluster.dog("vdi", "snapshot", "a")
    expected = {*names, "a", "a@" + "t" * 255, "a@1x", "a@a@b", "a@ ", "a@größe/\\", "a@6"}
    assert set(listed(cluster)) == {name.encode() for name in expected}


@pytest.mark.parametrize(
    "kind", [("-z", "20"), ("-z", "23"), ("-z", "26"), ("-c", "2:1"), ("-c", "3"), ("-c", "1"),
             ("-y",), ("-y", "-c", "2:1")], ids="".join,
)  # fmt: skip
def test_every_byte_of_every_kind_is_that_of_dog(cluster, kind):
    size = 21 * MIB + 513
    cluster.dog("vdi", "create", *kind, "alpha", size)
    write(cluster, "alpha", content(9 * MIB, 5))
    write(cluster, "alpha", content(5 * MIB + 513, 6), offset=16 * MIB)
    image = listed(cluster)[b"alpha"]
    expected = dog_read(cluster, "alpha")
    assert (image["size"], len(expected)) == (size, size)
    asks = [(0, size), (size - 1, 1), (9 * MIB - 7, 5 * MIB), (0, 1), (4 * MIB - 1, 2)]
    data = content_of(read(cluster, image, *asks))
    assert data == b"".join(expected[offset:][:length] for offset, length in asks)
    inside = bytearray(size)
    for offset, length in extents(cluster, image):
        inside[offset : offset + length] = expected[offset : offset + length]
    assert inside == expected


@pytest.mark.parametrize("size", [0, 1, 511, OBJECT - 1, OBJECT, OBJECT + 1])
def test_any_size_is_read_to_its_last_byte(cluster, size):
    image = create(cluster, "alpha", content(size), size=str(size))
    assert image["size"] == size
    assert content_of(read(cluster, image)) == content(size)


@pytest.mark.parametrize(
    ("kind", "size", "step"),
    [(["-y"], 6 * TIB, OBJECT), (["-z", "24"], 16 * TIB - 512, 16 * MIB)], ids=["tree", "16M"],
)  # fmt: skip
def test_more_than_4_tib_are_read(cluster, kind, size, step):
    cluster.dog("vdi", "create", *kind, "alpha", size)
    pieces = [0, TIB + 5 * step, size // 2 // step * step, size - MIB]
    for at in pieces:
        write(cluster, "alpha", content(MIB, at), offset=at)
    image = listed(cluster)[b"alpha"]
    assert (image["size"], image["allocated"]) == (size, 4 * step)
    data = content_of(read(cluster, image, *((at, MIB) for at in pieces)))
    assert data == b"".join(content(MIB, at) for at in pieces)
    assert data == b"".join(dog_read(cluster, "alpha", at, MIB) for at in pieces)
    assert content_of(read(cluster, image, (TIB, 9 * MIB))) == bytes(9 * MIB)
    starts = [at // step * step for at in pieces]
    assert extents(cluster, image) == [(at, min(step, size - at)) for at in starts]


@pytest.mark.parametrize(("kind", "shift"), [(["-y"], 22), (["-z", "31"], 31)], ids=["tree", "2G"])
def test_the_largest_vdis_are_known(cluster, kind, shift):
    """Nothing is in them: a sheep makes an object of 2 GiB at once."""
    size = 1 << (54 if shift == 22 else 51)
    cluster.dog("vdi", "create", *kind, "alpha", size)
    image = listed(cluster)[b"alpha"]
    assert (image["size"], image["attrs"]["object-size"]) == (size, str(1 << shift))
    assert extents(cluster, image) == []
    assert content_of(read(cluster, image, (size - MIB, MIB))) == bytes(MIB)


def test_snapshots_of_clones_of_snapshots_are_read(cluster):
    size = 24 * MIB
    expected = {"gen0": bytearray(size)}
    cluster.dog("vdi", "create", "gen0", size)
    for generation in range(5):
        name = f"gen{generation}"
        data = content(5 * MIB, generation)
        write(cluster, name, data, offset=generation * 4 * MIB)
        expected[name][generation * 4 * MIB : generation * 4 * MIB + len(data)] = data
        cluster.dog("vdi", "snapshot", "-s", "t", name)
        expected[name + "@t"] = expected[name]
        expected[name] = bytearray(expected[name])
        write(cluster, name, b"later", offset=MIB)
        expected[name][MIB : MIB + 5] = b"later"
        if generation < 4:
            following = f"gen{generation + 1}"
            cluster.dog("vdi", "clone", "-s", "t", name, following)
            expected[following] = bytearray(expected[name + "@t"])
    # What the others still need stays when one between them goes.
    cluster.dog("vdi", "delete", "-s", "t", "gen1")
    cluster.dog("vdi", "delete", "gen2")
    del expected["gen1@t"], expected["gen2"]
    found = listed(cluster)
    assert set(found) == {name.encode() for name in expected}
    for name, data in expected.items():
        assert content_of(read(cluster, found[name.encode()])) == data
        base, _, tag = name.partition("@")
        assert dog_read(cluster, base, tag=tag) == data


def test_a_tree_of_two_levels_is_read_and_a_lost_leaf_is_no_hole(cluster):
    """
    It takes half a million objects to come by one, so it is made by hand; the root in the
    sheep's files, since a sheep that is asked to takes it for a list of objects.
    """
    cluster.dog("vdi", "create", "-y", "alpha", 6 * TIB)
    data = content(24 * MIB)
    write(cluster, "alpha", data)
    write(cluster, "alpha", data, offset=5 * TIB)
    image = listed(cluster)[b"alpha"]
    vid = int(image["attrs"]["vid"], 16)
    far = 5 * TIB // OBJECT
    leaves = [[0, 1, 2], [3, 4, 5, far], [far + at for at in range(1, 6)]]
    root = struct.pack("<HHI", 0x6274, 2, len(leaves))
    with Client(cluster) as client:
        for at, indexes in enumerate(leaves):
            number = 1 << 60 | vid << 32 | at
            leaf = struct.pack("<HHI", 0x6274, 1, len(indexes))
            leaf += b"".join(struct.pack("<II", index, vid) for index in indexes)
            client.write(number, leaf.ljust(OBJECT, b"\0"), create=True)
            root += struct.pack("<IIQ", indexes[-1], 0, number)
    inodes = list(cluster.folder.glob("node*/obj/%016x" % (1 << 63 | vid << 32)))
    assert len(inodes) == 2
    for inode in inodes:
        with open(inode, "r+b") as file:
            file.seek(4664)
            file.write(root)
    asks = [(0, len(data)), (5 * TIB, len(data)), (4 * TIB, MIB)]
    assert content_of(read(cluster, image, *asks)) == 2 * data + bytes(MIB)
    assert dog_read(cluster, "alpha", 5 * TIB, len(data)) == data
    assert extents(cluster, image) == [(0, len(data)), (5 * TIB, len(data))]
    assert listed(cluster)[b"alpha"]["allocated"] == 2 * len(data)

    for path in cluster.folder.glob("node*/obj/%016x" % (1 << 60 | vid << 32 | 1)):
        path.unlink()
    done = read(cluster, image, (0, len(data)), stall_ms=SHORT_MS)
    fails(done, IO, "lost")
    assert done.stdout == data[: len(done.stdout)]
    assert len(done.stdout) <= 3 * OBJECT
    assert content_of(read(cluster, image, (0, 12 * MIB))) == data[: 12 * MIB]
    assert run("extents", "--", uri_of(cluster), image["id"], stall_ms=SHORT_MS).returncode == IO


def test_all_rules_of_the_protocol_are_kept(cluster):
    create(cluster, "alpha", content(9 * MIB), size="10M")
    cluster.dog("vdi", "snapshot", "-s", "a b", "alpha")
    cluster.dog("vdi", "create", "beta", "1T")
    results = list(conformance.check(str(PROGRAM), uri_of(cluster), limit=LIMIT))
    assert [result for result in results if result[2] == "wrong"] == []


def test_nothing_is_written_and_no_lock_is_taken(cluster):
    image = create(cluster, "alpha", content(9 * MIB), size="40M")
    with Client(cluster) as client:
        assert client.lock(b"alpha") == 0
        before = stored(cluster)
        assert content_of(read(cluster, listed(cluster)[b"alpha"]))[: 9 * MIB] == content(9 * MIB)
        extents(cluster, image)
        assert stored(cluster) == before
    cluster.dog("vdi", "create", "beta", "4M")
    listed(cluster)
    with Client(cluster, node=1) as client:
        assert client.lock(b"beta") == 0


# Where it is.


def test_gateways_are_named_in_many_ways(cluster):
    image = create(cluster, "alpha", content(5 * MIB))
    port = cluster.ports[0]
    uris = [
        f"sheepdog://127.0.0.1:{port}", f"sheepdog+tcp://localhost:{port}/",
        f"sheepdog+unix:///?socket={cluster.folder}/node0/sock", f"sheepdog://127.0.0.1:{port}:alpha",
        f"sheepdog+unix:///%61lpha?socket={cluster.folder}/node0/sock",
        f"sheepdog://127.0.0.1:1,127.0.0.1:{port}/", f"sheepdog://no.invalid,localhost:{port}/",
        uri_of(cluster, 2, 1, 0),
    ]  # fmt: skip
    for uri in uris:
        assert listed(cluster, uri)[b"alpha"]["id"] == image["id"]
        assert content_of(read(cluster, image, uri=uri)) == content(5 * MIB)


def test_sheep_can_have_ipv6_addresses():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with cluster_of(host="::1") as cluster:
        image = create(cluster, "alpha", content(20 * MIB))
        with Reader(cluster, image) as reader:
            reader.ask((0, MIB))
            assert reader.take(MIB) == content(20 * MIB)[:MIB]
            cluster.kill(0)
            reader.ask((MIB, 19 * MIB))
            assert reader.take(19 * MIB) == content(20 * MIB)[MIB:]
            reader.ends()


GREETINGS = {"garbage": os.urandom(4096), "http": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9,
             "silence": b"", "zeros": bytes(4096)}  # fmt: skip


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_something_else_that_listens_is_passed_over(cluster, greeting):
    image = create(cluster, "alpha", content(5 * MIB))
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])
                    taken[-1].sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        other = f"127.0.0.1:{server.getsockname()[1]}"
        uri = f"sheepdog://{other},{cluster.address()}/"
        assert set(listed(cluster, uri)) == {b"alpha"}
        assert content_of(read(cluster, image, uri=uri)) == content(5 * MIB)
        for call in (("list",), ("read", image["id"])):
            done = run(call[0], "--", f"sheepdog://{other}/", *call[1:], stdin=b"0 512\n",
                       stall_ms=2000)  # fmt: skip
            assert (done.returncode, done.stdout) == (UNAVAILABLE, b"")
            assert other.encode() in done.stderr
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


def test_a_cluster_that_cannot_answer_now_says_why_in_the_end():
    with cluster_of(formatted=False) as cluster:
        done = run("list", "--", uri_of(cluster), stall_ms=2000)
        fails(done, AGAIN, "not formatted")
        assert done.stdout == b""
        image = {"id": "01ec8c-6b06f5bd1ef40010", "size": 1}
        fails(read(cluster, image, stall_ms=2000), AGAIN, "not formatted")
    done = run("list", "--", uri_of(cluster), stall_ms=2000)
    fails(done, UNAVAILABLE, "Connection refused")
    fails(read(cluster, image, stall_ms=2000), UNAVAILABLE, "Connection refused")


def test_a_cluster_that_starts_up_is_waited_for(cluster):
    data = content(20 * MIB)
    image = create(cluster, "alpha", data)
    cluster.dog("cluster", "shutdown")
    for node in range(3):
        # One in many does not end, having written down all there is to it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            cluster.sheep[node].wait(20)
        cluster.kill(node)
    assert cluster._start(0)
    fails(run("list", "--", uri_of(cluster), stall_ms=2000), AGAIN, "waits for nodes")
    fails(read(cluster, image, stall_ms=2000), AGAIN, "waits for nodes")
    with Reader(cluster, image) as reader, concurrent.futures.ThreadPoolExecutor() as pool:
        reader.ask((0, len(data)))
        found = pool.submit(listed, cluster)
        for node in (1, 2):
            cluster.restart(node) if node == 2 else cluster._start(node)
        assert reader.take(len(data)) == data
        reader.ends()
        assert set(found.result()) == {b"alpha"}


# What happens to nodes.


@pytest.mark.parametrize("victim", [0, 2], ids=["the named one", "another one"])
def test_a_node_that_dies_in_the_middle_of_a_copy_is_not_noticed(any_cluster, victim):
    data = content(96 * MIB)
    image = create(any_cluster, "alpha", data)
    with Reader(any_cluster, image) as reader:
        reader.ask((0, len(data)))
        got = reader.take(MIB)
        any_cluster.kill(victim)
        got += reader.take(len(data) - MIB)
        assert got == data
        reader.ends()
    # And as the nodes that are left copy what they lack.
    uri = uri_of(any_cluster, 1)
    assert content_of(read(any_cluster, image, uri=uri)) == data
    assert set(listed(any_cluster, uri)) == {b"alpha"}


def test_nodes_come_and_go_while_a_vdi_is_read(cluster):
    data = content(64 * MIB)
    image = create(cluster, "alpha", data)
    with Reader(cluster, image) as reader:
        for step in range(4):
            if step % 2:
                cluster.add()
            elif step:
                cluster.kill(0)
                cluster.wait_running()
            for offset in range(0, len(data), 16 * MIB):
                reader.ask((offset, 16 * MIB), (offset + 5, 4096))
                assert reader.take(16 * MIB) == data[offset:][: 16 * MIB]
                assert reader.take(4096) == data[offset + 5 :][:4096]
            if step:
                cluster.wait_recovered()
        reader.ends()


def test_a_node_that_hangs_is_passed_over(cluster):
    data = content(64 * MIB)
    image = create(cluster, "alpha", data)
    with Reader(cluster, image) as reader:
        reader.ask((0, len(data)))
        got = reader.take(MIB)
        cluster.pause(1)
        try:
            got += reader.take(len(data) - MIB)
            assert got == data
            reader.ends()
            assert content_of(read(cluster, image, stall_ms=12000)) == data
        finally:
            cluster.resume(1)


def test_a_gateway_that_comes_back_is_gone_on_with():
    with cluster_of(nodes=1, copies=1) as cluster:
        data = content(64 * MIB)
        image = create(cluster, "alpha", data)
        with Reader(cluster, image) as reader:
            reader.ask((0, len(data)))
            got = reader.take(MIB)
            cluster.kill(0)
            cluster.restart(0)
            assert got + reader.take(len(data) - MIB) == data
            reader.ends()


def test_lost_objects_are_errors_and_no_zeros():
    with cluster_of(copies=1) as cluster:
        data = content(40 * MIB)
        image = create(cluster, "alpha", data)
        lost = 0
        for node in range(3):
            cluster.kill(node)
            cluster.wait_running()
            other = uri_of(cluster, (node + 1) % 3)
            done = read(cluster, image, uri=other, stall_ms=SHORT_MS)
            if done.returncode:  # this node had something of it
                assert done.returncode == IO, done.stderr
                lost += 1
            assert done.stdout == data[: len(done.stdout)]
            cluster.restart(node)
            # An object that is on its way when the next node dies is lost for good.
            cluster.wait_recovered()
        assert lost
        assert content_of(read(cluster, image)) == data


def test_what_only_the_dead_had_is_there_again_with_them():
    with cluster_of(copies=1) as cluster:
        data = content(40 * MIB)
        image = create(cluster, "alpha", data)
        cluster.kill(1)
        cluster.wait_running()
        with Reader(cluster, image) as reader:
            reader.ask((0, len(data)))
            cluster.restart(1)
            assert reader.take(len(data)) == data
            reader.ends()


# What happens to VDIs.


def test_a_snapshot_taken_in_the_middle_of_a_copy_changes_nothing(cluster):
    data, later = content(64 * MIB), content(64 * MIB, 2)
    image = create(cluster, "alpha", data)
    with Reader(cluster, image) as reader:
        reader.ask((0, len(data)))
        got = reader.take(MIB)
        cluster.dog("vdi", "snapshot", "-s", "t", "alpha")
        write(cluster, "alpha", later)
        got += reader.take(len(data) - MIB)
        assert got == data
        # The id goes on to mean what it meant.
        reader.ask((5 * MIB, 4096))
        assert reader.take(4096) == data[5 * MIB :][:4096]
        reader.ends()
    assert content_of(read(cluster, image)) == data
    found = listed(cluster)
    assert content_of(read(cluster, found[b"alpha@t"])) == data
    assert content_of(read(cluster, found[b"alpha"])) == later


def test_what_is_written_while_it_is_read_is_read_old_or_new(cluster):
    """Of a VDI in use there is no one version; but there are no other bytes than its own."""
    old, new = content(32 * MIB), content(32 * MIB, 2)
    image = create(cluster, "alpha", old[: 16 * MIB], size="32M")
    old = old[: 16 * MIB].ljust(len(old), b"\0")
    with Reader(cluster, image) as reader, concurrent.futures.ThreadPoolExecutor() as pool:
        written = pool.submit(write, cluster, "alpha", new)
        rounds = 0
        while not written.done() or rounds < 2:
            reader.ask((0, len(old)))
            got = reader.take(len(old))
            for at in range(0, len(old), 512):
                assert got[at : at + 512] in (old[at : at + 512], new[at : at + 512])
            rounds += 1
        written.result()
        end = time.monotonic() + LIMIT
        while got != new and time.monotonic() < end:
            reader.ask((0, len(old)))
            got = reader.take(len(old))
        assert got == new
        reader.ends()


def test_a_vdi_that_grew_is_read_to_its_new_end(cluster):
    data = content(20 * MIB)
    image = create(cluster, "alpha", data[: 9 * MIB])
    with Reader(cluster, image) as reader:
        reader.ask((0, 512))
        assert reader.take(512) == data[:512]
        cluster.dog("vdi", "resize", "alpha", "20M")
        write(cluster, "alpha", data)
        reader.ask((9 * MIB, 11 * MIB))
        assert reader.take(11 * MIB) == data[9 * MIB :]
        reader.ends()
    found = listed(cluster)[b"alpha"]
    assert (found["id"], found["size"]) == (image["id"], len(data))


@pytest.mark.parametrize("kind", [(), ("-c", "2:1")], ids="".join)
def test_a_vdi_deleted_while_it_is_read_is_gone(cluster, kind):
    # Not one with a tree: deleting it ends the sheep (seen with 1.0_173_g3ebe5ea7).
    data = content(96 * MIB)
    image = create(cluster, "alpha", data, *kind)
    with Reader(cluster, image) as reader:
        reader.ask((0, MIB))
        assert reader.take(MIB) == data[:MIB]
        cluster.dog("vdi", "delete", "alpha")
        reader.ask((MIB, len(data) - MIB))
        reader.end_input()
        got = reader.rest(len(data))
        assert got == data[MIB : MIB + len(got)]
        assert len(got) < len(data) - MIB
        assert reader.wait() == GONE, reader.said()
    assert listed(cluster) == {}
    for call in ("read", "extents"):
        fails(run(call, "--", uri_of(cluster), image["id"], stdin=b"0 1\n"), GONE, "gone")


def test_a_vdi_that_is_being_deleted_is_never_zeros(cluster):
    """dog overwrites the index first, here with long pauses between the parts of it."""
    data = content(40 * MIB)
    image = create(cluster, "alpha", data)
    with Reader(cluster, image) as reader:
        reader.ask((0, 4096))
        assert reader.take(4096) == data[:4096]
        slow = ("vdi", "delete", "-B", "1", "-I", "60", "alpha")
        dog = subprocess.Popen(cluster.dog_command(*slow), stdin=subprocess.DEVNULL)
        try:
            first = "%016x" % (int(image["attrs"]["vid"], 16) << 32)
            harness.wait_until(lambda: not list(cluster.folder.glob("node*/obj/" + first)),
                               "the first object is gone")  # fmt: skip
            reader.ask((0, len(data)))
            reader.end_input()
            assert reader.rest() == b""
            assert reader.wait() == GONE, reader.said()
        finally:
            dog.kill()
            dog.wait()


def test_a_name_that_is_given_again_is_another_image(cluster):
    image = create(cluster, "alpha", content(5 * MIB))
    cluster.dog("vdi", "delete", "alpha")
    again = create(cluster, "alpha", content(5 * MIB, 2))
    assert again["id"] != image["id"]
    fails(read(cluster, image), GONE, "gone")
    assert content_of(read(cluster, again)) == content(5 * MIB, 2)
    cluster.dog("vdi", "snapshot", "-s", "t", "alpha")
    current = listed(cluster)[b"alpha"]
    cluster.dog("vdi", "rollback", "-f", "-s", "t", "alpha")
    fails(read(cluster, current), GONE, "gone")
    assert content_of(read(cluster, listed(cluster)[b"alpha"])) == content(5 * MIB, 2)


def test_a_number_that_is_given_again_is_another_image():
    with cluster_of(format_arguments=["-R"]) as cluster:
        image = create(cluster, "alpha", content(5 * MIB))
        with Reader(cluster, image) as reader:
            reader.ask((0, 512))
            assert reader.take(512) == content(5 * MIB)[:512]
            cluster.dog("vdi", "delete", "alpha")
            again = create(cluster, "beta", content(5 * MIB, 2))
            assert again["attrs"]["vid"] == image["attrs"]["vid"]
            reader.ask((4 * MIB, MIB))
            reader.end_input()
            reader.rest()
            assert reader.wait() == GONE
        assert content_of(read(cluster, again)) == content(5 * MIB, 2)
        one = listed(cluster, uri_of(cluster) + "beta")
        assert [found["id"] for found in one.values()] == [again["id"]]


# Through the mount.


def test_tools_copy_from_the_mount_what_dog_reads(cluster, mounted, folder):
    size = 70 * MIB + 512
    cluster.dog("vdi", "create", "alpha", size)
    write(cluster, "alpha", content(9 * MIB), offset=8 * MIB)
    write(cluster, "alpha", content(MIB + 512, 2), offset=size - MIB - 512)
    cluster.dog("vdi", "snapshot", "-s", "v1", "alpha")
    write(cluster, "alpha", b"guest", offset=30 * MIB)
    mount = mounted(uri_of(cluster))
    assert sorted(os.listdir(mount.path)) == ["alpha", "alpha@v1"]
    for name, tag in (("alpha", None), ("alpha@v1", "v1")):
        expected = dog_read(cluster, "alpha", tag=tag)
        path, copy = mount / name, folder / "copy"
        assert os.stat(path).st_size == size
        for command in (["cp"], ["cp", "--sparse=always"], ["cp", "--sparse=never"],
                        ["dd", "bs=1M", "status=none"],
                        ["dd", "bs=1M", "status=none", "iflag=direct"]):  # fmt: skip
            files = [path, copy]
            if command[0] == "dd":
                files = [f"if={path}", f"of={copy}"]
            harness.run(*command, *files)
            assert copy.read_bytes() == expected
            copy.unlink()
        (folder / "expected").write_bytes(expected)
        harness.run("cmp", path, folder / "expected")
        assert path.read_bytes() == expected
    with open(mount / "alpha@v1", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 8 * MIB
        assert os.lseek(file.fileno(), 8 * MIB, os.SEEK_HOLE) == 20 * MIB
    attributes = {name: os.getxattr(mount / "alpha@v1", f"user.imagefs.{name}")
                  for name in ("tag", "copies", "object-size", "snapshot-id")}  # fmt: skip
    assert attributes == {"tag": b"v1", "copies": b"2", "object-size": b"4194304",
                          "snapshot-id": b"1"}  # fmt: skip


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="no qemu-img on PATH")
def test_qemu_reads_from_the_mount(cluster, mounted, folder):
    raw, image = folder / "raw", folder / "image.qcow2"
    raw.write_bytes(content(24 * MIB))
    harness.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    create(cluster, "cow", image.read_bytes(), size="40M")
    create(cluster, "raw", raw.read_bytes(), size="64M")
    mount = mounted(uri_of(cluster))
    found = json.loads(harness.run("qemu-img", "info", "--output=json", mount / "cow").stdout)
    assert (found["format"], found["virtual-size"]) == ("qcow2", 24 * MIB)
    harness.run("qemu-img", "check", "-f", "qcow2", mount / "cow")
    harness.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, mount / "cow")
    harness.run("qemu-img", "convert", "-f", "raw", "-O", "raw", mount / "raw", folder / "out")
    assert (folder / "out").read_bytes() == raw.read_bytes().ljust(64 * MIB, b"\0")


def test_a_copy_of_a_thin_vdi_is_thin_and_equal(cluster, mounted, folder):
    cluster.dog("vdi", "create", "thin", TIB)
    pieces = [0, 100 * GIB, 500 * GIB + OBJECT, TIB - OBJECT]
    for at in pieces:
        write(cluster, "thin", content(OBJECT, at), offset=at)
    mount = mounted(uri_of(cluster))
    assert os.stat(mount / "thin").st_size == TIB
    harness.run("cp", mount / "thin", folder / "copy")
    stat = os.stat(folder / "copy")
    assert stat.st_size == TIB
    assert stat.st_blocks * 512 <= len(pieces) * OBJECT + MIB
    with open(folder / "copy", "rb") as copy:
        for at in pieces:
            assert os.pread(copy.fileno(), OBJECT, at) == content(OBJECT, at)


def test_a_copy_from_the_mount_survives_a_node(any_cluster, mounted, folder):
    data = content(128 * MIB)
    create(any_cluster, "alpha", data)
    mount = mounted(uri_of(any_cluster, 0, 1))
    with open(mount / "alpha", "rb") as file:
        got = file.read(MIB)
        any_cluster.kill(0)
        got += file.read()
    assert got == data


def test_an_open_file_stays_on_its_version(cluster, mounted):
    data = content(64 * MIB)
    create(cluster, "alpha", data)
    mount = mounted(uri_of(cluster), "ttl=1")
    with open(mount / "alpha", "rb") as file:
        got = file.read(MIB)
        cluster.dog("vdi", "snapshot", "-s", "t", "alpha")
        write(cluster, "alpha", content(64 * MIB, 2))
        assert got + file.read() == data
    harness.wait_until(lambda: "alpha@t" in os.listdir(mount.path), "the snapshot is there")
    assert (mount / "alpha@t").read_bytes() == data
    assert (mount / "alpha").read_bytes() == content(64 * MIB, 2)


def test_an_open_file_of_a_deleted_vdi_is_stale(cluster, mounted):
    data = content(64 * MIB)
    create(cluster, "alpha", data)
    mount = mounted(uri_of(cluster), "ttl=1", noisy=True)
    with open(mount / "alpha", "rb", buffering=0) as file:
        assert file.read(4096) == data[:4096]
        cluster.dog("vdi", "delete", "alpha")
        create(cluster, "alpha", content(64 * MIB, 2))
        with pytest.raises(OSError) as error:
            os.pread(file.fileno(), 4096, 60 * MIB)
        assert error.value.errno == errno.ESTALE

    def is_new():
        with contextlib.suppress(OSError):  # the listing is some seconds old
            return (mount / "alpha").read_bytes() == content(64 * MIB, 2)

    harness.wait_until(is_new, "the new one is there")


def test_lost_objects_are_eio_through_the_mount(mounted):
    with cluster_of(copies=1) as cluster:
        data = content(64 * MIB)
        create(cluster, "alpha", data)
        mount = mounted(uri_of(cluster, 0, 1, 2), "stall=3", noisy=True)
        with open(mount / "alpha", "rb", buffering=0) as file:
            assert file.read(4096) == data[:4096]
            cluster.kill(2)
            cluster.wait_running()
            got = 4096
            with pytest.raises(OSError) as error:
                while True:
                    piece = file.read(MIB)
                    assert piece and piece == data[got : got + len(piece)]
                    got += len(piece)
            assert error.value.errno == errno.EIO
