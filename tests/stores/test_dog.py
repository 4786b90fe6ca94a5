# SPDX-License-Identifier: MIT
"""The dog store, with a dog that says what a test wants.

What a real one says is tried in test_dog_cluster.py.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

import conformance

SOURCE = Path(__file__).resolve().parent.parent.parent
DOG = SOURCE / "src" / "stores" / "dog"
LIMIT = 60
USAGE, GONE, UNAVAILABLE, IO = 64, 66, 69, 74
URI = "dog://127.0.0.1:7001/"

# Answers from the files of its folder, and writes down how it was called.  The n-th list
# is list.n if there is that file, else list.
FAKE = r"""#!/usr/bin/python3 -IS
import hashlib, os, sys

HOME = os.fsencode(os.path.dirname(os.path.abspath(__file__)))


def path(*name):
    return os.path.join(HOME, b".".join(name))


def show(name, file):
    if os.path.exists(path(name)):
        file.buffer.write(open(path(name), "rb").read())
        file.flush()


def finish(name):
    show(name + b".err", sys.stderr)
    status = path(name, b"status")
    sys.exit(int(open(status).read()) if os.path.exists(status) else 0)


arguments = [os.fsencode(each) for each in sys.argv[1:]]
with open(path(b"calls"), "ab") as calls:
    calls.write(b"\0".join(arguments) + b"\0\0")
number = b"%d" % open(path(b"calls"), "rb").read().count(b"vdi\0list")
assert sys.stdin.read() == "", "what is asked is not for dog"
command = arguments[:2]
if command == [b"vdi", b"list"]:
    name = b"list." + number if os.path.exists(path(b"list", number)) else b"list"
    show(name, sys.stdout)
    finish(name)
if command == [b"cluster", b"info"]:
    show(b"cluster", sys.stdout)
    finish(b"cluster")
assert command == [b"vdi", b"read"], command
dashes = arguments.index(b"--")
options, (name, offset, length) = arguments[2:dashes], arguments[dashes + 1 :]
snapshot = options[options.index(b"-s") + 1] if b"-s" in options else b"0"
data = path(b"data", hashlib.sha1(name).hexdigest().encode(), snapshot)
if not os.path.exists(data):
    sys.exit("Failed to open VDI: No VDI found")
data = open(data, "rb").read()
offset, length = int(offset), int(length)
sys.stdout.buffer.write(data[offset : offset + length])
sys.stdout.flush()
finish(b"read")
"""


def record(name, snapid=0, tag=b"", vid=0x7C2B25, size=1000, used=0, shared=0, **more):
    """A line of `dog vdi list -r`, as print_vdi_list() in its dog/vdi.c prints it."""
    escaped = b"".join(
        b"\\" + bytes([byte]) if byte in b" \t\n\v\f\r\\" else bytes([byte]) for byte in name
    )
    flag = more.get("flag", b"s" if snapid else b"=")
    copies, shift = more.get("copies", b"3"), more.get("shift", 22)
    created = more.get("created", 1400000000)
    fields = b"%d %d %d %d %d %x %s" % (snapid, size, used, shared, created, vid, copies)
    end = b"" if shift is None else b" %d" % shift
    return b"%s %s %s %s%s\n" % (flag, escaped, fields, tag, end)


class Fake:
    """A cluster of files."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        (self.folder / "dog").write_text(FAKE)
        (self.folder / "dog").chmod(0o755)
        self.set("cluster", b"Cluster status: running, auto-recovery enabled\n\nmore\n")
        self.environment = dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}")
        for name in ("SHEEPDOG_DOG_ADDR", "SHEEPDOG_DOG_PORT"):
            self.environment.pop(name, None)
        self.program = [DOG]

    def set(self, name, text):
        (self.folder / name).write_bytes(text)

    def list(self, *records, number=None):
        self.set("list" if number is None else f"list.{number}", b"".join(records))

    def data(self, name, content, snapid=0):
        self.set(f"data.{hashlib.sha1(name).hexdigest()}.{snapid}", content)

    def calls(self):
        """The arguments of each dog so far."""
        text = (self.folder / "calls").read_bytes() if (self.folder / "calls").exists() else b""
        return [call.split(b"\0") for call in text.split(b"\0\0")[:-1]]

    def run(self, *arguments, stdin=b""):
        return subprocess.run(
            [*self.program, *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            check=False,
            env=self.environment,
        )

    def listed(self):
        """[(name, image)] in the order of printing."""
        done = self.run("list", "--", URI)
        assert (done.returncode, done.stderr) == (0, b"")
        images = [json.loads(line) for line in done.stdout.splitlines()]
        return [(conformance.name_of(image), image) for image in images]

    def names(self):
        return [name for name, _ in self.listed()]

    def read(self, image, *asks):
        stdin = "".join(f"{offset} {length}\n" for offset, length in asks).encode()
        return self.run("read", "--", URI, image, stdin=stdin)


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path / "dog")


def assert_failed(done, status, said):
    assert done.returncode == status
    assert done.stderr.splitlines()[-1:] == [said]


# ---- list -------------------------------------------------------------------------------


def test_a_vdi_is_an_image(fake):
    fake.list(
        record(b"alpha", vid=0x7C2B25, size=4 << 40, used=1 << 34, shared=5 << 22, created=1234)
    )
    assert fake.listed() == [
        (
            b"alpha",
            {
                "name": "alpha",
                "id": "v:7c2b25:1234:4398046511104:616c706861",
                "size": 4 << 40,
                "allocated": (1 << 34) + (5 << 22),
                "mtime": 1234,
                "attrs": {"vid": "7c2b25", "copies": "3"},
            },
        )
    ]


def test_a_snapshot_is_an_image_that_cannot_change(fake):
    fake.list(record(b"alpha", snapid=3, tag=b"before upgrade", copies=b"4:2"))
    [(name, image)] = fake.listed()
    assert name == b"alpha@before upgrade"
    assert image["immutable"] is True
    assert image["id"] == "s:7c2b25:1400000000:1000:616c706861"
    attrs = {"vid": "7c2b25", "copies": "4:2", "snapid": "3", "tag": "before upgrade"}
    assert image["attrs"] == attrs


def test_a_clone_is_an_image_like_others(fake):
    fake.list(record(b"copy", flag=b"c"))
    [(name, image)] = fake.listed()
    assert (name, image["id"][0]) == (b"copy", "v")
    assert "immutable" not in image


@pytest.mark.parametrize("shift", [20, 22, 31, None])
@pytest.mark.parametrize("tag", [b"", b"t", b"two words", b"7", b" ", b"x 5", b"x 1022", b"a\\b"])
def test_tags_of_all_forms_with_and_without_an_object_size(fake, shift, tag):
    # Without an object size `x 22` could be either; dog itself does not tell.
    others = [record(b"other", vid=1, shift=shift), record(b"more", vid=3, shift=shift)]
    fake.list(others[0], record(b"alpha", snapid=2, tag=tag, shift=shift, vid=2), others[1])
    assert fake.names() == [b"other", b"alpha@" + (tag or b"2"), b"more"]


def test_a_tag_that_looks_like_an_object_size_is_one_tag(fake):
    fake.list(record(b"alpha", snapid=1, tag=b"x 22"), record(b"beta", vid=2))
    assert fake.names() == [b"alpha@x 22", b"beta"]


def test_without_object_sizes_a_tag_may_end_in_a_number(fake):
    """Another line that cannot be of the newer form tells."""
    fake.list(
        record(b"alpha", snapid=1, tag=b"x 22", shift=None), record(b"beta", vid=2, shift=None)
    )
    assert fake.names() == [b"alpha@x 22", b"beta"]


def test_a_tag_that_is_not_unique_gives_way_to_the_number(fake):
    fake.list(
        record(b"alpha", snapid=1, tag=b"daily", vid=1),
        record(b"alpha", snapid=2, tag=b"daily", vid=2),
        record(b"alpha", snapid=3, tag=b"weekly", vid=3),
        record(b"beta", snapid=1, tag=b"daily", vid=4),
        record(b"alpha", vid=5),
    )
    names = [b"alpha@1", b"alpha@2", b"alpha@weekly", b"beta@daily", b"alpha"]
    assert fake.names() == names


def test_no_tag_takes_the_name_of_another_image(fake):
    fake.list(
        record(b"alpha", snapid=1, tag=b"2", vid=1),
        record(b"alpha", snapid=2, tag=b"x", vid=2),
        record(b"beta", snapid=1, tag=b"1", vid=3),
        record(b"gamma", snapid=7, tag=b"live", vid=4),
        record(b"gamma@live", vid=5),
        record(b"delta", snapid=4, tag=b"5", vid=6),
        record(b"delta", snapid=5, vid=7),
    )
    names = [b"alpha@1", b"alpha@x", b"beta@1", b"gamma@7", b"gamma@live", b"delta@4", b"delta@5"]
    assert fake.names() == names


ODD_NAMES = [bytes([byte]) for byte in range(1, 256)] + [
    b"a b",
    b"a  b",
    b"\\\\",
    b"\\ ",
    b"a\nb",
    b"a\n",
    b"a\\\nb",
    b"-rf",
    b"--",
    b"-s",
    b"$(touch pwned)",
    b"`touch pwned`",
    b"a;b&c|d",
    b'"\'',
    b"%s%n",
    b"/*",
    b"a\rb\x1b[1m",
    b"\xff" * 255,
    "größe-🐑".encode(),
    b"alpha@tag",
    b"../..",
    b"= alpha 0 1 0 0 1 1 3  22",
    b"whole",
]


def test_names_and_tags_hold_any_byte_and_reach_dog_as_they_are(fake):
    records, expected = [], []
    for number, name in enumerate(ODD_NAMES):
        records.append(record(name, vid=2 * number + 1))
        records.append(record(name, snapid=7, tag=name, vid=2 * number + 2))
        fake.data(name, b"%1000d" % (2 * number + 1))
        fake.data(name, b"%1000d" % (2 * number + 2), snapid=7)
        expected += [name, name + b"@" + name]
    fake.list(*records)
    found = fake.listed()
    assert [name for name, _ in found] == expected
    assert len({image["id"] for _, image in found}) == len(found)
    for number, (_, image) in list(enumerate(found))[-60:]:
        done = fake.read(image["id"], (990, 10))
        assert (done.returncode, done.stderr) == (0, b"")
        assert int(done.stdout) == number + 1
    assert not list(fake.folder.glob("**/pwned"))


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    images=strategies.lists(
        strategies.tuples(
            strategies.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name),
            strategies.binary(max_size=20).filter(lambda tag: b"\0" not in tag),
            strategies.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_whatever_is_listed_is_parsed(images):
    with tempfile.TemporaryDirectory(prefix="imagefs-dog.", dir="/tmp") as folder:
        fake = Fake(folder)
        fake.list(
            *(
                record(name, snapid=snapid, tag=tag if snapid else b"", vid=number)
                for number, (name, tag, snapid) in enumerate(images)
            )
        )
        found = fake.listed()
        assert len(found) == len(images)
        for number, (shown, image) in enumerate(found):
            name, tag, snapid = images[number]
            assert image["attrs"]["vid"] == f"{number:x}"
            assert image["id"].endswith(name.hex())
            allowed = [name + b"@" + tag, name + b"@%d" % snapid] if snapid else [name]
            assert shown in allowed


def installed_awks():
    return [awk for awk in ("mawk", "gawk", "original-awk", "busybox") if shutil.which(awk)]


def installed_shells():
    candidates = (("dash",), ("bash", "--posix"), ("busybox", "sh"))
    return [shell for shell in candidates if shutil.which(shell[0])]


@pytest.mark.parametrize("awk", installed_awks())
@pytest.mark.parametrize("shell", installed_shells(), ids=lambda shell: shell[0])
def test_it_runs_with_any_shell_and_awk(fake, shell, awk):
    (fake.folder / "awk").symlink_to(shutil.which(awk))
    fake.program = [*shell, DOG]
    names = [b"a\\\n b", b"\xff\xfe", "größe".encode(), b"-x", b"$(x)"]
    fake.list(
        *(record(name, vid=number, size=1 << 53) for number, name in enumerate(names)),
        record(b"alpha", snapid=7, tag=b"two words", vid=0x100),
    )
    found = fake.listed()
    assert [name for name, _ in found] == names + [b"alpha@two words"]
    for name, image in found[:-1]:
        fake.data(name, b"0123456789")
        done = fake.read(image["id"], (3, 4), (0, 1))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"34560", b"")


# ---- lists that are none ----------------------------------------------------------------


def test_an_empty_cluster_is_an_empty_list(fake):
    fake.list()
    assert fake.listed() == []


@pytest.mark.parametrize(
    "status", [b"Cluster status: Waiting for cluster to be formatted\n", b"", b"error\n"]
)
def test_an_empty_list_is_not_believed_where_the_cluster_does_not_run(fake, status):
    fake.list()
    fake.set("cluster", status)
    said = b"the cluster at 127.0.0.1:7001 is not running"
    assert_failed(fake.run("list", "--", URI), UNAVAILABLE, said)
    assert_failed(fake.read("v:1:1:1:61", (0, 1)), UNAVAILABLE, said)


def test_a_list_is_not_whole_if_dog_complains_though_it_exits_0(fake):
    fake.list(record(b"alpha"))
    fake.set("list.err", b"Failed to read inode header\n")
    done = fake.run("list", "--", URI)
    assert done.stdout == b""
    assert_failed(done, UNAVAILABLE, b"Failed to read inode header")


def test_a_list_is_not_whole_if_dog_fails_without_a_word(fake):
    fake.list(record(b"alpha"))
    fake.set("list.status", b"2")
    done = fake.run("list", "--", URI)
    assert done.stdout == b""
    assert_failed(done, UNAVAILABLE, b"dog vdi list: exit status 2")


@pytest.mark.parametrize(
    "text",
    [
        b"  Name        Id    Size    Used\n",
        b"\n",
        b"= alpha\n",
        b"= alpha 0 1000 0 0 1400000000 7c2b25\n",
        b"= alpha 0 1.0GB 0 0 1400000000 7c2b25 3  22\n",
        b"x alpha 0 1000 0 0 1400000000 7c2b25 3  22\n",
        b"= \\",
    ],
)
def test_what_is_no_list_is_an_error(fake, text):
    fake.set("list", text)
    done = fake.run("list", "--", URI)
    assert done.stdout == b""
    assert_failed(done, IO, b"cannot understand what dog lists")
    assert_failed(fake.read("v:1:1:1:61", (0, 1)), IO, b"cannot understand what dog lists")


def test_without_dog_the_store_is_unavailable(fake):
    (fake.folder / "dog").unlink()
    for tool in ("sh", "awk"):
        (fake.folder / tool).symlink_to(shutil.which(tool))
    fake.environment["PATH"] = str(fake.folder)
    assert_failed(fake.run("list", "--", URI), UNAVAILABLE, b"there is no dog on PATH")


# ---- where and how dog is asked ---------------------------------------------------------


@pytest.mark.parametrize(
    "uri, host, port",
    [
        ("dog://", b"127.0.0.1", b"7000"),
        ("dog:///", b"127.0.0.1", b"7000"),
        ("dog://10.0.0.7/", b"10.0.0.7", b"7000"),
        ("dog://10.0.0.7", b"10.0.0.7", b"7000"),
        ("dog://10.0.0.7:7003/", b"10.0.0.7", b"7003"),
        ("dog://:7003/", b"127.0.0.1", b"7003"),
        ("dog://[::1]/", b"::1", b"7000"),
        ("dog://[fe80::1]:7003/", b"fe80::1", b"7003"),
    ],
)
def test_the_uri_says_whom_to_ask(fake, uri, host, port):
    fake.list(record(b"alpha"))
    fake.environment.update(host="x", port="9", found="x", id="x", IMAGE_ID="x", name="x")
    assert fake.run("list", "--", uri).returncode == 0
    assert fake.calls() == [[b"vdi", b"list", b"-a", host, b"-p", port, b"-r"]]


def test_a_host_name_is_looked_up_since_dog_takes_addresses_only(fake):
    fake.list(record(b"alpha"))
    assert fake.run("list", "--", "dog://localhost:7003/").returncode == 0
    assert fake.calls()[0][3] in (b"127.0.0.1", b"::1")


def test_a_host_that_is_not_known_is_unavailable(fake):
    getent = fake.folder / "getent"
    getent.write_text("#!/bin/sh\nexit 2\n")
    getent.chmod(0o755)
    done = fake.run("list", "--", "dog://no-such-host/")
    assert_failed(done, UNAVAILABLE, b"unknown host: no-such-host")


def test_without_a_host_the_environment_says_whom_to_ask_as_with_dog(fake):
    fake.list(record(b"alpha"))
    fake.environment.update(SHEEPDOG_DOG_ADDR="10.0.0.9", SHEEPDOG_DOG_PORT="7009")
    assert fake.run("list", "--", "dog:///").returncode == 0
    assert fake.run("list", "--", "dog://10.0.0.1:7001/").returncode == 0
    asked = [(call[3], call[5]) for call in fake.calls()]
    assert asked == [(b"10.0.0.9", b"7009"), (b"10.0.0.1", b"7001")]


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "dog",
        "dog:",
        "sheepdog://127.0.0.1/",
        "dog://127.0.0.1:7000/alpha",
        "dog://127.0.0.1:port/",
        "dog://127.0.0.1:0x1/",
        "dog://127.0.0.1:/x",
        "dog://::1/",
        "dog://a b/",
        "dog://$(touch pwned)/",
        "dog://;touch pwned/",
        "dog://a\n/",
        "dog://*/",
        "--help",
    ],
)
def test_a_uri_that_is_none_is_refused(fake, uri):
    for done in (fake.run("list", "--", uri), fake.run("read", "--", uri, "id")):
        assert (done.returncode, done.stdout) == (USAGE, b"")
        assert done.stderr
    assert fake.calls() == []


# ---- read -------------------------------------------------------------------------------


def test_each_ask_is_one_dog_with_the_name_behind_dashes(fake):
    fake.list(record(b"-a b", size=10))
    fake.data(b"-a b", b"0123456789")
    [(_, image)] = fake.listed()
    done = fake.read(image["id"], (0, 10), (9, 1))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"01234567899", b"")
    where = [b"-a", b"127.0.0.1", b"-p", b"7001", b"--", b"-a b"]
    assert [call for call in fake.calls() if call[1] == b"read"] == [
        [b"vdi", b"read", *where, b"0", b"10"],
        [b"vdi", b"read", *where, b"9", b"1"],
    ]


def test_a_snapshot_is_read_by_its_number(fake):
    fake.list(
        record(b"alpha", snapid=12, tag=b"7", size=10, vid=1), record(b"alpha", size=10, vid=2)
    )
    fake.data(b"alpha", b"snapshot..", snapid=12)
    fake.data(b"alpha", b"current...")
    by_name = dict(fake.listed())
    assert fake.read(by_name[b"alpha@7"]["id"], (0, 8)).stdout == b"snapshot"
    assert fake.read(by_name[b"alpha"]["id"], (0, 7)).stdout == b"current"
    reads = [call[6:] for call in fake.calls() if call[1] == b"read"]
    assert reads == [[b"-s", b"12", b"--", b"alpha", b"0", b"8"], [b"--", b"alpha", b"0", b"7"]]


@pytest.mark.parametrize("asks", [b"", b"0 1\n", b"0 1\n1 2\n"])
def test_asks_are_answered_in_order(fake, asks):
    fake.list(record(b"alpha", size=3))
    fake.data(b"alpha", b"abc")
    [(_, image)] = fake.listed()
    done = fake.run("read", "--", URI, image["id"], stdin=asks)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == {0: b"", 4: b"a", 8: b"abc"}[len(asks)]


@pytest.mark.parametrize(
    "ask",
    [
        b"0\n",
        b"\n",
        b"a b\n",
        b"0 0\n",
        b"0 11\n",
        b"10 1\n",
        b"5 6\n",
        b"-1 1\n",
        b"01 1\n",
        b"0 1 2\n",
        b"0x1 1\n",
        b"0 $(id)\n",
        b"9223372036854775807 1\n",
        b"1 18446744073709551615\n",
        b"0 1",
        b"* *\n",
    ],
)
def test_what_is_no_ask_within_the_image_is_refused(fake, ask):
    fake.list(record(b"alpha", size=10))
    fake.data(b"alpha", b"0123456789")
    [(_, image)] = fake.listed()
    done = fake.run("read", "--", URI, image["id"], stdin=b"0 2\n" + ask)
    assert (done.returncode, done.stdout) == (USAGE, b"01")


def test_reading_stops_where_dog_fails(fake):
    fake.list(record(b"alpha", size=10))
    fake.data(b"alpha", b"0123456789")
    [(_, image)] = fake.listed()
    fake.set("read.err", b"Failed to read object 007c2b2500000000 I/O error\nFailed to read VDI\n")
    fake.set("read.status", b"1")
    done = fake.read(image["id"], (0, 5), (5, 5))
    assert done.stdout == b"01234"
    assert_failed(done, IO, b"Failed to read VDI")


def test_reading_stops_where_dog_complains_though_it_exits_0(fake):
    fake.list(record(b"alpha", size=10))
    fake.data(b"alpha", b"")
    [(_, image)] = fake.listed()
    fake.set("read.err", b"failed to connect to 127.0.0.1:7001: Connection refused\n")
    done = fake.read(image["id"], (0, 5), (5, 5))
    assert done.stdout == b""
    assert_failed(done, IO, b"failed to connect to 127.0.0.1:7001: Connection refused")


def test_an_unknown_id_is_gone(fake):
    fake.list(record(b"alpha", size=10), record(b"alpha", snapid=1, size=10, vid=9))
    by_name = dict(fake.listed())
    good = by_name[b"alpha"]["id"]
    for image in (
        good.replace("v:", "s:"),
        good.replace("7c2b25", "7c2b26"),
        good.replace("1400000000", "1400000001"),
        good.replace(":10:", ":11:"),
        good + "00",
        good[:-2],
        good.upper(),
        "",
        "*",
        "v:*:*:*:*",
        "$(touch pwned)",
        by_name[b"alpha@1"]["id"].replace("s:", ""),
    ):
        done = fake.read(image, (0, 1))
        assert done.stdout == b""
        assert_failed(done, GONE, b"no such image: " + image.encode())


def moved(fake, size=10):
    """What a snapshot of alpha does: its vid is that of the snapshot, alpha has another."""
    fake.data(b"alpha", b"NEW.......", snapid=0)
    fake.data(b"alpha", b"0123456789", snapid=4)
    return [
        record(b"alpha", snapid=4, tag=b"t", size=size),
        record(b"alpha", size=size, vid=0x7C2B26, created=1400000099),
    ]


def test_a_vdi_of_which_a_snapshot_was_taken_is_read_from_the_snapshot(fake):
    fake.list(record(b"alpha", size=10))
    [(_, image)] = fake.listed()
    fake.list(*moved(fake))
    done = fake.read(image["id"], (0, 10), (5, 5))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"012345678956789", b"")


def test_a_snapshot_taken_between_two_answers_ends_it(fake):
    fake.list(record(b"alpha", size=10))
    fake.data(b"alpha", b"0123456789")
    [(_, image)] = fake.listed()
    fake.list(*moved(fake), number=3)  # 1 was the list above, 2 is before the first answer
    fake.data(b"alpha", b"0123456789")
    done = fake.read(image["id"], (0, 5), (5, 5))
    assert done.stdout == b"01234"
    said = b"a snapshot was taken while this was read: " + image["id"].encode()
    assert_failed(done, GONE, said)


def test_a_snapshot_taken_during_the_last_answer_is_said_at_the_end(fake):
    fake.list(record(b"alpha", size=10))
    fake.data(b"alpha", b"0123456789")
    [(_, image)] = fake.listed()
    fake.list(*moved(fake), number=3)
    done = fake.read(image["id"], (0, 10))
    assert done.returncode == GONE


def test_a_snapshot_that_is_deleted_while_it_is_read_is_gone(fake):
    fake.list(record(b"alpha", snapid=4, tag=b"t", size=10))
    fake.data(b"alpha", b"0123456789", snapid=4)
    [(_, image)] = fake.listed()
    fake.list(record(b"other"), number=3)
    done = fake.read(image["id"], (0, 10))
    assert_failed(done, GONE, b"no such image: " + image["id"].encode())


def test_a_vdi_that_is_deleted_while_it_is_read_is_gone_and_no_input_output_error(fake):
    fake.list(record(b"alpha", size=10))
    [(_, image)] = fake.listed()
    fake.list(record(b"other"), number=3)
    done = fake.read(image["id"], (0, 10))  # there is no data for it
    assert_failed(done, GONE, b"no such image: " + image["id"].encode())


def test_a_vdi_that_was_made_anew_or_resized_is_another_image(fake):
    fake.list(record(b"alpha", size=10))
    [(_, image)] = fake.listed()
    for other in (
        record(b"alpha", size=20),
        record(b"alpha", size=10, created=1400000001),
        record(b"alpha", size=10, vid=0x7C2B26),
    ):
        fake.list(other)
        done = fake.read(image["id"], (0, 10))
        assert_failed(done, GONE, b"no such image: " + image["id"].encode())


def test_when_the_cluster_does_not_answer_at_the_end_nothing_is_vouched_for(fake):
    fake.list(record(b"alpha", size=10))
    fake.data(b"alpha", b"0123456789")
    [(_, image)] = fake.listed()
    fake.set("list.3", b"")
    fake.set("list.3.err", b"failed to connect to 127.0.0.1:7001: Connection refused\n")
    done = fake.read(image["id"], (0, 10))
    assert done.stdout == b"0123456789"
    said = b"failed to connect to 127.0.0.1:7001: Connection refused"
    assert_failed(done, UNAVAILABLE, said)


def test_it_cannot_tell_where_data_is(fake):
    done = fake.run("extents", "--", URI, "v:1:1:1:61")
    assert (done.returncode, done.stdout) == (USAGE, b"")


def test_all_rules_of_the_protocol_are_kept(fake, monkeypatch):
    monkeypatch.setenv("PATH", fake.environment["PATH"])
    content = bytes(i * 7 % 251 for i in range(300000))
    fake.list(
        record(b"alpha", size=300000, vid=1),
        record(b"alpha", size=300000, vid=2, snapid=1, tag=b"a b"),
        record(b"empty", size=0, vid=3),
    )
    fake.data(b"alpha", content)
    fake.data(b"alpha", content[::-1], snapid=1)
    results = list(conformance.check(str(DOG), URI, limit=LIMIT))
    assert [result for result in results if result[2] == "wrong"] == []
    not_tried = {name for name, _, verdict, _ in results if verdict == "n/a"}
    assert {name.partition("_")[0] for name in not_tried} == {"extents"}
