# SPDX-License-Identifier: MIT
"""The rbd store on a real Ceph.  Skipped where there is none."""

import array
import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import random
import re
import shutil
import struct
import subprocess
import termios
import time

import hypothesis
import hypothesis.strategies as st
import pytest

import ceph_cluster
import conformance
import harness

PROGRAM = harness.BUILD / "imagefs-store-rbd"
LIMIT = 120
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
OBJECT = 4 * MIB
USAGE, GONE, UNAVAILABLE, IO_ERROR, AGAIN, DENIED = 64, 66, 69, 74, 75, 77

if not PROGRAM.exists():
    pytest.skip(f"{PROGRAM} is not built (librbd-dev)", allow_module_level=True)
if ceph_cluster.missing():
    pytest.skip(ceph_cluster.missing(), allow_module_level=True)

# What is easier said in Python than to the rbd tool: names of all kinds, writes, discards.
PRELUDE = """
import os, sys, rados, rbd
cluster = rados.Rados(conffile="", name="client.admin")
cluster.connect()
io = cluster.open_ioctx("pool")
io.set_namespace(sys.argv[1])
pool = rbd.RBD()
data = sys.stdin.buffer.read()
"""


@pytest.fixture(scope="module")
def shared():
    """A cluster that tests do not break, with cephx."""
    with ceph_cluster.Cluster() as cluster:
        yield cluster


class Space:
    """A namespace of the shared cluster, of one test's own."""

    count = 0

    def __init__(self, cluster):
        Space.count += 1
        self.cluster = cluster
        self.name = f"space{Space.count}"
        self.spec = f"pool/{self.name}"
        self.uri = f"rbd://{self.spec}/"
        self.store = conformance.Store(str(PROGRAM), self.uri, limit=LIMIT)
        self.store.environment.update(cluster.environment)
        cluster.rbd("namespace", "create", self.spec)

    def rbd(self, *arguments, **options):
        """The rbd tool; "@" at the start of an argument is the namespace and a slash."""
        arguments = [f"{self.spec}/{a[1:]}" if str(a).startswith("@") else a for a in arguments]
        return self.cluster.rbd(*arguments, **options)

    def script(self, code, data=b"", **options):
        """Run Python with `io`, `pool` (rbd.RBD) and `data`."""
        return self.cluster.run(
            "/usr/bin/python3", "-c", PRELUDE + code, self.name, input=data, **options
        ).stdout

    def empty(self):
        """Give back what the images take up, which is memory: all objects are removed."""
        for pool in self.cluster.ceph("osd", "pool", "ls").split():
            rados = ["rados", "-p", pool, "-N", self.name]
            names = self.cluster.run(*rados, "ls").stdout.splitlines()
            for start in range(0, len(names), 500):
                # One that is marked as being watched still is there for a while.
                self.cluster.run(*rados, "rm", *names[start : start + 500], check=False)

    def make(self, name, data, *options):
        self.rbd("import", "--no-progress", *options, "-", f"@{name}", input=data)

    def write(self, name, data, offset=0):
        self.script(f"rbd.Image(io, {name!r}).write(data, {offset})", data)

    def run(self, *arguments, stdin=b"", uri=None, env=None, **options):
        """Run the program: run("list"), run("read", ID)."""
        call, *rest = arguments
        return self.cluster.run(PROGRAM, call, "--", uri or self.uri, *rest, input=stdin,
                                check=False, env=env, **options)

    def list(self, uri=None, env=None):
        """{name: image}; nothing may have been left out."""
        done = self.run("list", uri=uri, env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        images = [json.loads(line) for line in done.stdout.splitlines()]
        found = {conformance.name_of(image).decode(): image for image in images}
        assert len(found) == len(images)
        return found

    def read(self, image, *asks, **options):
        stdin = "".join(f"{offset} {length}\n" for offset, length in asks).encode()
        return self.run("read", image["id"], stdin=stdin, **options)

    def check(self, image, data, *asks, **options):
        """All of an image, or some of it, is as it should be."""
        asks = asks or [(0, len(data))]
        done = self.read(image, *asks, **options)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"".join(data[at:][:length] for at, length in asks)

    def extents(self, image, **options):
        done = self.run("extents", image["id"], **options)
        assert (done.returncode, done.stderr) == (0, b"")
        return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]


@pytest.fixture
def space(shared):
    space = Space(shared)
    yield space
    space.empty()


@functools.lru_cache(maxsize=16)
def content(size, seed=0):
    return random.Random(seed).randbytes(size)


def sparse(size, *runs):
    """Zeros with runs of data, (offset, bytes) each."""
    data = bytearray(size)
    for offset, part in runs:
        data[offset : offset + len(part)] = part
    return bytes(data)


def refused(done, status, *words):
    """It failed with one line on standard error, which says what is wrong."""
    assert done.returncode == status, done.stderr
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.count("\n") == 1 and text.endswith("\n"), text
    for word in words:
        assert word in text


# ---- the protocol -------------------------------------------------------------------------


def test_all_rules_of_the_protocol_are_kept(space):
    data = sparse(24 * MIB, (0, content(9 * MIB)), (20 * MIB, content(MIB, 1)))
    space.make("alpha", data)
    space.rbd("snap", "create", "--no-progress", "@alpha@v1")
    space.rbd("snap", "protect", "@alpha@v1")
    space.rbd("clone", "@alpha@v1", "@clone")
    space.rbd("create", "--size", "0", "@empty")
    space.rbd("create", "--size", "1T", "@large")
    results = list(conformance.check(space.store.program, space.uri, limit=LIMIT))
    assert [result for result in results if result[2] == "wrong"] == []


@pytest.fixture(autouse=True)
def find_cluster(request, monkeypatch):
    """What runs without an environment of its own finds the shared cluster."""
    if "shared" in request.fixturenames or "space" in request.fixturenames:
        shared = request.getfixturevalue("shared")
        monkeypatch.setenv("CEPH_CONF", str(shared.conf))


# ---- URIs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri, names",
    [
        ("rbd://pool/{space}/", {"alpha", "alpha@v1", "a/b@c:d"}),
        ("RBD://pool/{space}/?id=ro", {"alpha", "alpha@v1", "a/b@c:d"}),
        ("rbd://%70ool/{space}/?conf={conf}&id=ro&cluster=ceph", {"alpha", "alpha@v1", "a/b@c:d"}),
        ("rbd://pool/{space}/?keyring={keyring}&rados_osd_op_timeout=7",
         {"alpha", "alpha@v1", "a/b@c:d"}),
        ("rbd://pool/{space}/alpha", {"alpha"}),
        ("rbd://pool/{space}/alpha@v1", {"alpha@v1"}),
        ("rbd://pool/{space}/a%2Fb%40c%3Ad", {"a/b@c:d"}),
        ("rbd://pool/{space}/a%2fb%40c:d?timeout=0", {"a/b@c:d"}),
        ("rbd:pool/{space}/alpha", {"alpha"}),
        ("rbd:pool/{space}/alpha@v1:id=ro:conf={conf}", {"alpha@v1"}),
        (r"rbd:pool/{space}/a\/b\@c\:d:id=ro:rados_mon_op_timeout=5", {"a/b@c:d"}),
        ("rbd:pool/{space}/", {"alpha", "alpha@v1", "a/b@c:d"}),
    ],
)
def test_a_store_is_named_in_many_ways(space, uri, names):
    space.make("alpha", b"x" * 4096)
    space.rbd("snap", "create", "--no-progress", "@alpha@v1")
    space.script("pool.create(io, 'a/b@c:d', 4096)")
    uri = uri.format(space=space.name, conf=space.cluster.conf, keyring=space.cluster.keyring)
    found = space.list(uri=uri)
    assert set(found) == names
    for image in found.values():
        assert space.run("read", image["id"], stdin=b"0 9\n", uri=uri).returncode == 0


def test_a_pool_is_a_store_without_the_images_of_its_namespaces(space):
    space.make("alpha", b"x")
    space.cluster.rbd("create", "--size", "1M", "pool/top")
    for uri in ("rbd://pool", "rbd://pool/", "rbd:pool", "rbd:pool/"):
        assert set(space.list(uri=uri)) == {"top"}
    assert set(space.list(uri="rbd://pool/top")) == {"top"}
    space.cluster.rbd("rm", "--no-progress", "pool/top")


def test_a_location_of_glance_is_one_snapshot_of_the_cluster_it_names(space):
    space.cluster.rbd("import", "--no-progress", "-", "pool/%41 b", input=b"x" * 5000)
    space.cluster.rbd("snap", "create", "--no-progress", "pool/%41 b@snap")
    uri = f"rbd://{space.cluster.fsid}/pool/%2541%20b/snap"
    assert set(space.list(uri=uri)) == {"%41 b@snap"}
    assert set(space.list(uri=uri.replace(space.cluster.fsid, space.cluster.fsid.upper())))
    other = "00000000-1111-2222-3333-444444444444"
    refused(space.run("list", uri=f"rbd://{other}/pool/x/snap"), USAGE, other)
    space.cluster.rbd("snap", "rm", "--no-progress", "pool/%41 b@snap")
    space.cluster.rbd("rm", "--no-progress", "pool/%41 b")


def test_a_pool_may_be_called_like_a_cluster(shared, space):
    shared.make_pool(shared.fsid)
    shared.rbd("namespace", "create", f"{shared.fsid}/pool")
    shared.rbd("create", "--size", "1M", f"{shared.fsid}/pool/image")
    assert set(space.list(uri=f"rbd://{shared.fsid}/pool/")) == {"image"}
    assert set(space.list(uri=f"rbd://{shared.fsid}/pool/image")) == {"image"}
    assert set(space.list(uri=f"rbd://{shared.fsid}/")) == set()


@pytest.mark.parametrize(
    "uri, word",
    [
        ("rbd:", "pool"),
        ("rbd://", "pool"),
        ("rbd:///alpha", "pool"),
        ("rbd://pool//alpha", "empty"),
        ("rbd://pool/a/b/c", "more than"),
        ("rbd://pool/a/b/c/d/e/f", "more than"),
        ("rbd://pool/@v1", "without its image"),
        ("rbd://pool/alpha@", "without a name"),
        ("rbd://pool/alpha@a@b", "escaped"),
        ("rbd://pool/alpha#v1", "%23"),
        ("rbd://pool/%4", "percent"),
        ("rbd://pool/%00", "NUL"),
        ("rbd://pool/?id", "without a value"),
        ("rbd://pool/?id=", "without a value"),
        ("rbd://pool/?=x", "without a name"),
        ("rbd://pool/?timeout=soon", "seconds"),
        ("rbd://pool/?no_such_option=1", "no_such_option"),
        ("rbd://pool/?rados_osd_op_timeout=soon", "rados_osd_op_timeout"),
        ("rbd:pool/alpha:", "without a value"),
        ("rados://pool/", "scheme"),
    ],
)
def test_a_wrong_uri_is_refused(space, uri, word):
    refused(space.run("list", uri=uri), USAGE, word)
    refused(space.run("read", "1", uri=uri), USAGE, word)


@pytest.mark.parametrize(
    "uri",
    ["rbd://pool/?key=AQBVERYSECRET==", "rbd:pool/a:id=ro:key=AQBVERYSECRET==",
     "rbd:pool/a:password-secret=AQBVERYSECRET=="],
)
def test_a_key_in_a_uri_is_refused_and_not_repeated(space, uri):
    done = space.run("list", uri=uri)
    refused(done, USAGE, "keyring")
    assert b"VERYSECRET" not in done.stderr


# ---- list ---------------------------------------------------------------------------------


def test_a_list_says_all_there_is_to_say_about_an_image(space):
    before = int(time.time())
    space.make("alpha", sparse(33 * MIB, (9 * MIB, content(MIB))))
    space.rbd("snap", "create", "--no-progress", "@alpha@v 1")
    space.write("alpha", b"x", 32 * MIB)
    space.rbd("resize", "--no-progress", "--size", "40M", "@alpha")
    found = space.list()
    assert set(found) == {"alpha", "alpha@v 1"}
    head, snap = found["alpha"], found["alpha@v 1"]
    info = json.loads(space.rbd("info", "--format", "json", "@alpha"))
    assert head["id"] == info["id"]
    assert snap["id"] == f"{info['id']}@{info['snapshot_count'] and snap_id(space, 'alpha')}"
    assert (head["size"], snap["size"]) == (40 * MIB, 33 * MIB)
    assert (head["allocated"], snap["allocated"]) == (2 * OBJECT, OBJECT)
    assert (head.get("immutable", False), snap["immutable"]) == (False, True)
    for image in (head, snap):
        assert before <= image["mtime"] <= time.time()
        assert image["attrs"]["image-id"] == info["id"]
        assert image["attrs"]["object-size"] == str(OBJECT)
        assert set(image["attrs"]["features"].split(",")) == set(info["features"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", image["attrs"]["created"])
    assert snap["attrs"]["snapshot-id"] == snap["id"].partition("@")[2]
    assert head["attrs"]["uri"] == f"rbd:pool/{space.name}/alpha:id=admin"
    assert snap["attrs"]["uri"] == f"rbd:pool/{space.name}/alpha@v 1:id=admin"


def snap_id(space, image):
    return json.loads(space.rbd("snap", "ls", "--format", "json", f"@{image}"))[0]["id"]


def test_every_kind_of_image_is_listed(space):
    if "data" not in space.cluster.ceph("osd", "pool", "ls").split():
        space.cluster.make_pool("data")
    space.make("base", content(5 * MIB))
    space.rbd("snap", "create", "--no-progress", "@base@v1")
    space.rbd("snap", "protect", "@base@v1")
    space.rbd("clone", "@base@v1", "@clone")
    space.rbd("snap", "create", "--no-progress", "@clone@s")
    space.rbd("clone", "--rbd-default-clone-format", "2", "@clone@s", "@grandchild")
    space.rbd("create", "--size", "8M", "--data-pool", "data", "@far")
    space.rbd("create", "--size", "8M", "--image-feature", "layering", "@plain")
    space.rbd("create", "--size", "8M", "--stripe-unit", "64K", "--stripe-count", "4",
              "@striped")
    space.rbd("create", "--size", "8M", "--image-feature", "exclusive-lock,journaling",
              "@journaled")
    space.rbd("create", "--size", "0", "@empty")
    space.make("gone", b"x")
    space.rbd("trash", "mv", "@gone")
    # Snapshots that Ceph makes for itself are none of a user's.
    for command in (("group", "create", "@group"), ("group", "image", "add", "@group", "@plain"),
                    ("group", "snap", "create", "@group@s")):
        space.rbd(*command)
    found = space.list()
    assert set(found) == {"base", "base@v1", "clone", "clone@s", "grandchild", "far", "plain",
                          "striped", "journaled", "empty"}
    assert found["clone"]["attrs"]["parent"] == f"{space.spec}/base@v1"
    assert found["clone@s"]["attrs"]["parent"] == f"{space.spec}/base@v1"
    assert found["grandchild"]["attrs"]["parent"] == f"{space.spec}/clone@s"
    assert found["far"]["attrs"]["data-pool"] == "data"
    assert "allocated" not in found["plain"]
    assert found["clone"]["allocated"] == 5 * MIB
    assert found["grandchild"]["allocated"] == 5 * MIB
    for name, image in found.items():
        assert image["size"] == (5 if name[0] in "bcg" else 0 if name == "empty" else 8) * MIB


NAMES = [".", "..", "a/b", "a@b", "-n", "--help", "n\nl", "\x01\x7f", " a b ", "größe", "a" * 255,
         "b" * 2000, "%41", "a\\b", '"', "c@v/1", "rbd_id.x", "*"]


def test_any_name_is_listed_and_read(space):
    space.script(
        f"names = {NAMES!r}\n"
        "for name in names:\n"
        "    pool.create(io, name, 4096)\n"
        "    with rbd.Image(io, name) as image:\n"
        "        image.write(name.encode()[:4096], 0)\n"
        "        image.create_snap('s@/1')\n"
    )
    found = space.list()
    assert set(found) == {*NAMES, *(name + "@s@/1" for name in NAMES)}
    for name in NAMES:
        for image in (found[name], found[name + "@s@/1"]):
            space.check(image, name.encode().ljust(4096, b"\0")[:4096], (0, 4096))


def test_a_name_that_is_not_utf8_is_listed(space):
    # The Python binding knows none, the rbd tool does.
    space.cluster.run("rbd", "create", "--size", "1M", f"{space.spec}/".encode() + b"a\xffb")
    done = space.run("list")
    assert (done.returncode, done.stderr) == (0, b"")
    assert conformance.name_of(json.loads(done.stdout)) == b"a\xffb"


def test_an_image_that_cannot_be_opened_is_left_out_with_a_line(space):
    for name in ("one", "two", "three"):
        space.make(name, b"x")
    broken = space.list()["two"]["id"]
    space.cluster.run("rados", "-p", "pool", "-N", space.name, "rm", f"rbd_header.{broken}")
    done = space.run("list")
    assert done.returncode == 0
    assert re.fullmatch(rb"left out: two: [^\n]*\n", done.stderr)
    names = {json.loads(line)["name"] for line in done.stdout.splitlines()}
    assert names == {"one", "three"}


class Watched(conformance.Run):
    """A running program with an admin socket of librados, by which is seen what it does."""

    def __init__(self, space, socket, *arguments):
        self.space, self.socket = space, socket
        call, *rest = arguments
        uri = f"{space.uri}?admin_socket={socket}"
        super().__init__(space.store, call, "--", uri, *rest)

    def daemon(self, *command):
        return json.loads(self.space.cluster.run("ceph", "daemon", self.socket, *command).stdout)

    def requests(self):
        """How many requests it has sent to OSDs."""
        return self.daemon("perf", "dump", "objecter")["objecter"]["op_send"]

    def under_way(self):
        """The names of the objects that it waits for."""
        return [op["object_id"] for op in self.daemon("objecter_requests")["ops"]]

    def has_output(self):
        count = array.array("i", [0])
        fcntl.ioctl(self.stdout, termios.FIONREAD, count)
        return count[0]


def test_hundreds_of_images_are_listed_with_two_requests_each(space, tmp_path):
    count = 500
    space.script(f"for i in range({count}): pool.create(io, 'image%d' % i, 4096)")
    with Watched(space, tmp_path / "asok", "list") as run:
        # It cannot end before all is read.
        harness.wait_until(lambda: run.has_output() >= 65536, "the pipe is full")
        assert run.requests() <= 2 * count + 20
        assert len(run.rest().splitlines()) == count
        assert run.wait() == 0


# ---- read ---------------------------------------------------------------------------------

KINDS = ("plain", "far", "small", "large", "striped", "no-map", "clone", "old-clone", "clone-2",
         "clone-3", "journaled")


@pytest.fixture(scope="module")
def kinds(shared):
    """{kind: (image, its bytes)} for heads and, as "KIND@", snapshots."""
    space = Space(shared)
    if "data" not in shared.ceph("osd", "pool", "ls").split():
        shared.make_pool("data")
    size = 16 * MIB + 12345
    old = sparse(size, (0, content(3 * MIB)), (9 * MIB, content(4 * MIB, 1)),
                 (size - 9000, content(9000, 2)))
    options = {
        "plain": [],
        "far": ["--data-pool", "data"],
        "small": ["--object-size", "64K"],
        "large": ["--object-size", "32M"],
        "striped": ["--stripe-unit", "64K", "--stripe-count", "3"],
        "no-map": ["--image-feature", "layering"],
        "journaled": ["--image-feature", "exclusive-lock,journaling"],
    }
    for kind, extra in options.items():
        space.make(kind, old, *extra)
        space.rbd("snap", "create", "--no-progress", f"@{kind}@s")
    space.make("parent", old)
    for parent, child, features in (("parent", "clone", []),
                                    ("no-map", "old-clone", ["--image-feature", "layering"]),
                                    ("clone", "clone-2", ["--object-size", "8M"]),
                                    ("clone-2", "clone-3", ["--object-size", "1M",
                                                            "--stripe-unit", "1M",
                                                            "--stripe-count", "1"])):
        space.rbd("snap", "create", "--no-progress", f"@{parent}@origin")
        space.rbd("snap", "protect", f"@{parent}@origin")
        space.rbd("clone", *features, f"@{parent}@origin", f"@{child}")
        space.rbd("snap", "create", "--no-progress", f"@{child}@s")
    new = bytearray(old)
    for offset, length, seed in ((2 * MIB, 3 * MIB, 5), (15 * MIB, 100, 6), (9 * MIB, 64, 7)):
        new[offset : offset + length] = content(length, seed)
    discard = (8 * MIB, OBJECT)
    new[discard[0] : sum(discard)] = bytes(discard[1])
    space.script(
        "import random\n"
        f"for name in {KINDS!r}:\n"
        "    with rbd.Image(io, name) as image:\n"
        f"        for offset, length, seed in ((2<<20, 3<<20, 5), (15<<20, 100, 6), (9<<20, 64, 7)):\n"
        "            image.write(random.Random(seed).randbytes(length), offset)\n"
        f"        image.discard{discard}\n"
    )
    listed = space.list()
    found = {}
    for kind in KINDS:
        found[kind] = space, listed[kind], bytes(new)
        found[kind + "@"] = space, listed[kind + "@s"], old
    return found


@pytest.mark.parametrize("kind", [kind + at for kind in KINDS for at in ("", "@")])
def test_every_byte_of_every_kind_is_read(kinds, kind):
    space, image, data = kinds[kind]
    assert image["size"] == len(data)
    space.check(image, data)


@pytest.mark.parametrize("kind", [kind + at for kind in KINDS for at in ("", "@")])
def test_extents_have_all_that_is_no_zero(kinds, kind):
    space, image, data = kinds[kind]
    runs = space.extents(image)
    left = bytearray(data)
    for offset, length in runs:
        assert offset + length <= len(data)
        left[offset : offset + length] = bytes(length)
    assert left.count(0) == len(left)
    # There are holes, unless objects are too large for this image.
    if kind.rstrip("@") in ("plain", "far", "small", "no-map"):
        assert sum(length for _, length in runs) < len(data)


@pytest.fixture(scope="module")
def readers(kinds):
    """{kind: a running program that is asked again and again}."""
    with contextlib.ExitStack() as stack:
        programs = {}

        def reader(kind):
            if kind not in programs:
                space, image, _ = kinds[kind]
                programs[kind] = stack.enter_context(space.store.read(image))
            return programs[kind]

        yield reader


@pytest.mark.parametrize("kind", ("plain", "plain@", "striped@", "no-map", "clone", "clone-2@"))
@hypothesis.settings(max_examples=40)
@hypothesis.given(
    asks=st.lists(st.tuples(st.integers(0, 16 * MIB), st.one_of(
        st.integers(1, 5000), st.integers(1, 9 * MIB))), min_size=1, max_size=24)
)
def test_any_asks_are_answered_with_the_image(kinds, readers, kind, asks):
    _, _, data = kinds[kind]
    run = readers(kind)
    asks = [(offset, min(length, len(data) - offset)) for offset, length in asks]
    run.ask(*asks)
    for offset, length in asks:
        assert run.take(length) == data[offset : offset + length]


def test_several_objects_are_read_at_the_same_time(space, tmp_path):
    space.make("alpha", content(32 * MIB))
    image = space.list()["alpha"]
    data = content(32 * MIB)
    with Watched(space, tmp_path / "asok", "read", image["id"]) as run:
        run.ask((0, 1))
        run.take(1)
        # Small ones side by side.
        space.cluster.freeze("osd")
        try:
            asks = [(i * 2 * MIB, 4096) for i in range(16)]
            run.ask(*asks)
            harness.wait_until(lambda: count(run, "rbd_data") == 16, "16 are under way")
        finally:
            space.cluster.thaw("osd")
        for offset, length in asks:
            assert run.take(length) == data[offset : offset + length]
        # One large one ahead of who reads it, and not without an end.
        space.cluster.freeze("osd")
        try:
            run.ask((0, len(data)))
            harness.wait_until(lambda: count(run, "rbd_data") >= 4, "4 are under way")
            assert count(run, "rbd_data") <= 64
        finally:
            space.cluster.thaw("osd")
        assert run.take(len(data)) == data
        run.finish()


def count(run, prefix):
    return sum(name.startswith(prefix) for name in run.under_way())


@pytest.mark.parametrize("at", ("", "@s"))
def test_holes_are_not_asked_for(space, tmp_path, at):
    size = 4 * GIB
    space.rbd("create", "--size", "4G", "@alpha")
    space.write("alpha", content(MIB), 2 * GIB)
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    image = space.list()["alpha" + at]
    with Watched(space, tmp_path / "asok", "read", image["id"]) as run:
        run.ask((0, size - 4096))
        zeros = bytes(MIB)
        for offset in range(0, size - MIB, MIB):
            assert run.take(MIB) == (zeros if offset != 2 * GIB else content(MIB))
        run.take(MIB - 4096)
        # There are 1024 objects, of which one is there; and it looks after the image.
        assert run.requests() < 300
        run.finish()


def test_reading_needs_a_few_requests_only(space, tmp_path):
    space.make("alpha", content(SIZE), "--object-size", "1M")
    image = space.list()["alpha"]
    with Watched(space, tmp_path / "asok", "read", image["id"]) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == content(SIZE)
        assert run.requests() < SIZE // MIB + 40
        run.finish()


def test_an_ask_beyond_a_snapshot_is_wrong_and_beyond_an_image_it_is_gone(space):
    space.make("alpha", b"x" * 5000)
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    found = space.list()
    refused(space.read(found["alpha@s"], (4999, 2)), USAGE, "5000")
    refused(space.read(found["alpha"], (4999, 2)), GONE, "5000")


# ---- versions -----------------------------------------------------------------------------


def test_an_image_that_was_renamed_keeps_its_version(space):
    space.make("alpha", content(9 * MIB))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, MIB))
        run.take(MIB)
        space.rbd("mv", "@alpha", "@beta")
        run.ask((0, 9 * MIB))
        assert run.take(9 * MIB) == content(9 * MIB)
        run.finish()
    assert space.list()["beta"]["id"] == image["id"]
    space.check(image, content(9 * MIB))


def test_an_image_in_the_trash_is_read_till_it_is_removed(space):
    space.make("alpha", content(9 * MIB))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, MIB))
        run.take(MIB)
        space.rbd("trash", "mv", "@alpha")
        run.ask((0, 9 * MIB))
        assert run.take(9 * MIB) == content(9 * MIB)
        space.rbd("trash", "rm", "--no-progress", f"@{image['id']}")
        run.ask((0, 9 * MIB))
        run.end_input()
        assert run.rest() == b""
        assert run.wait() == GONE, run.said()


def test_a_name_that_comes_to_mean_other_content_has_another_id(space):
    space.make("alpha", b"one")
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    old = space.list()
    space.rbd("snap", "rm", "--no-progress", "@alpha@s")
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    middle = space.list()
    assert middle["alpha"]["id"] == old["alpha"]["id"]
    assert middle["alpha@s"]["id"] != old["alpha@s"]["id"]
    refused(space.read(old["alpha@s"], (0, 1)), GONE, "no snapshot")
    space.rbd("snap", "rm", "--no-progress", "@alpha@s")
    space.rbd("rm", "--no-progress", "@alpha")
    space.make("alpha", b"two")
    new = space.list()
    assert new["alpha"]["id"] != old["alpha"]["id"]
    refused(space.read(old["alpha"], (0, 1)), GONE, old["alpha"]["id"])
    refused(space.run("extents", old["alpha"]["id"]), GONE, old["alpha"]["id"])
    refused(space.run("extents", old["alpha@s"]["id"]), GONE)
    space.check(new["alpha"], b"two")


SIZE = 32 * MIB
FEATURES = {"map": [], "no-map": ["--image-feature", "layering"], "far": ["--data-pool", "data"],
            "striped": ["--stripe-unit", "64K", "--stripe-count", "3"]}


def make_victim(space, kind):
    """An image of SIZE that has data everywhere.  Returns its bytes."""
    data = content(SIZE, 3)
    if kind == "clone":
        space.make("parent", content(SIZE, 4))
        space.rbd("snap", "create", "--no-progress", "@parent@s")
        space.rbd("clone", "--rbd-default-clone-format", "2", "@parent@s", "@alpha")
        space.write("alpha", data)
    else:
        if kind == "far" and "data" not in space.cluster.ceph("osd", "pool", "ls").split():
            space.cluster.make_pool("data")
        space.make("alpha", data, *FEATURES[kind])
    return data


def read_on(run, data, asks):
    """Ask again and again, one at a time, till the program ends.  All that comes is right."""
    for offset, length in asks:
        run.ask((offset, length))
        got = b""
        while len(got) < length:
            piece = os.read(run.stdout.fileno(), length - len(got))
            if not piece:
                return
            got += piece
            at = offset + len(got) - len(piece)
            assert piece == data[at : at + len(piece)], "wrong bytes"
    raise AssertionError("it does not end")


def everywhere():
    """Asks of all sizes, again and again."""
    choose = random.Random(9)
    while True:
        length = choose.choice((4096, 128 * KIB, MIB, 12 * MIB))
        yield choose.randrange(0, SIZE - length + 1, 4096), length


REMOVALS = {
    "removed": (["rm", "--no-progress", "@alpha"], ""),
    "shrunk": (["resize", "--no-progress", "--allow-shrink", "--size", "1M", "@alpha"], ""),
    "removed-snapshot": (["snap", "rm", "--no-progress", "@alpha@s"], "@s"),
}


@pytest.mark.parametrize("kind", ("map", "no-map", "far", "clone", "striped"))
@pytest.mark.parametrize("what", REMOVALS)
def test_what_is_removed_while_it_is_read_is_gone_and_never_zeros(space, what, kind):
    if what == "shrunk" and kind == "no-map":
        pytest.skip("nothing marks the objects of an image without an object map")
    data = make_victim(space, kind)
    command, at = REMOVALS[what]
    if at:
        space.rbd("snap", "create", "--no-progress", "@alpha@s")
        # What a snapshot that is removed reads as, if it is not zeros.
        space.write("alpha", content(SIZE // 2, 8))
    image = space.list()["alpha" + at]
    with space.store.read(image) as run:
        run.ask((0, 4096))
        assert run.take(4096) == data[:4096]
        with removing(space, command):
            read_on(run, data, everywhere())
        assert run.wait() == GONE, run.said()
        assert run.said().count("\n") == 0
    refused(space.read(image, (SIZE - 4096, 4096)), GONE)


@contextlib.contextmanager
def removing(space, command):
    """Run the rbd tool at the same time."""
    arguments = [f"{space.spec}/{a[1:]}" if a.startswith("@") else a for a in command]
    with subprocess.Popen(["rbd", *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, env=space.cluster.environment) as tool:
        yield
        assert tool.wait(LIMIT) == 0


@pytest.mark.parametrize("kind", ("map", "no-map", "clone"))
@pytest.mark.parametrize("what", REMOVALS)
def test_what_was_removed_between_two_asks_is_gone(space, what, kind):
    data = make_victim(space, kind)
    command, at = REMOVALS[what]
    if at:
        space.rbd("snap", "create", "--no-progress", "@alpha@s")
        space.write("alpha", content(4096, 8))
    image = space.list()["alpha" + at]
    with space.store.read(image) as run:
        run.ask((0, 4096))
        assert run.take(4096) == data[:4096]
        space.rbd(*command)
        run.ask((SIZE - 4096, 4096), (0, SIZE))
        run.end_input()
        assert run.rest() == b""
        assert run.wait() == GONE, run.said()


def test_an_end_that_comes_after_a_removal_is_no_success(space):
    data = make_victim(space, "map")
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == data
        space.rbd(*REMOVALS["removed"][0])
        run.end_input()
        assert run.rest() == b""
        assert run.wait() in (0, GONE)  # the check may have been before that
        assert run.said() == "" or "no image" in run.said()


def test_extents_of_what_is_being_removed_are_no_success(space):
    make_victim(space, "map")
    image = space.list()["alpha"]
    with removing(space, REMOVALS["removed"][0]):
        while True:
            done = space.run("extents", image["id"])
            if done.returncode != 0:
                break
            assert done.stdout == f"0 {SIZE}\n".encode()
    refused(done, GONE)


def test_an_image_that_grows_is_read_to_its_new_end(space):
    space.make("alpha", content(5 * MIB))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, 5 * MIB))
        assert run.take(5 * MIB) == content(5 * MIB)
        space.rbd("resize", "--no-progress", "--size", "20M", "@alpha")
        space.write("alpha", b"end", 20 * MIB - 3)
        run.ask((20 * MIB - 5, 5), (5 * MIB - 1, 2), (0, 10))
        data = content(5 * MIB)
        assert run.take(17) == b"\0\0end" + data[-1:] + b"\0" + data[:10]
        run.finish()


@pytest.mark.parametrize("kind", ("map", "no-map", "far"))
def test_what_is_written_to_a_hole_is_seen_by_the_next_ask(space, kind):
    if kind == "far" and "data" not in space.cluster.ceph("osd", "pool", "ls").split():
        space.cluster.make_pool("data")
    space.rbd("create", "--size", "256M", *FEATURES[kind], "@alpha")
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        for turn, offset in enumerate((0, 40 * MIB, 201 * MIB)):
            for length in (4096, 64 * MIB):
                at = min(offset, 256 * MIB - length)
                run.ask((at, length))
                assert run.take(length) == bytes(length)
            text = b"written %d" % turn
            space.write("alpha", text, offset + 100)
            for length in (4096, 64 * MIB):
                at = min(offset, 256 * MIB - length)
                run.ask((at, length))
                got = run.take(length)
                assert got == sparse(length, (offset + 100 - at, text))
            space.script(f"rbd.Image(io, 'alpha').discard({offset}, {OBJECT})")
            run.ask((offset, 4096))
            assert run.take(4096) == bytes(4096)
        run.finish()


def test_a_guest_that_discards_does_not_end_reading(space):
    data = make_victim(space, "map")
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == data
        space.script(f"rbd.Image(io, 'alpha').discard({SIZE // 2}, {SIZE // 4})")
        after = data[: SIZE // 2] + bytes(SIZE // 4) + data[SIZE * 3 // 4 :]
        run.ask((0, SIZE), (SIZE // 2, 4096))
        assert run.take(SIZE) == after
        assert run.take(4096) == bytes(4096)
        run.finish()


@pytest.mark.parametrize("kind", ("map", "no-map", "clone"))
def test_an_image_that_is_rolled_back_is_read_as_it_was_or_is(space, kind):
    old, new = make_victim(space, kind), content(SIZE, 7)
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    space.write("alpha", new)
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == new
        with removing(space, ["snap", "rollback", "--no-progress", "@alpha@s"]):
            for offset, length in itertools.islice(everywhere(), 50):
                run.ask((offset, length))
                got = run.take(length)
                for at in range(0, length, 4096):
                    place = slice(offset + at, offset + at + 4096)
                    assert got[at : at + 4096] in (old[place], new[place])
        run.ask((0, SIZE))
        assert run.take(SIZE) == old
        run.finish()


def test_a_rollback_to_holes_does_not_end_reading(space):
    space.rbd("create", "--size", "32M", "@alpha")
    space.write("alpha", content(MIB), 5 * MIB)
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    space.write("alpha", content(SIZE, 7))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == content(SIZE, 7)
        space.rbd("snap", "rollback", "--no-progress", "@alpha@s")
        run.ask((0, SIZE))
        assert run.take(SIZE) == sparse(SIZE, (5 * MIB, content(MIB)))
        run.finish()


def make_clone(space, data):
    space.make("parent", data)
    space.rbd("snap", "create", "--no-progress", "@parent@s")
    space.rbd("clone", "--rbd-default-clone-format", "2", "@parent@s", "@alpha")


@pytest.mark.parametrize("at", ("", "@c"))
def test_what_was_a_clone_is_never_zeros_when_its_parent_is_gone(space, at):
    data = content(SIZE, 4)
    make_clone(space, data)
    space.rbd("snap", "create", "--no-progress", "@alpha@c")
    image = space.list()["alpha" + at]
    with space.store.read(image) as run:
        run.ask((0, 4096))
        assert run.take(4096) == data[:4096]
        with removing(space, ["flatten", "--no-progress", "@alpha"]):
            run.ask((0, SIZE))
            assert run.take(SIZE) == data
        space.rbd("snap", "rm", "--no-progress", "@parent@s")
        space.rbd("rm", "--no-progress", "@parent")
        run.ask((0, SIZE))
        run.end_input()
        assert data.startswith(run.rest())
        assert run.wait() == AGAIN, run.said()
    found = space.list()
    for name in ("alpha", "alpha@c"):
        space.check(found[name], data)
        assert "parent" not in found[name]["attrs"]


def test_a_clone_of_a_clone_is_never_zeros_when_the_first_image_is_gone(space):
    data = content(SIZE, 4)
    make_clone(space, data)
    space.rbd("snap", "create", "--no-progress", "@alpha@c")
    space.rbd("clone", "--rbd-default-clone-format", "2", "@alpha@c", "@beta")
    image = space.list()["beta"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == data
        space.rbd("flatten", "--no-progress", "@alpha")
        space.rbd("snap", "rm", "--no-progress", "@parent@s")
        space.rbd("rm", "--no-progress", "@parent")
        run.ask((0, SIZE))
        run.end_input()
        assert data.startswith(run.rest())
        assert run.wait() == AGAIN, run.said()
    space.check(image, data)


@pytest.mark.parametrize("kind", ("map", "no-map"))
@pytest.mark.parametrize("what", ("flattened", "cut"))
def test_what_is_discarded_in_a_clone_without_its_parent_is_not_the_parents(space, what, kind):
    """A reader that takes the clone to have its parent still would see that's data there."""
    data = content(SIZE, 4)
    make_clone(space, data)
    if kind == "no-map":
        space.rbd("feature", "disable", "@alpha", "fast-diff", "object-map")
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == data
        if what == "flattened":
            space.rbd("flatten", "--no-progress", "@alpha")
            space.script(f"rbd.Image(io, 'alpha').discard({SIZE // 2}, {SIZE // 2})")
        else:
            space.rbd("resize", "--no-progress", "--allow-shrink", "--size", f"{SIZE // 2}B",
                      "@alpha")
            space.rbd("resize", "--no-progress", "--size", f"{SIZE}B", "@alpha")
        run.ask((SIZE - MIB, MIB))
        run.end_input()
        assert run.rest() in (b"", bytes(MIB))
        assert run.wait() in (0, AGAIN), run.said()
    space.check(image, data[: SIZE // 2] + bytes(SIZE // 2))


def test_a_clone_of_what_is_in_the_trash_is_read(space):
    data = content(SIZE, 4)
    space.make("parent", data)
    space.rbd("snap", "create", "--no-progress", "@parent@s")
    space.rbd("clone", "--rbd-default-clone-format", "2", "@parent@s", "@alpha")
    space.rbd("snap", "rm", "--no-progress", "@parent@s")
    space.rbd("trash", "mv", "@parent")
    found = space.list()
    assert set(found) == {"alpha"}
    space.check(found["alpha"], data)
    assert space.extents(found["alpha"]) == [(0, SIZE)]


def test_an_image_that_moves_is_read_on_till_its_old_place_is_given_up(space):
    data = sparse(SIZE, (3 * MIB, content(9 * MIB)))
    space.make("old", data)
    space.rbd("snap", "create", "--no-progress", "@old@s")
    old = space.list()["old"]
    with space.store.read(old) as run:
        run.ask((0, SIZE))
        assert run.take(SIZE) == data
        space.rbd("migration", "prepare", "@old", "@new")
        found = space.list()
        assert set(found) == {"new", "new@s"}
        for image in found.values():
            space.check(image, data)
        with space.store.read(found["new"]) as other:
            for step in ("execute", "commit"):
                for reader in (run, other):
                    reader.ask((0, SIZE))
                    assert reader.take(SIZE) == data
                space.rbd("migration", step, "--no-progress", "@new")
            other.ask((0, SIZE))
            assert other.take(SIZE) == data
            other.finish()
        run.ask((0, SIZE))
        run.end_input()
        assert run.rest() == b""
        assert run.wait() == GONE, run.said()
    for image in space.list().values():
        space.check(image, data)


def test_an_encrypted_image_is_read_as_it_is_stored(space, tmp_path):
    (tmp_path / "pass").write_text("not a secret")
    space.rbd("create", "--size", "24M", "@alpha")
    space.rbd("encryption", "format", "@alpha", "luks1", tmp_path / "pass")
    space.rbd("export", "--no-progress", "@alpha", tmp_path / "raw")
    data = (tmp_path / "raw").read_bytes()
    assert data.startswith(b"LUKS")
    space.check(space.list()["alpha"], data)


# Writes what it is told to, as a guest would, holding the lock all the time.
WRITER = """
with rbd.Image(io, "alpha") as image:
    image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
    with os.fdopen(int(sys.argv[2])) as orders:
        for order in orders:
            image.write(b"written", int(order))
            image.flush()
            print(flush=True)
"""


@pytest.mark.parametrize("features", ("object-map,fast-diff", "journaling"))
def test_an_image_that_a_writer_has_locked_is_read_as_it_is(space, features):
    space.rbd("create", "--size", "32M", "--image-feature", f"exclusive-lock,{features}",
              "@alpha")
    image = space.list()["alpha"]
    orders, to = os.pipe()
    with open(to, "w", buffering=1) as tell, subprocess.Popen(
        ["/usr/bin/python3", "-c", PRELUDE + WRITER, space.name, str(orders)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=[orders],
        env=space.cluster.environment,
    ) as writer, space.store.read(image) as run:
        os.close(orders)
        data = bytes(SIZE)
        for offset in (0, 9 * MIB, 31 * MIB):
            run.ask((0, SIZE), (offset, 4096))
            assert run.take(SIZE) == data
            assert run.take(4096) == data[offset:][:4096]
            print(offset, file=tell)
            assert writer.stdout.readline() == b"\n"
            data = data[:offset] + b"written" + data[offset + 7 :]
            run.ask((offset, 4096), (0, SIZE))
            assert run.take(4096) == data[offset:][:4096]
            assert run.take(SIZE) == data
        run.finish()
        tell.close()
        assert writer.wait(LIMIT) == 0


def test_nothing_is_written_and_nobody_watches(space):
    space.make("alpha", content(9 * MIB))
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    found = space.list()
    before = objects(space)
    with space.store.read(found["alpha"]) as head, space.store.read(found["alpha@s"]) as snap:
        for run in (head, snap):
            run.ask((0, 9 * MIB))
            assert run.take(9 * MIB) == content(9 * MIB)
        assert "watcher=" not in space.rbd("status", "@alpha")
        for run in (head, snap):
            run.finish()
    space.extents(found["alpha"])
    assert objects(space) == before


def objects(space):
    """{object: (its version, its size)} of all of the namespace."""
    text = space.script(
        "import json\n"
        "found = {}\n"
        "for item in io.list_objects():\n"
        "    size, time = io.stat(item.key)\n"
        "    io.read(item.key, 1)\n"
        "    found[item.key] = [io.get_last_version(), size, str(time)]\n"
        "print(json.dumps(found))\n"
    )
    return json.loads(text)


# ---- who may ------------------------------------------------------------------------------


def test_a_user_who_may_only_read_can_list_and_read(space):
    data = sparse(40 * MIB, (0, content(MIB)), (30 * MIB, content(MIB, 1)))
    space.make("alpha", data)
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    space.rbd("snap", "protect", "@alpha@s")
    space.rbd("clone", "@alpha@s", "@clone")
    uri = space.uri + "?id=ro"
    found = space.list(uri=uri)
    assert set(found) == {"alpha", "alpha@s", "clone"}
    for image in found.values():
        space.check(image, data, uri=uri)
        assert space.extents(image, uri=uri) == [(0, OBJECT), (28 * MIB, OBJECT)]


def test_a_user_of_one_namespace_can_list_and_read_it(space):
    space.make("alpha", content(MIB))
    name = f"client.{space.name}"
    keyring = space.cluster.folder / space.name
    space.cluster.run("ceph", "auth", "get-or-create", name, "mon", "profile rbd", "osd",
                      f"profile rbd-read-only pool=pool namespace={space.name}", "-o", keyring)
    uri = f"{space.uri}?id={space.name}&keyring={keyring}"
    image = space.list(uri=uri)["alpha"]
    space.check(image, content(MIB), uri=uri)
    assert space.extents(image, uri=uri) == [(0, MIB)]
    other = f"rbd://pool/?id={space.name}&keyring={keyring}"
    refused(space.run("list", uri=other), DENIED, "not permitted")
    refused(space.run("read", image["id"], uri=other), DENIED, "not permitted")


def test_who_may_not_is_told_so(space, tmp_path):
    space.make("alpha", b"x")
    ident = space.list()["alpha"]["id"]
    wrong = tmp_path / "wrong"
    space.cluster.run("ceph-authtool", "-C", wrong, "--gen-key", "-n", "client.admin")
    for option, word in (("id=none", "not permitted"), ("id=nobody", "client.nobody"),
                         (f"keyring={wrong}", str(wrong)), ("keyring=/no/file", "/no/file")):
        uri = f"{space.uri}?{option}"
        refused(space.run("list", uri=uri), DENIED, word)
        refused(space.run("read", ident, uri=uri, stdin=b"0 1\n"), DENIED, word)
        refused(space.run("extents", ident, uri=uri), DENIED, word)


def test_no_key_is_shown(space):
    key = space.cluster.ceph("auth", "print-key", "client.admin").strip().encode()
    for done in (space.run("list", uri=f"{space.uri}?debug_auth=20&log_to_stderr=false"),
                 space.run("list", uri=f"{space.uri}?id=nobody"),
                 space.run("read", "1", uri=space.uri)):
        assert key not in done.stdout + done.stderr


# ---- what is not there --------------------------------------------------------------------


def test_a_cluster_that_cannot_be_found_is_unavailable(space, tmp_path):
    nothing = {"CEPH_CONF": "/no/ceph.conf"}
    refused(space.run("list", env=nothing), UNAVAILABLE, "monitors")
    refused(space.run("list", uri=f"{space.uri}?conf=/no/file"), UNAVAILABLE, "/no/file")
    bad = tmp_path / "bad.conf"
    bad.write_text("this is no configuration\n")
    refused(space.run("list", uri=f"{space.uri}?conf={bad}"), UNAVAILABLE, str(bad))
    refused(space.run("list", uri=f"{space.uri}?mon_host=127.0.0.1:1&timeout=1", env=nothing),
            UNAVAILABLE, "connect")


def test_a_cluster_is_found_without_a_configuration(space):
    space.make("alpha", b"x" * 100)
    address = re.search("mon host = (.*)", space.cluster.conf.read_text())[1]
    uri = f"{space.uri}?mon_host={address}&keyring={space.cluster.keyring}"
    nothing = {"CEPH_CONF": "/no/ceph.conf"}
    assert set(space.list(uri=uri, env=nothing)) == {"alpha"}
    uri = "rbd:{}/alpha:keyring={}:mon_host={}".format(
        space.spec, space.cluster.keyring, address.replace(":", "\\:"))
    space.check(space.list(uri=uri, env=nothing)["alpha"], b"x" * 100, uri=uri, env=nothing)


def test_a_pool_or_a_namespace_that_is_not_there_is_no_empty_list(space):
    for uri, word in (("rbd://nopool/", "nopool"), ("rbd://pool/nospace/", "nospace")):
        refused(space.run("list", uri=uri), UNAVAILABLE, word)
        refused(space.run("read", "1", uri=uri), GONE, word)
    refused(space.run("list", uri=f"rbd://{space.spec}/noimage"), GONE, "noimage")
    space.make("alpha", b"x")
    refused(space.run("list", uri=f"rbd://{space.spec}/alpha@nosnap"), GONE, "nosnap")
    assert space.list(uri=f"{space.uri}?id=ro")
    assert Space(space.cluster).list() == {}


# ---- faults -------------------------------------------------------------------------------

STALL = {"IMAGEFS_STALL_MS": "1000"}  # the operations of the cluster have a second then


@pytest.fixture
def thawed(shared):
    yield
    for name in shared.daemons:
        shared.thaw(name)


def test_an_osd_that_pauses_in_the_middle_of_an_answer_is_not_noticed(space, thawed):
    space.make("alpha", content(SIZE))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        got = run.take(MIB)
        space.cluster.freeze("osd")
        # What is on its way still comes, and then nothing.
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(run.stdout.fileno(), False)
            while True:
                got += os.read(run.stdout.fileno(), MIB)
        assert len(got) < SIZE
        space.cluster.thaw("osd")
        os.set_blocking(run.stdout.fileno(), True)
        assert got + run.take(SIZE - len(got)) == content(SIZE)
        run.finish()


def test_an_osd_that_does_not_answer_is_unavailable_in_bounded_time(space, thawed):
    space.make("alpha", content(SIZE))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, 4096))
        run.take(4096)
    with stalling(space).read(image) as run:
        run.ask((0, 4096))
        run.take(4096)
        space.cluster.freeze("osd")
        run.ask((0, SIZE))
        assert content(SIZE).startswith(run.rest())
        assert run.wait() == UNAVAILABLE
        assert "timed out" in run.said().splitlines()[-1]
    for call in (("list",), ("read", image["id"]), ("extents", image["id"])):
        refused(space.run(*call, env=STALL), UNAVAILABLE, "timed out")
    space.cluster.thaw("osd")
    space.check(image, content(SIZE))


def stalling(space):
    store = conformance.Store(space.store.program, space.uri, limit=LIMIT)
    store.environment.update(space.cluster.environment, **STALL)
    return store


def test_a_monitor_that_does_not_answer_matters_to_who_connects_only(space, thawed):
    space.make("alpha", content(SIZE))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, 4096))
        run.take(4096)
        space.cluster.freeze("mon")
        run.ask((0, SIZE))
        assert run.take(SIZE) == content(SIZE)
        run.finish()
    for call in (("list",), ("read", image["id"]), ("extents", image["id"])):
        refused(space.run(*call, env=STALL), UNAVAILABLE, "connect", "timed out")


def test_the_time_outs_are_those_of_the_user_or_go_by_the_stall_limit(space, tmp_path):
    keys = ("rados_osd_op_timeout", "rados_mon_op_timeout", "client_mount_timeout")

    def limits(options="", conf=""):
        path = tmp_path / "ceph.conf"
        path.write_text(space.cluster.conf.read_text().replace("[mon]", f"{conf}\n[mon]", 1))
        socket = tmp_path / "asok"
        uri = f"{space.uri}?conf={path}&admin_socket={socket}{options}"
        store = conformance.Store(space.store.program, uri, limit=LIMIT)
        store.environment.update(space.cluster.environment, IMAGEFS_STALL_MS="40000")
        with conformance.Run(store, "read", "--", uri, image["id"]) as run:
            run.ask((0, 1))
            run.take(1)
            values = [json.loads(space.cluster.run("ceph", "daemon", socket, "config", "get",
                                                   key).stdout)[key] for key in keys]
            run.finish()
        return [int(float(value)) for value in values]

    space.make("alpha", b"x")
    image = space.list()["alpha"]
    assert limits() == [39, 8, 8]
    assert limits(conf="rados osd op timeout = 3\nclient mount timeout = 5") == [3, 8, 5]
    assert limits(options="&timeout=4") == [4, 4, 4]
    assert limits(options="&timeout=4&rados_osd_op_timeout=0") == [0, 4, 4]


@pytest.fixture(scope="module")
def lasting():
    """A cluster whose OSD may be killed."""
    with ceph_cluster.Cluster(store="bluestore", auth="none") as cluster:
        yield cluster


@pytest.fixture
def lasting_space(lasting, monkeypatch):
    monkeypatch.setenv("CEPH_CONF", str(lasting.conf))
    return Space(lasting)


def test_an_osd_that_dies_in_the_middle_of_an_answer_and_returns_is_not_noticed(lasting_space):
    space = lasting_space
    space.make("alpha", content(SIZE))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, SIZE))
        got = run.take(4 * MIB)
        space.cluster.kill("osd")
        space.cluster.restart("osd")
        assert got + run.take(SIZE - len(got)) == content(SIZE)
        run.finish()


def test_daemons_that_die_are_unavailable_till_they_are_back(lasting_space):
    space = lasting_space
    space.make("alpha", content(MIB))
    image = space.list()["alpha"]
    for name in ("osd", "mon"):
        space.cluster.kill(name)
        refused(space.read(image, (0, MIB), env=STALL), UNAVAILABLE)
        refused(space.run("list", env=STALL), UNAVAILABLE)
        space.cluster.restart(name)
        space.check(image, content(MIB), env={"IMAGEFS_STALL_MS": "300000"})


def test_data_whose_pool_is_removed_is_an_error_and_never_zeros(space):
    pool = f"data-{space.name}"
    space.cluster.make_pool(pool)
    space.rbd("create", "--size", "32M", "--data-pool", pool, "@alpha")
    space.write("alpha", content(MIB))
    image = space.list()["alpha"]
    with space.store.read(image) as run:
        run.ask((0, MIB))
        assert run.take(MIB) == content(MIB)
        space.cluster.ceph("osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it")
        run.ask((0, MIB))
        run.end_input()
        assert run.rest() == b""
        assert run.wait() == IO_ERROR, run.said()
    refused(space.read(image, (0, MIB)), IO_ERROR)
    assert set(space.list()) == {"alpha"}


# ---- through a mount ----------------------------------------------------------------------


def test_files_are_copied_and_compared(space, mounted, folder):
    data = sparse(512 * MIB, (0, content(9 * MIB)), (400 * MIB, content(5 * MIB, 1)))
    space.make("alpha", data)
    space.rbd("snap", "create", "--no-progress", "@alpha@v1")
    space.write("alpha", b"new", 100)
    mount = mounted(space.uri)
    assert set(os.listdir(mount.path)) == {"alpha", "alpha@v1"}
    (folder / "v1").write_bytes(data)
    harness.run("cmp", mount / "alpha@v1", folder / "v1")
    harness.run("cp", mount / "alpha@v1", folder / "copy")
    harness.run("cmp", folder / "copy", folder / "v1")
    assert os.stat(folder / "copy").st_blocks * 512 <= 24 * MIB
    harness.run("cp", "--sparse=never", mount / "alpha", folder / "copy")
    assert (folder / "copy").read_bytes() == data[:100] + b"new" + data[103:]
    assert os.getxattr(mount / "alpha@v1", "user.imagefs.snapshot-id")
    info = os.stat(mount / "alpha@v1")
    assert (info.st_size, info.st_blocks * 512) == (512 * MIB, 5 * OBJECT)


def test_any_name_is_a_file(space, mounted):
    space.script(
        f"for name in {NAMES!r}:\n"
        "    pool.create(io, name, 4096)\n"
        "    with rbd.Image(io, name) as image:\n"
        "        image.write(name.encode()[:4096], 0)\n"
        "        image.create_snap('s@/1')\n"
    )
    space.cluster.run("rbd", "create", "--size", "4K", f"{space.spec}/".encode() + b"a\xffb")
    mount = mounted(space.uri)
    files = [(mount / name).read_bytes() for name in os.listdir(mount.path)]
    wanted = [name.encode().ljust(4096, b"\0")[:4096] for name in NAMES for _ in range(2)]
    assert sorted(files) == sorted([*wanted, bytes(4096)])


def test_who_may_only_read_can_mount(space, mounted):
    data = sparse(40 * MIB, (0, content(MIB)), (30 * MIB, content(MIB, 1)))
    space.make("alpha", data)
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    before = objects(space)
    mount = mounted(space.uri + "?id=ro")
    for name in ("alpha", "alpha@s"):
        with open(mount / name, "rb") as file:
            assert file.read() == data
            assert "watcher=" not in space.rbd("status", "@alpha")
    mount.end()
    assert objects(space) == before


def test_who_opens_an_image_that_was_written_to_sees_it(space, mounted):
    data = make_victim(space, "map")
    mount = mounted(space.uri)
    with open(mount / "alpha", "rb", buffering=0) as held:
        for turn in range(3):
            assert (mount / "alpha").read_bytes() == data
            assert os.pread(held.fileno(), MIB, 0) == data[:MIB]
            offset, part = turn * 9 * MIB, content(3 * MIB, turn)
            space.write("alpha", part, offset)
            data = data[:offset] + part + data[offset + len(part) :]


def test_qemu_img_converts_and_compares(space, mounted, folder):
    if not shutil.which("qemu-img"):
        pytest.skip("no qemu-img (Debian package qemu-utils)")
    harness.run("qemu-img", "create", "-f", "qcow2", folder / "disk", "1G")
    harness.run("qemu-io", "-c", "write -P 7 300M 5M", "-c", "write -P 8 1M 1M", folder / "disk")
    space.make("disk.qcow2", (folder / "disk").read_bytes())
    space.make("raw", content(20 * MIB))
    space.rbd("snap", "create", "--no-progress", "@raw@s")
    mount = mounted(space.uri)
    info = harness.run("qemu-img", "info", "--output=json", mount / "disk.qcow2").stdout
    assert json.loads(info)["virtual-size"] == GIB
    harness.run("qemu-img", "check", mount / "disk.qcow2")
    harness.run("qemu-img", "compare", mount / "disk.qcow2", folder / "disk")
    harness.run("qemu-img", "convert", "-O", "raw", mount / "raw@s", folder / "raw")
    assert (folder / "raw").read_bytes() == content(20 * MIB)


@pytest.mark.parametrize("what", REMOVALS)
def test_a_file_of_what_was_removed_is_stale(space, mounted, what):
    data = make_victim(space, "map")
    command, at = REMOVALS[what]
    if at:
        space.rbd("snap", "create", "--no-progress", "@alpha@s")
    mount = mounted(space.uri, noisy=True)
    with open(mount / f"alpha{at}", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), MIB, 0) == data[:MIB]
        space.rbd(*command)
        for _ in range(2):
            with pytest.raises(OSError) as error:
                os.pread(file.fileno(), MIB, SIZE - MIB)
            assert error.value.errno == errno.ESTALE


def test_what_the_kernel_keeps_of_a_removed_snapshot_is_right_and_the_rest_stale(space, mounted):
    data = make_victim(space, "map")
    space.rbd("snap", "create", "--no-progress", "@alpha@s")
    mount = mounted(space.uri, "ttl=1", noisy=True)
    with open(mount / "alpha@s", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), SIZE // 2, 0) == data[: SIZE // 2]
        space.rbd("snap", "rm", "--no-progress", "@alpha@s")
        space.write("alpha", content(SIZE, 5))
        for offset in range(0, SIZE, 256 * KIB):
            look_at_removed(file, offset, data)

    def is_gone():
        try:
            with open(mount / "alpha@s", "rb", buffering=0) as file:
                look_at_removed(file, SIZE // 4, data)
                look_at_removed(file, SIZE - MIB, data)
        except FileNotFoundError:
            return True
        return False

    harness.wait_until(is_gone, "its name is gone")


def test_a_file_of_a_clone_that_is_flattened_and_discarded_has_no_data_of_its_parent(
        space, mounted):
    data = content(SIZE, 4)
    make_clone(space, data)
    mount = mounted(space.uri, noisy=True)
    with open(mount / "alpha", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == data[:4096]
        space.rbd("flatten", "--no-progress", "@alpha")
        space.script(f"rbd.Image(io, 'alpha').discard({SIZE - OBJECT}, {OBJECT})")
        assert os.pread(file.fileno(), 4096, SIZE - OBJECT) == bytes(4096)
        space.rbd("snap", "rm", "--no-progress", "@parent@s")
        space.rbd("rm", "--no-progress", "@parent")
        assert os.pread(file.fileno(), SIZE // 2, OBJECT) == data[OBJECT:][: SIZE // 2]


def look_at_removed(file, offset, data):
    try:
        got = os.pread(file.fileno(), 256 * KIB, offset)
    except OSError as error:
        assert error.errno == errno.ESTALE
    else:
        assert got and got == data[offset:][: len(got)]
        # What the kernel has is given out before the error of what it has not.
        if len(got) < 256 * KIB:
            with pytest.raises(OSError) as caught:
                os.pread(file.fileno(), 4096, offset + len(got))
            assert caught.value.errno == errno.ESTALE


def test_a_copy_of_what_is_removed_meanwhile_fails_and_has_no_zeros(space, mounted, folder):
    data = make_victim(space, "map")
    mount = mounted(space.uri, noisy=True)
    with removing(space, REMOVALS["removed"][0]):
        done = harness.run("cp", "--sparse=never", mount / "alpha", folder / "copy", check=False)
    got = (folder / "copy").read_bytes()
    assert got == data[: len(got)]
    assert (done.returncode == 0) == (len(got) == SIZE)


def test_a_mount_works_again_when_the_cluster_does(space, mounted, thawed):
    data = content(SIZE, 3)
    space.make("alpha", data)
    mount = mounted(space.uri, "stall=3", noisy=True)
    with open(mount / "alpha", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), MIB, 0) == data[:MIB]
        space.cluster.freeze("osd")
        with pytest.raises(OSError) as error:
            os.pread(file.fileno(), MIB, 20 * MIB)
        assert error.value.errno == errno.EIO
        assert os.listdir(mount.path) == ["alpha"]
        space.cluster.thaw("osd")
        wait_read(file, 20 * MIB, data[20 * MIB :][:MIB])
    assert (mount / "alpha").read_bytes() == data


@contextlib.contextmanager
def mounted_beside(folder, uri, *options):
    """A mount whose test restarts daemons of the cluster, which are not left by mistake."""
    with harness.Mount(folder, uri, options, noisy=True) as mount:
        yield mount.wait_ready()


@pytest.mark.parametrize("name", ("osd", "mon"))
def test_a_daemon_that_dies_while_a_file_is_copied_and_returns_is_not_noticed(
        lasting_space, tmp_path, name):
    space = lasting_space
    data = content(2 * SIZE)
    space.make("alpha", data)
    with mounted_beside(tmp_path, space.uri) as mount:
        with open(mount / "alpha", "rb", buffering=0) as file:
            got = file.read(MIB)
            space.cluster.kill(name)
            space.cluster.restart(name)
            while piece := file.read(MIB):
                got += piece
    assert got == data


def test_a_copy_fails_when_the_osd_does_not_return_and_the_mount_works_again_when_it_does(
        lasting_space, tmp_path):
    space = lasting_space
    data = content(3 * SIZE)  # more than is ever under way
    space.make("alpha", data)
    with mounted_beside(tmp_path, space.uri, "stall=3") as mount:
        with open(mount / "alpha", "rb", buffering=0) as file:
            got = file.read(MIB)
            space.cluster.kill("osd")
            with pytest.raises(OSError) as error:
                while piece := file.read(MIB):
                    got += piece
            assert error.value.errno == errno.EIO
            assert len(got) < len(data) and data.startswith(got)
            space.cluster.restart("osd")
            wait_read(file, len(got), data[len(got) :][:MIB])
        assert (mount / "alpha").read_bytes() == data


def wait_read(file, offset, data):
    """After an error the daemon may refuse for a moment without trying."""

    def is_read():
        try:
            return os.pread(file.fileno(), len(data), offset) == data
        except OSError:
            return False

    harness.wait_until(is_read, "it can be read again")


def test_an_osd_that_pauses_while_a_file_is_copied_is_not_noticed(space, mounted, folder, thawed):
    data = content(SIZE, 3)
    space.make("alpha", data)
    mount = mounted(space.uri, noisy=True)
    with subprocess.Popen(["dd", f"if={mount / 'alpha'}", f"of={folder / 'copy'}", "bs=64K"],
                          stderr=subprocess.DEVNULL) as dd:
        harness.wait_until(lambda: os.path.exists(folder / "copy")
                           and os.stat(folder / "copy").st_size > 0, "it has begun")
        space.cluster.freeze("osd")
        # Till nothing more comes, or it was too fast for that.
        harness.wait_until(lambda: dd.poll() is not None or stands(folder / "copy"), "it waits")
        space.cluster.thaw("osd")
        assert dd.wait(LIMIT) == 0
    assert (folder / "copy").read_bytes() == data


def stands(path):
    before = os.stat(path).st_size
    time.sleep(0.2)
    return os.stat(path).st_size == before


# A disk's first sector, for a BIOS: read the sector that the address packet at 0x7c40 names
# to 0x8000, send it to the serial port up to its first NUL, and end the machine by
# isa-debug-exit.
BOOT = bytes.fromhex(
    "fa"  # cli
    "31c0 8ed8 8ec0 8ed0 bc007c fb"  # no segments, a stack below; sti
    "be407c b442 cd13 720e"  # int 13h, ah=42h: extended read; jc end
    "be0080 baf803"  # from 0x8000 to COM1
    "ac 84c0 7403 ee ebf8"  # lodsb; test al; jz end; out dx, al; jmp lodsb
    "b000 e6f4 f4 ebfd"  # end: out 0xf4, 0; hlt
)


def boot_disk(size, sector, text):
    disk = bytearray(size)
    disk[: len(BOOT)] = BOOT
    disk[0x40:0x50] = struct.pack("<BBHHHQ", 16, 0, 1, 0x8000, 0, sector)
    disk[510:512] = b"\x55\xaa"
    disk[sector * 512 : sector * 512 + len(text) + 1] = text + b"\0"
    return bytes(disk)


@pytest.mark.parametrize("cache", ("writeback", "none"))
def test_a_machine_boots_from_a_snapshot(space, mounted, folder, cache):
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("no qemu-system-x86_64 (Debian package qemu-system-x86)")
    text = b"booted from a snapshot\n"
    space.make("disk", boot_disk(64 * MIB, 50 * MIB // 512, text))
    space.rbd("snap", "create", "--no-progress", "@disk@golden")
    space.write("disk", bytes(4096))
    mount = mounted(space.uri)
    done = harness.run(
        "qemu-system-x86_64", "-accel", "kvm", "-accel", "tcg", "-m", "64", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", "file:" + str(folder / "serial"),
        "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
        "-drive", f"file={mount / 'disk@golden'},format=raw,if=virtio,readonly=on,cache={cache}",
        check=False)
    assert done.returncode == 1, done.stderr  # twice what was sent, and one
    assert (folder / "serial").read_bytes() == text
