# SPDX-License-Identifier: MIT
"""examples/glance: a real Glance that serves what is in a mount, each way as it is told there."""

import contextlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

import glance_cluster
import harness
import sheepdog_cluster
from glance_cluster import PYTHON, Glance, Refused, hashes, request

EXAMPLE = harness.SOURCE / "examples" / "glance"
LIMIT = 100
MIB = 1 << 20
SIZE = 6 * MIB + 12345
DATA = random.Random(5).randbytes(SIZE)

pytestmark = pytest.mark.skipif(bool(glance_cluster.missing()),
                                reason=str(glance_cluster.missing()))


@contextlib.contextmanager
def mount(folder, store):
    """A mount for a whole module."""
    path = folder / "mnt"
    path.mkdir()
    log = open(folder / "mnt.log", "wb")
    process = subprocess.Popen(
        [harness.IMAGEFS, "-f", "-o", "store_path=" + harness.STORE_PATH, store, path],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        harness.wait_until(lambda: os.path.ismount(path) or process.poll() is not None, "mounted")
        assert process.poll() is None, (folder / "mnt.log").read_text()
        yield path
    finally:
        subprocess.run(["umount", path], timeout=LIMIT)
        if process.poll() is None:
            process.terminate()
        process.wait(LIMIT)
        log.close()


@contextlib.contextmanager
def dir_store(folder):
    """(mount, the name of an image that has DATA, in it)"""
    images = folder / "store"
    images.mkdir()
    (images / "alpha.raw").write_bytes(DATA)
    (images / "odd #?.raw").write_bytes(DATA)
    with mount(folder, images) as path:
        yield path, "alpha.raw"


@contextlib.contextmanager
def sheepdog_store(folder):
    if sheepdog_cluster.missing():
        pytest.skip(sheepdog_cluster.missing())
    with sheepdog_cluster.Cluster(nodes=1, copies=1) as cluster:
        size = (SIZE + 511) // 512 * 512
        cluster.dog("vdi", "create", "alpha", size)
        cluster.dog("vdi", "write", "alpha", input=DATA.ljust(size, b"\0"))
        cluster.dog("vdi", "snapshot", "-s", "v1", "alpha")
        with mount(folder, cluster.uri("sheepdog")) as path:
            yield path, "alpha@v1"


DIR = pytest.param(dir_store, id="dir", marks=pytest.mark.xdist_group("glance-dir"))
SHEEPDOG = pytest.param(sheepdog_store, id="sheepdog",
                        marks=pytest.mark.xdist_group("glance-sheepdog"))
# For what is the same with any store.
dir_only = pytest.mark.parametrize("place", [DIR], indirect=True)


@pytest.fixture(scope="module", params=[DIR, SHEEPDOG])
def place(request, tmp_path_factory):
    """A mount, a Glance that has it as its second store, and the file of an image in it."""
    folder = tmp_path_factory.mktemp("glance")
    with request.param(folder) as (path, name):
        # As an operator does it, with other folders.
        text = (EXAMPLE / "imagefs.conf").read_text()
        for was, now in (("/var/lib/glance/imagefs", path),
                         ("/var/lib/glance/images", folder / "uploads"),
                         ("/var/lib/glance/staging", folder / "staging"),
                         ("/var/lib/glance/tasks", folder / "tasks")):
            assert was in text
            text = text.replace(was, str(now))
        (folder / "imagefs.conf").write_text(text)
        with Glance(drop_in=folder / "imagefs.conf") as glance:
            glance.mount = path
            glance.file = path / name
            glance.bytes = glance.file.read_bytes()
            assert glance.bytes[:SIZE] == DATA
            glance.uploads = folder / "uploads"
            yield glance


def register(glance, *words):
    done = subprocess.run(
        [PYTHON, EXAMPLE / "register", *glance.config_arguments(), *map(str, words)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT,
        env=glance.environment_of_server(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def check_downloads(glance, id, data):
    """Whole and by Range, what comes is equal."""
    whole = request("GET", glance.file_url(id))
    assert whole.status == 200
    assert whole.data == data
    for first, last in ((0, 0), (5, 70000), (MIB - 1, 3 * MIB), (len(data) - 1, len(data) - 1)):
        part = request("GET", glance.file_url(id), Range="bytes=%d-%d" % (first, last))
        assert part.status == 206
        assert part.data == data[first : last + 1]


def test_a_file_in_the_mount_is_an_image_without_an_upload(place):
    id = register(place, "--name", "registered", "--store", "imagefs", place.file)
    shown = place.show(id)
    size, md5, sha512 = hashes(place.file)
    assert (shown["status"], shown["size"]) == ("active", size)
    assert (shown["checksum"], shown["os_hash_algo"], shown["os_hash_value"]) == (
        md5, "sha512", sha512)
    assert (shown["name"], shown["disk_format"], shown["stores"]) == (
        "registered", "raw", "imagefs")
    check_downloads(place, id, place.bytes)
    place.delete(id)


def test_an_image_can_be_registered_by_the_path_of_its_id(place):
    """Which is that of this version for ever."""
    image = os.getxattr(place.file, "user.imagefs.id").decode()
    (found,) = [name for name in os.listdir(place.mount / ".imagefs" / "by-id")
                if os.getxattr(place.mount / ".imagefs" / "by-id" / name,
                               "user.imagefs.id").decode() == image]
    path = place.mount / ".imagefs" / "by-id" / found
    id = register(place, "--name", "by id", "--store", "imagefs", path)
    check_downloads(place, id, place.bytes)
    place.delete(id)


@dir_only
def test_a_name_that_is_no_part_of_a_url_is_refused(place):
    odd = place.mount / "odd #?.raw"
    done = subprocess.run(
        [PYTHON, EXAMPLE / "register", *place.config_arguments(), odd], capture_output=True,
        text=True, timeout=LIMIT, env=place.environment_of_server(), check=False)
    assert done.returncode == 1 and "by-id" in done.stderr


def is_gone(glance, id):
    with pytest.raises(Refused) as refused:
        glance.show(id)
    return refused.value.status == 404


@dir_only
def test_a_registered_image_that_is_deleted_is_gone_and_its_file_is_not(place):
    id = register(place, "--name", "deleted", "--store", "imagefs", place.file)
    place.delete(id)
    assert is_gone(place, id)
    assert place.file.read_bytes() == place.bytes


@dir_only
def test_an_image_outside_of_the_stores_is_not_deleted_but_removed(place, tmp_path):
    """Where the mount is not a store of Glance's: the same folder, mounted once more."""
    store = place.mount.parent / "store"
    with mount(tmp_path, store) as path:
        id = register(place, "--name", "kept", path / "alpha.raw")
        check_downloads(place, id, place.bytes)
        with pytest.raises(Refused) as refused:
            place.delete(id)
        assert refused.value.status == 403
        check_downloads(place, id, place.bytes)
        register(place, "--remove", id)
        assert is_gone(place, id)
        assert (path / "alpha.raw").read_bytes() == place.bytes


@dir_only
def test_uploads_go_to_the_other_store(place):
    id = place.upload("uploaded", DATA[:100000])
    assert place.show(id)["stores"] == "local"
    check_uploaded = request("GET", place.file_url(id))
    assert check_uploaded.data == DATA[:100000]
    assert (place.uploads / id).read_bytes() == DATA[:100000]
    place.delete(id)
    assert not (place.uploads / id).exists()


@dir_only
def test_an_upload_to_the_mount_is_refused_and_harms_nothing(place):
    id = place.create("not there")
    with pytest.raises(Refused) as refused:
        place.ask("PUT", f"/v2/images/{id}/file", b"data",
                  Content_Type="application/octet-stream", X_Image_Meta_Store="imagefs")
    assert refused.value.status == 410
    place.delete(id)
    assert place.file.read_bytes() == place.bytes


def test_a_link_takes_the_place_of_an_upload(place):
    id = place.upload("linked", place.bytes)
    upload = place.uploads / id
    harness.run(EXAMPLE / "link", place.file, upload)
    assert upload.is_symlink() and upload.resolve() == place.file.resolve()
    check_downloads(place, id, place.bytes)
    assert place.show(id)["os_hash_value"] == hashes(place.file)[2]
    place.delete(id)
    assert not upload.is_symlink()
    assert place.file.read_bytes() == place.bytes


@dir_only
def test_a_link_to_other_bytes_is_not_made(place):
    other = bytes([place.bytes[0] ^ 1]) + place.bytes[1:]
    id = place.upload("other", other)
    upload = place.uploads / id
    done = harness.run(EXAMPLE / "link", place.file, upload, check=False)
    assert done.returncode == 1 and "not equal" in done.stderr
    assert not upload.is_symlink() and upload.read_bytes() == other
    assert [path.name for path in place.uploads.iterdir()] == [id]
    place.delete(id)


def test_the_glance_store_reads_what_glance_serves_from_the_mount(place):
    """Out of one mount, through Glance, into another program."""
    program = harness.BUILD / "imagefs-store-glance"
    if not program.exists():
        pytest.skip("built without the glance store")
    id = register(place, "--name", "through", "--store", "imagefs", place.file)
    done = subprocess.run([program, "read", "--", place.uri, id],
                          input=b"0 %d\n" % len(place.bytes), capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == place.bytes
    place.delete(id)
