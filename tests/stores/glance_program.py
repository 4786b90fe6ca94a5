# SPDX-License-Identifier: MIT
"""The glance store's program, and imagefs verify with it, as tests run them."""

import contextlib
import json
import os
import random
import socket
import ssl
import subprocess
import threading

import pytest

import harness

PROGRAM = harness.BUILD / "imagefs-store-glance"
LIMIT = 100
MIB = 1 << 20
USAGE, GONE, UNAVAILABLE, IO, AGAIN, DENIED = 64, 66, 69, 74, 75, 77


def data_of(number, size):
    return random.Random(number).randbytes(size)


BIG = data_of(1, 9 * MIB + 12345)
SMALL = data_of(2, 5000)


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
