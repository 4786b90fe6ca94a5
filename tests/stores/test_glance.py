# SPDX-License-Identifier: MIT
"""The glance store on a real Glance and a real Keystone."""

import contextlib
import errno
import fcntl
import http.server
import json
import os
import random
import socket
import ssl
import struct
import subprocess
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import conformance
import glance_cluster
import harness

PROGRAM = harness.BUILD / "imagefs-store-glance"
LIMIT = 100
MIB = 1 << 20
USAGE, GONE, UNAVAILABLE, IO, AGAIN, DENIED = 64, 66, 69, 74, 75, 77

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="built without the glance store"),
    pytest.mark.skipif(bool(glance_cluster.missing()), reason=str(glance_cluster.missing())),
]


def data_of(number, size):
    return random.Random(number).randbytes(size)


BIG = data_of(1, 9 * MIB + 12345)
SMALL = data_of(2, 5000)


@pytest.fixture(scope="module")
def glance():
    """A Glance without a login.  Tests add images to it, of names of their own."""
    with glance_cluster.Glance() as running:
        running.big = running.upload("big", BIG)
        running.small = running.upload("small", SMALL)
        yield running


@pytest.fixture(scope="module")
def cloud():
    """A Glance with a Keystone."""
    if glance_cluster.missing_keystone():
        pytest.skip(glance_cluster.missing_keystone())
    with glance_cluster.Keystone() as keystone, glance_cluster.Glance(keystone=keystone) as glance:
        glance.big = glance.upload("big", BIG)
        yield glance


def environment(**more):
    hidden = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith("OS_") and name.lower() not in hidden}  # fmt: skip
    return {**clean, "IMAGEFS_STALL_MS": "30000", "LC_ALL": "C.UTF-8",
            "IMAGEFS_STORE_PROTOCOL": "1", **more}  # fmt: skip


def run(*arguments, stdin=b"", **variables):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], input=stdin, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment(**variables), timeout=LIMIT, check=False)  # fmt: skip


def read(uri, id, *asks, **variables):
    lines = "".join(f"{offset} {length}\n" for offset, length in asks).encode()
    return run("read", "--", uri, id, stdin=lines, **variables)


def listed(uri, **variables):
    done = run("list", "--", uri, **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    return {image["name"]: image for image in map(json.loads, done.stdout.splitlines())}


def fails(done, status, *words):
    assert done.returncode == status, done.stderr
    last = done.stderr.decode().splitlines()[-1]
    for word in words:
        assert word in last


class Reader:
    """A reader that runs while the test does something."""

    def __init__(self, uri, id, **variables):
        self.process = subprocess.Popen(
            [PROGRAM, "read", "--", uri, id], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment(**variables))  # fmt: skip
        self.timer = threading.Timer(LIMIT, self.process.kill)
        self.timer.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.timer.cancel()
        self.process.kill()
        self.process.wait(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def ask(self, offset, length):
        self.process.stdin.write(b"%d %d\n" % (offset, length))
        self.process.stdin.flush()

    def take(self, count):
        return self.process.stdout.read(count)

    def end(self):
        self.process.stdin.close()
        assert self.process.stdout.read() == b""
        return self.process.wait(LIMIT), self.process.stderr.read()


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


def test_names_that_repeat_or_are_odd_or_missing(glance):
    names = ["twice", "twice", "a/b", "..", "tab\tnewline\n", "a\0b", "é", "x~y", "n" * 255]
    ids = [glance.upload(name, b"data") for name in names] + [glance.upload(None, b"data")]
    found = {image["id"]: name for name, image in listed(glance.uri).items()}
    assert found[ids[0]] == "twice~" + ids[0]
    assert found[ids[1]] == "twice~" + ids[1]
    assert [found[id] for id in ids[2:]] == [
        "a/b", "..", "tab\tnewline\n", "a\ufffdb", "é", "x~y", "n" * 255, ids[-1]]
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


def test_a_deactivated_image_is_not_listed_and_not_read(cloud):
    id = cloud.upload("deactivated", SMALL)
    variables = cloud.keystone.environment()
    cloud.ask("POST", f"/v2/images/{id}/actions/deactivate")
    assert id not in {image["id"] for image in listed(cloud.uri, **variables).values()}
    fails(read(cloud.uri, id, (0, 10), **variables), DENIED, "403")
    cloud.ask("POST", f"/v2/images/{id}/actions/reactivate")
    assert read(cloud.uri, id, (0, 10), **variables).stdout == SMALL[:10]
    cloud.delete(id)


def test_5000_images_are_listed(folder):
    with glance_cluster.Glance(folder=folder) as glance:
        ids = glance.add_many(5000)
        glance.upload("image-00007", SMALL)
        found = listed(glance.uri)
        assert len(found) == 5001
        assert set(ids) < {image["id"] for image in found.values()}
        assert {name for name in found if "~" in name} == {
            "image-00007~" + found[name]["id"] for name in found if "~" in name}
        assert len([name for name in found if "~" in name]) == 2
        assert found["image-04999"]["size"] == 4096


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


# ---- with Keystone ----


def env_file(folder, variables):
    path = folder / "glance.env"
    lines = []
    for name, value in variables.items():
        quoted = value.replace("'", "'\\''")
        lines.append(f"export {name}='{quoted}'\n")
    path.write_text("# who reads images\n" + "".join(lines))
    path.chmod(0o600)
    return path


def test_without_a_login_there_is_no_permission(cloud):
    fails(run("list", "--", cloud.uri), DENIED, "401", "OS_USERNAME")
    fails(read(cloud.uri, cloud.big, (0, 1)), DENIED, "401")


def test_a_password_is_enough(cloud):
    variables = cloud.keystone.environment()
    for uri in (cloud.uri, "glance+http:///", "glance:///"):
        assert listed(uri, **variables)["big"]["id"] == cloud.big
        assert read(uri, cloud.big, (0, len(BIG)), **variables).stdout == BIG


def test_an_application_credential_is_enough(cloud):
    id, secret = cloud.keystone.application_credential("one")
    variables = {"OS_AUTH_URL": cloud.keystone.url, "OS_APPLICATION_CREDENTIAL_SECRET": secret}
    by_id = {**variables, "OS_APPLICATION_CREDENTIAL_ID": id}
    by_name = {**variables, "OS_APPLICATION_CREDENTIAL_NAME": "one", "OS_USERNAME": "reader"}
    for each in (by_id, by_name, {**by_id, "OS_AUTH_TYPE": "v3applicationcredential"}):
        assert listed("glance:///", **each)["big"]["id"] == cloud.big


def test_a_token_is_enough(cloud):
    token = cloud.keystone.reader_token()
    assert "big" in listed(cloud.uri, OS_TOKEN=token)
    assert "big" in listed("glance:///", OS_TOKEN=token, OS_AUTH_URL=cloud.keystone.url)
    assert "big" in listed("glance:///", OS_TOKEN=token, OS_ENDPOINT=cloud.url)
    scoped = {"OS_TOKEN": token, "OS_AUTH_URL": cloud.keystone.url, "OS_PROJECT_NAME": "images"}
    assert "big" in listed("glance:///", **scoped)
    fails(run("list", "--", cloud.uri, OS_TOKEN="wrong"), DENIED, "401")


def test_a_wrong_password_is_no_permission_and_nothing_of_it_is_said(cloud):
    variables = {**cloud.keystone.environment(), "OS_PASSWORD": "a-wrong-password"}
    done = run("list", "--", cloud.uri, **variables)
    fails(done, DENIED, "cannot log in", "401")
    assert b"a-wrong-password" not in done.stderr


def test_a_user_without_a_role_is_no_permission(cloud):
    cloud.keystone.create("user", name="stranger", domain_id="default", password="pw")
    variables = {**cloud.keystone.environment(), "OS_USERNAME": "stranger", "OS_PASSWORD": "pw"}
    fails(run("list", "--", cloud.uri, **variables), DENIED, "cannot log in")


def test_the_images_are_those_that_the_user_may_see(cloud):
    private = cloud.upload("private", SMALL, visibility="private")
    variables = cloud.keystone.environment()
    assert "private" not in listed(cloud.uri, **variables)
    fails(read(cloud.uri, private, (0, 1), **variables), GONE, "404")
    cloud.delete(private)


def test_the_region_and_the_interface_choose_the_endpoint(cloud):
    variables = cloud.keystone.environment()
    assert listed("glance:///", OS_REGION_NAME="here", OS_INTERFACE="public", **variables)
    fails(run("list", "--", "glance:///", OS_REGION_NAME="there", **variables), USAGE, "there")
    fails(run("list", "--", "glance:///", OS_INTERFACE="admin", **variables), USAGE, "admin")


def test_a_file_of_variables_is_enough(cloud, folder, mounted):
    path = env_file(folder, cloud.keystone.environment())
    mount = mounted(f"glance+http:///?env={path}", env=environment())
    assert (mount / "big").read_bytes() == BIG


def test_a_token_that_ends_in_the_middle_of_a_copy_is_renewed(cloud):
    with Reader(cloud.uri, cloud.big, **cloud.keystone.environment()) as reader:
        reader.ask(0, MIB)
        assert reader.take(MIB) == BIG[:MIB]
        cloud.keystone.end_all_tokens()
        reader.ask(MIB, len(BIG) - MIB)
        assert reader.take(len(BIG) - MIB) == BIG[MIB:]
        assert reader.end() == (0, b"")


def test_a_token_that_ends_for_good_is_no_permission(cloud):
    token = cloud.keystone.reader_token()
    with Reader(cloud.uri, cloud.big, OS_TOKEN=token) as reader:
        reader.ask(0, 100)
        assert reader.take(100) == BIG[:100]
        cloud.keystone.end_all_tokens()
        reader.ask(100, 100)
        status, said = reader.end()
        assert status == DENIED and b"401" in said
        assert token.encode() not in said


def test_a_token_that_ends_is_not_seen_in_the_mount(cloud, mounted):
    mount = mounted(cloud.uri, env=environment(**cloud.keystone.environment()))
    with open(mount / "big", "rb", buffering=0) as file:
        assert file.read(MIB) == BIG[:MIB]
        cloud.keystone.end_all_tokens()
        assert os.pread(file.fileno(), 100, 8 * MIB) == BIG[8 * MIB : 8 * MIB + 100]
    assert (mount / "big").read_bytes() == BIG


def test_no_secret_is_in_arguments_attributes_or_the_log(cloud, mounted):
    secret = cloud.keystone.password
    mount = mounted(cloud.uri, arguments=["-d"], noisy=True,
                    env=environment(**cloud.keystone.environment()))
    with open(mount / "big", "rb", buffering=0) as file:
        file.read(100)
        for pid in (mount.pid, *mount.children()):
            assert secret not in harness.command_of(pid)
    for name in os.listxattr(mount / "big"):
        assert secret.encode() not in os.getxattr(mount / "big", name)
    mount.end()
    assert secret not in mount.log()


class TlsFront:
    """TLS before a server that has none."""

    def __init__(self, folder, port):
        self.port = port
        self.certificate = folder / "cert.pem"
        key = folder / "key.pem"
        harness.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                    self.certificate, "-days", "2", "-subj", "/CN=glance", "-addext",
                    "subjectAltName=IP:127.0.0.1")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, key)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = "https://127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError):
            with client, self.context.wrap_socket(client, server_side=True) as safe, \
                    socket.create_connection(("127.0.0.1", self.port)) as plain:
                thread = threading.Thread(target=self.copy, args=(plain, safe), daemon=True)
                thread.start()
                self.copy(safe, plain)
                thread.join()

    def copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_glance_with_tls(glance, folder):
    with TlsFront(folder, glance.port) as front:
        uri = "glance+" + front.url
        fails(run("list", "--", uri), UNAVAILABLE, "certificate")
        ca = str(front.certificate)
        assert "big" in listed(uri, OS_CACERT=ca)
        assert read(uri, glance.big, (0, len(BIG)), OS_CACERT=ca).stdout == BIG
        assert read(uri, glance.big, (5, 100), OS_CACERT=ca).stdout == BIG[5:105]




# ---- imagefs verify ----


def verify(*words, **variables):
    done = subprocess.run(
        [harness.IMAGEFS, "verify", "-o", "store_path=" + harness.STORE_PATH, *words],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT,
        env=environment(**variables), check=False)  # fmt: skip
    if b"libcrypto" in done.stderr:
        pytest.skip("imagefs was built without libcrypto")
    head, *rows = done.stdout.decode().splitlines()
    assert head.split() == ["NAME", "SIZE", "HASH", "RESULT"]
    return done.returncode, {row.split()[0]: row for row in rows}


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


def test_images_behind_a_login_are_verified(cloud):
    status, rows = verify("glance:///", "big", **cloud.keystone.environment())
    assert status == 0 and "equal" in rows["big"]
