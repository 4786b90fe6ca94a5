# SPDX-License-Identifier: MIT
"""The glance store on a real Glance that wants no login."""

import contextlib
import errno
import fcntl
import http.server
import os
import random
import struct
import termios
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import conformance
import glance_cluster
import harness
from glance_program import (
    BIG, GONE, IO, MIB, PROGRAM, SMALL, UNAVAILABLE, Reader, TlsFront, data_of, fails,
    listed, read, run, verify,
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="built without the glance store"),
    pytest.mark.skipif(bool(glance_cluster.missing()), reason=str(glance_cluster.missing())),
    pytest.mark.xdist_group("glance"),
]


@pytest.fixture(scope="module")
def glance(tmp_path_factory):
    """A Glance without a login.  Tests add images to it, of names of their own."""
    # Pages are shorter than what is asked for.
    drop_in = tmp_path_factory.mktemp("glance") / "pages.conf"
    drop_in.write_text("[DEFAULT]\napi_limit_max = 600\n")
    with glance_cluster.Glance(drop_in=drop_in) as running:
        running.big = running.upload("big", BIG)
        running.small = running.upload("small", SMALL)
        yield running


# ---- listing ----


def test_an_image_is_listed_with_what_glance_knows_of_it(glance):
    shown = glance.show(glance.big)
    entry = listed(glance.uri)["big"]
    assert (entry["id"], entry["size"], entry["immutable"]) == (glance.big, len(BIG), True)
    attrs = entry["attrs"]
    assert attrs["os_hash_algo"] == "sha512"
    for key in ("checksum", "os_hash_value", "disk_format", "container_format", "visibility",
                "created_at", "updated_at"):
        assert attrs[key] == shown[key]
    assert not any("location" in key or key == "file" for key in attrs)


def test_images_without_data_are_not_listed_and_those_of_0_bytes_are(glance):
    queued = glance.create("queued")
    empty = glance.upload("empty", b"")
    found = listed(glance.uri)
    assert "queued" not in found
    assert (found["empty"]["id"], found["empty"]["size"]) == (empty, 0)
    glance.delete(queued)


def test_names_that_repeat_or_are_odd_or_missing(glance, mounted):
    names = ["twice", "twice", "a/b", "..", "tab\tnewline\n", "a\0b", "é", "x~y", "n" * 255]
    ids = [glance.upload(name, b"data") for name in names] + [glance.upload(None, b"data")]
    ids += [glance.upload("", b"data"), glance.upload("twice~" + ids[0], b"another's")]
    found = {image["id"]: name for name, image in listed(glance.uri).items()}
    assert found[ids[0]] == "twice~" + ids[0]
    assert found[ids[1]] == "twice~" + ids[1]
    assert [found[id] for id in ids[2:]] == [
        "a/b", "..", "tab\tnewline\n", "a\ufffdb", "é", "x~y", "n" * 255, *ids[-3:-1],
        "twice~" + ids[0] + "~" + ids[-1]]
    mount = mounted(glance.uri)
    assert len(os.listdir(mount / ".imagefs" / "by-id")) == len(found)
    for id in ids[:-1]:
        assert (mount / ".imagefs" / "by-id" / id).read_bytes() == b"data"
    assert (mount / ("twice~" + ids[0])).read_bytes() == b"data"
    assert (mount / found[ids[-1]]).read_bytes() == b"another's"
    for id in ids:
        glance.delete(id)


def test_hidden_images_and_others_are_those_that_the_filters_say(glance):
    hidden = glance.upload("hidden", b"data", os_hidden=True)
    tagged = glance.upload("tagged", b"data", tags=["one", "two"])
    assert "hidden" not in listed(glance.uri)
    assert set(listed(glance.uri + "?os_hidden=true")) == {"hidden"}
    found = listed(glance.uri + "?tag=one")
    assert set(found) == {"tagged"}
    assert sorted(found["tagged"]["attrs"]["tags"].split(",")) == ["one", "two"]
    glance.delete(hidden)
    glance.delete(tagged)


def test_5000_images_are_listed(glance, mounted):
    before = {image["id"] for image in listed(glance.uri).values()}
    ids = glance.add_many(5000)
    uploaded = glance.upload("image-00007", SMALL)
    try:
        found = listed(glance.uri)
        assert {image["id"] for image in found.values()} == {*before, *ids, uploaded}
        assert {name for name in found if "~" in name} == {
            "image-00007~" + ids[7], "image-00007~" + uploaded}
        assert found["image-04999"]["size"] == 4096
        mount = mounted(glance.uri)
        assert set(os.listdir(mount / ".imagefs" / "by-id")) == {*before, *ids, uploaded}
        assert set(found) <= set(os.listdir(mount.path))
    finally:
        glance.forget(ids)
        glance.delete(uploaded)


@pytest.mark.parametrize("words", [("list",), ("verify",), ("-f",)])
def test_a_password_that_is_put_into_the_uri_is_not_said(folder, words):
    uri = "glance+http://somebody:s3cret@127.0.0.1:9292/"
    mountpoint = [folder] if words == ("-f",) else []
    done = harness.run(harness.IMAGEFS, *words, "-o", "store_path=" + harness.STORE_PATH, uri,
                       *mountpoint, check=False)
    assert done.returncode == 1
    assert "glance+http://somebody:***@127.0.0.1:9292/: " in done.stderr
    assert "OS_PASSWORD" in done.stderr and "s3cret" not in done.stdout + done.stderr


def test_a_list_is_whole_while_images_come_and_go(glance):
    stays = {glance.upload("stays-%d" % i, b"data") for i in range(3)}
    with ThreadPoolExecutor(1) as pool:
        def change():
            for i in range(20):
                glance.delete(glance.upload("goes-%d" % i, b"data"))
        changing = pool.submit(change)
        while not changing.done():
            assert stays <= {image["id"] for image in listed(glance.uri).values()}
        changing.result()
    for id in stays:
        glance.delete(id)


# ---- reading ----


def test_all_rules_of_the_protocol_are_kept(glance):
    found = [(name, why) for name, _, verdict, why in
             conformance.check(str(PROGRAM), glance.uri, limit=20) if verdict == "wrong"]
    assert found == []


def test_an_image_is_read_whole_and_in_parts(glance):
    assert read(glance.uri, glance.big, (0, len(BIG))).stdout == BIG
    numbers = random.Random(3)
    asks = []
    for _ in range(60):
        offset = numbers.randrange(len(BIG))
        asks.append((offset, numbers.randrange(1, min(len(BIG) - offset, 300000) + 1)))
    done = read(glance.uri, glance.big, *asks)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(BIG[o : o + n] for o, n in asks)


class Quiet(http.server.BaseHTTPRequestHandler):
    """A web server that an image can be located at; a folder's is without Range as well."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BIG)))
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):
                self.wfile.write(BIG)


@pytest.fixture
def located(glance):
    """The id of an image that is at an HTTP location."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        id = glance.add_http_location("located", f"http://127.0.0.1:{server.server_port}/x")
        try:
            yield id
        finally:
            glance.delete(id)
            server.shutdown()
            thread.join()


def test_an_image_at_an_http_location_is_read_in_any_order(glance, located):
    assert listed(glance.uri)["located"]["size"] == len(BIG)
    asks = [(0, 10), (10, MIB), (5 * MIB, MIB), (4 * MIB, 100), (0, len(BIG)), (len(BIG) - 1, 1)]
    done = read(glance.uri, located, *asks)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(BIG[o : o + n] for o, n in asks)


def test_an_image_at_an_http_location_in_the_mount(glance, located, mounted):
    mount = mounted(glance.uri)
    assert (mount / "located").read_bytes() == BIG
    with open(mount / "located", "rb", buffering=0) as file:
        for offset in (7 * MIB, 100, 3 * MIB, len(BIG) - 10):
            assert os.pread(file.fileno(), 10, offset) == BIG[offset : offset + 10]


def test_an_id_that_is_not_there_is_gone(glance):
    fails(read(glance.uri, "00000000-0000-4000-8000-000000000000", (0, 1)), GONE, "404")
    fails(read(glance.uri, "../images", (0, 1)), GONE)


def test_an_image_whose_data_is_lost_is_an_io_error(glance):
    id = glance.upload("lost", SMALL)
    glance.file_of(id).unlink()
    fails(read(glance.uri, id, (0, 10)), IO, "no data")
    glance.set(id, deleted=1)


def test_an_image_that_is_deleted_while_it_is_read_is_gone(glance):
    id = glance.upload("deleted", SMALL)
    with Reader(glance.uri, id) as reader:
        reader.ask(0, 100)
        assert reader.take(100) == SMALL[:100]
        glance.delete(id)
        reader.ask(100, 100)
        status, said = reader.end()
        assert status == GONE and b"404" in said


def test_a_copy_that_has_begun_is_whole_although_its_image_is_deleted(glance):
    id = glance.upload("deleted", BIG)
    with Reader(glance.uri, id) as reader:
        reader.ask(0, len(BIG))
        assert reader.take(100) == BIG[:100]
        glance.delete(id)
        assert reader.take(len(BIG) - 100) == BIG[100:]
        assert reader.end() == (0, b"")


def waiting_in(pipe):
    """The bytes that wait in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def test_glance_is_started_again_in_the_middle_of_a_copy(folder):
    with glance_cluster.Glance(folder=folder) as glance:
        id = glance.upload("big", BIG)
        with Reader(glance.uri, id) as reader:
            reader.ask(0, 100)
            reader.ask(100, len(BIG) - 100)
            assert reader.take(MIB) == BIG[:MIB]
            # Nothing more is missing to the reader while what it has is not read.
            harness.wait_until(lambda: waiting_in(reader.process.stdout) > MIB // 2,
                               "the pipe is as good as full")
            glance.restart()
            assert reader.take(len(BIG) - MIB) == BIG[MIB:]
            assert reader.end() == (0, b"")


# ---- in a mount ----


def test_files_in_the_mount_are_equal_to_the_images(glance, mounted):
    mount = mounted(glance.uri)
    assert set(os.listdir(mount.path)) >= {"big", "small"}
    assert (mount / "big").stat().st_size == len(BIG)
    assert (mount / "big").read_bytes() == BIG
    harness.run("cp", mount / "small", glance.folder / "copy")
    assert (glance.folder / "copy").read_bytes() == SMALL
    assert os.getxattr(mount / "big", "user.imagefs.id").decode() == glance.big
    hash_value = os.getxattr(mount / "big", "user.imagefs.os_hash_value").decode()
    assert hash_value == glance.show(glance.big)["os_hash_value"]


def test_random_reads_side_by_side_in_the_mount_are_right(glance, mounted):
    mount = mounted(glance.uri)
    numbers = random.Random(4)
    offsets = [numbers.randrange(len(BIG) // 4096) * 4096 for _ in range(320)]
    fd = os.open(mount / "big", os.O_RDONLY | os.O_DIRECT)
    try:
        with ThreadPoolExecutor(16) as pool:
            pieces = pool.map(lambda offset: os.pread(fd, 4096, offset), offsets)
            for offset, piece in zip(offsets, pieces):
                assert piece == BIG[offset : offset + 4096]
    finally:
        os.close(fd)


def test_an_image_that_is_deleted_while_open_is_stale(glance, mounted):
    id = glance.upload("deleted-while-open", BIG)
    mount = mounted(glance.uri)
    mount.expect("imagefs: .*404")
    with open(mount / "deleted-while-open", "rb", buffering=0) as file:
        glance.delete(id)
        with pytest.raises(OSError) as error:
            os.pread(file.fileno(), 10, 5 * MIB)
        assert error.value.errno == errno.ESTALE


# ---- TLS ----


def test_glance_with_tls(glance, folder):
    (folder / "other").mkdir()
    with TlsFront(folder, glance.port) as front, TlsFront(folder / "other", 1) as other:
        uri = "glance+" + front.url
        for wrong in ({}, {"OS_CACERT": str(other.certificate)}, {"OS_CACERT": "/not/there"},
                      {"OS_INSECURE": "true"}):
            fails(run("list", "--", uri, **wrong), UNAVAILABLE, "certificate")
            fails(read(uri, glance.big, (0, 1), **wrong), UNAVAILABLE, "certificate")
        ca = str(front.certificate)
        assert "big" in listed(uri, OS_CACERT=ca)
        assert read(uri, glance.big, (0, len(BIG)), OS_CACERT=ca).stdout == BIG
        assert read(uri, glance.big, (5, 100), OS_CACERT=ca).stdout == BIG[5:105]


# ---- imagefs verify ----


def test_images_of_glance_are_verified_by_its_hashes(glance, located):
    images = [glance.upload(name, data_of(i, 200000)) for i, name in
              enumerate(("right", "wrong", "lost"))]
    with open(glance.file_of(images[1]), "r+b") as file:
        file.seek(199999)
        file.write(b"\0" if data_of(1, 200000)[-1] else b"\1")
    glance.file_of(images[2]).unlink()
    bare = glance.register("bare", glance.file_of(images[0]), hashed=False)
    status, rows = verify(glance.uri, "right", glance.big)
    assert status == 0
    assert rows["right"].endswith("equal") and "sha512" in rows["big"]
    status, rows = verify(glance.uri, "right", "wrong", "lost", "bare", "located")
    assert status == 1
    assert "DIFFERENT" in rows["wrong"] and "equal" in rows["right"]
    assert "NOT READ" in rows["lost"] and "no data" in rows["lost"]
    assert "nothing to compare with" in rows["bare"]
    assert verify(glance.uri, "bare")[0] == 3
    for id in (*images[:2], bare):
        glance.delete(id)
    glance.set(images[2], deleted=1)
