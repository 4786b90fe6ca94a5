# SPDX-License-Identifier: MIT
"""The examples do what they say."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from harness import BUILD, IMAGEFS, LIMIT, SOURCE, STORE_PATH, run, wait_until

sys.path.insert(0, str(SOURCE / "tests/stores"))

import conformance

EXAMPLES = SOURCE / "examples"
STORES = EXAMPLES / "stores"
MIB = 1 << 20


def needs(*programs):
    missing = [name for name in programs if not shutil.which(name, path="/usr/sbin:" + os.environ["PATH"])]
    return pytest.mark.skipif(bool(missing), reason="not here: " + ", ".join(missing))


def check_conformance(program, uri, not_applicable):
    """All rules are kept, and those that cannot be tried are the ones that are expected."""
    results = list(conformance.check(str(STORES / program), uri))
    wrong = ["%s: %s" % (name, why) for name, _, verdict, why in results if verdict == "wrong"]
    assert not wrong, "\n".join(wrong)
    untried = {name for name, _, verdict, _ in results if verdict == "n/a"}
    assert untried <= set(not_applicable), untried


def write_images(folder):
    """A few images in a folder; their contents."""
    contents = {
        "disk one.raw": os.urandom(5 * MIB + 77),
        "empty.raw": b"",
        "zeros+end_2.raw": bytes(3 * MIB) + b"end",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return contents


def check_mount(mount, contents):
    """The files of a mount are these."""
    assert sorted(os.listdir(mount.path)) == sorted(contents)
    for name, data in contents.items():
        assert (mount / name).stat().st_size == len(data)
        assert (mount / name).read_bytes() == data
    with open(mount / "disk one.raw", "rb") as file:
        for offset in (4 * MIB, 100, 3 * MIB + 5):
            assert os.pread(file.fileno(), 5000, offset) == contents["disk one.raw"][offset:][:5000]


EXTENTS = {name for name, text, _ in conformance.RULES if text.startswith("extents: ")}


# ---- the first steps ----

@needs("meson", "ninja", "gcc", "qemu-img")
@pytest.mark.skipif(bool(os.geteuid()), reason="not root: packages may be missing")
@pytest.mark.limit(600)
def test_the_quickstart_comes_from_nothing_to_a_copied_image(folder):
    """In a copy of the tree, as it builds in it."""
    run("sh", "-euc", 'tar -C "$0" -c --exclude="./build*" --exclude=./.git --exclude=__pycache__ . | '
        'tar -C "$1" -x', SOURCE, folder)
    done = run(folder / "examples/quickstart.sh", "64M", cwd="/", limit=500,
               env={**os.environ, "TMPDIR": str(folder)})
    assert "$ cmp images/random.raw copy.raw" in done.stdout
    assert "Images are identical." in done.stdout
    assert re.search(r"(?m)^dd if=mnt/random.raw .* [0-9]+ MB/s$", done.stdout)
    assert not [name for name in os.listdir(folder) if name.startswith("imagefs-quickstart")]
    # What it names at the end is there, and was installed with a prefix of its own.
    program = re.search(r"^PATH=([^:]+):\$PATH; imagefs ", done.stdout.splitlines()[-1])[1] + "/imagefs"
    assert run(program, "--version").stdout.startswith("imagefs ")
    # One command more, and a store is mounted.
    (folder / "own").mkdir()
    (folder / "own/a").write_bytes(b"content")
    run(folder / "examples/quickstart.sh", folder / "own", folder / "mnt", limit=500)
    try:
        assert (folder / "mnt/a").read_bytes() == b"content"
    finally:
        run("umount", folder / "mnt")
    # And one that has to be built with a library.
    if os.path.exists("/usr/include/curl/curl.h") or \
            os.path.exists("/usr/include/x86_64-linux-gnu/curl/curl.h"):
        done = run(folder / "examples/quickstart.sh", "glance+http://127.0.0.1:1/", folder / "mnt",
                   limit=500, check=False)
        assert done.returncode == 1 and "imagefs-store-glance, status 69" in done.stderr


# ---- a store over ssh: a server of its own ----

@pytest.fixture
def ssh(folder):
    """$IMAGEFS_SSH for a server that lets us in."""
    for name in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        "Port {0}\nListenAddress 127.0.0.1\nHostKey {1}/host\nAuthorizedKeysFile {1}/authorized\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxSessions 100\n"
        "MaxStartups 100\nUseDNS no\n".format(port, folder))
    (folder / "known").write_text("[127.0.0.1]:%d %s" % (port, (folder / "host.pub").read_text()))
    os.makedirs("/run/sshd", exist_ok=True)
    with open(folder / "sshd.log", "wb") as log:
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"],
                                  stdin=subprocess.DEVNULL, stderr=log, stdout=log)
    command = ("ssh -p %d -i %s/user -o BatchMode=yes -o UserKnownHostsFile=%s/known -F none"
               % (port, folder, folder))
    try:
        wait_until(lambda: b"listening" in (folder / "sshd.log").read_bytes(), "sshd listens")
        assert run(*command.split(), getpass.getuser() + "@127.0.0.1", "echo in").stdout == "in\n"
        yield command
    finally:
        server.terminate()
        server.wait(LIMIT)


@needs("sshd", "ssh-keygen")
@pytest.mark.limit(300)
def test_the_store_over_ssh_keeps_the_rules(ssh, images, monkeypatch):
    write_images(images)
    monkeypatch.setenv("IMAGEFS_SSH", ssh)
    check_conformance("imagefs-store-ssh", "ssh://127.0.0.1%s" % images, EXTENTS)


@needs("sshd", "ssh-keygen")
def test_the_store_over_ssh_is_mounted(ssh, images, mounted):
    contents = write_images(images)
    (images / "left $out").write_bytes(b"x")
    mount = mounted("ssh://%s@127.0.0.1%s" % (getpass.getuser(), images),
                    store_path=str(STORES), env={**os.environ, "IMAGEFS_SSH": ssh})
    check_mount(mount, contents)
    with open(mount / "disk one.raw", "rb") as file:
        (images / "disk one.raw").write_bytes(b"new")
        with pytest.raises(OSError, match="Stale"):
            os.pread(file.fileno(), 1000, 5 * MIB - 5000)
        mount.expect("imagefs: disk one.raw: .*status 66")


def test_a_server_that_is_not_there_is_unavailable(folder):
    (folder / "ssh").write_text("#!/bin/sh\necho away >&2; exit 255\n")
    (folder / "ssh").chmod(0o755)
    done = run(STORES / "imagefs-store-ssh", "list", "--", "ssh://127.0.0.1/tmp", check=False,
               env={**os.environ, "IMAGEFS_SSH": "%s/ssh" % folder})
    assert (done.returncode, done.stdout) == (69, "")


@pytest.mark.parametrize("uri", ["ssh://host/a'b", "ssh://host/$(id)", "ssh://-oProxyCommand=x/a",
                                 "ssh:///a", "ssh://host", "ssh://h;id/a"])
def test_a_uri_is_no_command(uri, folder):
    done = run(STORES / "imagefs-store-ssh", "list", "--", uri, check=False,
               env={**os.environ, "IMAGEFS_SSH": "touch %s/run" % folder})
    assert done.returncode == 64 and not (folder / "run").exists()


# ---- a store of compressed images ----

def compress(folder, contents):
    for name, data in contents.items():
        run("zstd", "-q", "--rm", "-T1", "-f", folder / name)


@needs("zstd")
@pytest.mark.limit(300)
def test_the_store_of_compressed_images_keeps_the_rules(images):
    compress(images, write_images(images))
    check_conformance("imagefs-store-zstd", "zstd://%s" % images, EXTENTS)


@needs("zstd")
def test_the_store_of_compressed_images_is_mounted(images, mounted):
    contents = write_images(images)
    compress(images, contents)
    mount = mounted("zstd://%s" % images, store_path=str(STORES))
    check_mount(mount, contents)


@needs("zstd")
def test_a_compressed_image_that_is_damaged_is_an_error(images, mounted):
    contents = write_images(images)
    compress(images, contents)
    path = images / "disk one.raw.zst"
    data = bytearray(path.read_bytes())
    data[3 * MIB] ^= 1
    path.write_bytes(data)
    mount = mounted("zstd://%s" % images, store_path=str(STORES), noisy=True)
    with pytest.raises(OSError):
        (mount / "disk one.raw").read_bytes()
    assert re.search(r"status 65 at byte \d+: it cannot be decompressed", mount.log())


@needs("zstd")
def test_a_compressed_image_of_any_name_is_listed(images):
    names = [b'a "b" \\c', b"\xff\x01", "\u00fc".encode(), b"-n"]
    for name in names:
        path = os.path.join(os.fsencode(images), name)
        with open(path, "wb") as file:
            file.write(b"content")
        run("zstd", "-q", "--rm", "--", path)
    with subprocess.Popen(["zstd", "-q", "-o", images / "streamed.zst"], stdin=subprocess.PIPE) as piped:
        piped.stdin.write(b"no size is written")
    done = run(STORES / "imagefs-store-zstd", "list", "--", "zstd://%s" % images)
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(bytes.fromhex(image["name_hex"]) for image in listed) == sorted(names)
    assert all(image["size"] == 7 for image in listed)
    assert "streamed.zst: its size is not told" in done.stderr


# ---- copying ----

def test_a_copy_is_whole_and_has_holes(fake, mounted, folder):
    image = fake.image("disk.raw", 40 * MIB + 5, extents=[(MIB, 3 * MIB), (40 * MIB, 5)],
                       allocated=3 * MIB)
    fake.image("empty", 0)
    fake.image("zeros", 9 * MIB, extents=[], allocated=0)
    mount = mounted(fake.uri)
    done = run(EXAMPLES / "copy-image", mount / "disk.raw", folder / "copy")
    assert "bytes" in done.stderr
    assert (folder / "copy").read_bytes() == image.bytes(0, image.size)
    assert os.stat(folder / "copy").st_blocks * 512 < 16 * MIB
    run(EXAMPLES / "copy-image", mount / "empty", folder)
    assert (folder / "empty").read_bytes() == b""
    run(EXAMPLES / "copy-image", mount / "zeros", folder / "zeros")
    assert (folder / "zeros").read_bytes() == bytes(9 * MIB)
    assert not list(folder.glob("*.part.*"))


def test_a_copy_that_fails_is_not_there_and_goes_on_later(fake, mounted, folder):
    image = fake.image("a", 30 * MIB)
    fake.fault(image, "at=%d exit=77" % (20 * MIB))
    mount = mounted(fake.uri, noisy=True)
    assert run(EXAMPLES / "copy-image", mount / "a", folder / "copy", check=False).returncode == 1
    assert not (folder / "copy").exists()
    (part,) = folder.glob("copy.part.*")
    copied = part.stat().st_size
    assert 0 < copied <= 20 * MIB and part.read_bytes() == image.bytes(0, copied)
    fake.fault(image)
    done = run(EXAMPLES / "copy-image", mount / "a", folder / "copy")
    assert re.search(r"(?m)^%d bytes" % (30 * MIB - copied), done.stderr)
    assert (folder / "copy").read_bytes() == image.bytes(0, image.size)
    assert not list(folder.glob("*.part.*"))


def test_a_copy_is_never_of_two_versions(fake, mounted, folder):
    old = fake.image("a", 30 * MIB, id="old")
    fake.fault(old, "at=%d say=there until=go stderr=gone exit=66" % (20 * MIB))
    mount = mounted(fake.uri, "ttl=0", noisy=True)
    copying = subprocess.Popen([EXAMPLES / "copy-image", mount / "a", folder / "copy"],
                               stderr=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"})
    wait_until(lambda: fake.marked("there"), "it is under way")
    fake.remove(old)
    new = fake.image("a", 10 * MIB, id="new")
    fake.mark("go")
    assert "Stale file handle" in copying.communicate(timeout=LIMIT)[1]
    assert copying.returncode == 1

    def copied():
        # The kernel remembers for a second what the name meant.
        return not run(EXAMPLES / "copy-image", mount / "a", folder / "copy",
                       check=False).returncode

    wait_until(copied, "the new version is copied")
    assert (folder / "copy").read_bytes() == new.bytes(0, new.size)
    assert not list(folder.glob("*.part.*"))


# ---- machines ----

@needs("qemu-img", "qemu-io")
def test_overlays_share_an_image_and_leave_it_alone(images, mounted, folder):
    data = os.urandom(8 * MIB)
    (images / "base.raw").write_bytes(data)
    mount = mounted(images)
    said = run(EXAMPLES / "qemu/overlays", mount / "base.raw", folder, "one", "two").stdout
    one, two = said.split()
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x55 1M 64k", one)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x66 3M 64k", two)
    for disk, offset, byte in [(one, MIB, b"\x55"), (two, 3 * MIB, b"\x66")]:
        run("qemu-img", "convert", "-O", "raw", disk, folder / "whole")
        assert (folder / "whole").read_bytes() == data[:offset] + byte * 65536 + data[offset + 65536:]
        assert os.stat(disk).st_size < 2 * MIB
    assert (images / "base.raw").read_bytes() == data == (mount / "base.raw").read_bytes()


@needs("qemu-system-x86_64")
def test_two_machines_run_from_one_image(images, mounted, folder):
    (images / "base.raw").write_bytes(os.urandom(2 * MIB))
    mount = mounted(images)
    disks = run(EXAMPLES / "qemu/overlays", mount / "base.raw", folder, "one", "two").stdout.split()
    machines = [subprocess.Popen(
        ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S",
         "-drive", "if=none,format=qcow2,file=" + disk, "-qmp", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for disk in disks]
    try:
        for machine in machines:
            assert "QMP" in machine.stdout.readline(), machine.stderr.read()
            machine.stdin.write('{"execute": "qmp_capabilities"}{"execute": "query-block"}\n')
            machine.stdin.flush()
            machine.stdout.readline()
            (drive,) = json.loads(machine.stdout.readline())["return"]
            assert drive["inserted"]["backing_file_depth"] == 1
    finally:
        for machine in machines:
            machine.kill()
            machine.communicate()


@needs("qemu-img", "qemu-io")
def test_an_overlay_is_not_of_another_image_than_it_was(images, mounted, folder):
    (images / "base.raw").write_bytes(os.urandom(2 * MIB))
    mount = mounted(images, "ttl=0", noisy=True)
    overlay = run(EXAMPLES / "qemu/overlays", mount / "base.raw", folder, "one").stdout.strip()
    run("qemu-io", "-f", "qcow2", "-c", "read 0 64k", overlay)
    (images / ".new").write_bytes(os.urandom(2 * MIB))
    (images / ".new").rename(images / "base.raw")
    wait_until(lambda: run("qemu-io", "-f", "qcow2", "-c", "read 0 64k", overlay,
                           check=False).returncode, "it is not opened any more")


def test_overlays_are_only_made_of_images_of_a_mount(folder):
    (folder / "a").write_bytes(b"x")
    done = run(EXAMPLES / "qemu/overlays", folder / "a", folder, "one", check=False)
    assert done.returncode == 1 and "not in a mount of imagefs" in done.stderr


# ---- SMB ----

@needs("smbd", "smbclient")
def test_a_mount_is_exported_by_samba(fake, mounted, folder):
    image = fake.image("disk one.raw", 20 * MIB + 7)
    mount = mounted(fake.uri, "allow_other", "immutable")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = (EXAMPLES / "samba/smb.conf").read_text().replace("/mnt/images", str(mount.path))
    own = "[global]\ninterfaces = lo\nbind interfaces only = yes\nlog file = %s/log\n" % folder
    for name in ("private dir", "lock directory", "state directory", "cache directory",
                 "pid directory", "ncalrpc dir"):
        own += "%s = %s/smb\n" % (name, folder)
    (folder / "smb").mkdir()
    (folder / "smb.conf").write_text(text + own)
    with open(folder / "smbd.log", "wb") as log:
        server = subprocess.Popen(["smbd", "-F", "--no-process-group", "-p", str(port), "-s",
                                   folder / "smb.conf"], stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=log, start_new_session=True)  # it ends its group

    def client(command, check=True):
        return run("smbclient", "-N", "-s", folder / "smb.conf", "-p", str(port),
                   "//127.0.0.1/images", "-c", command, cwd=folder, check=check, limit=LIMIT)

    try:
        wait_until(lambda: client("ls", check=False).returncode == 0, "smbd serves")
        assert re.search(r"disk one\.raw +\S* +%d " % image.size, client("ls").stdout)
        client('get "disk one.raw" copy')
        assert (folder / "copy").read_bytes() == image.bytes(0, image.size)
        done = client('put copy new', check=False)
        assert "NT_STATUS_" in done.stdout + done.stderr
        assert os.listdir(mount.path) == ["disk one.raw"]
    finally:
        server.terminate()
        server.wait(LIMIT)


# ---- what tells of them ----

def test_the_readme_of_the_examples_has_each_of_them():
    text = (EXAMPLES / "README.md").read_text()
    rows = re.findall(r"(?m)^\| [^|]+ \| ([^|]+) \| ([^|]+) \|$", text)
    named = {re.match("`([^ `]+)", where)[1].rstrip("/") for where, _ in rows if where.startswith("`")}
    there = set()
    for path in EXAMPLES.iterdir():
        inside = [p for p in path.rglob("*")] if path.is_dir() else []
        if path.name != "README.md":
            there.add(path.name if not path.is_dir() else path.name)
    assert {name.split("/")[0] for name in named} == there
    assert all((EXAMPLES / name).exists() for name in named)
    for test in re.findall(r"`(tests/[^`]+)`", text):
        assert (SOURCE / test).exists(), test
    for store in STORES.iterdir():
        assert "stores/" + store.name in named


def test_the_readme_is_true_to_the_program():
    text = (SOURCE / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for path in re.findall(r"\b((?:examples|include|tests|src)/[\w./-]*\w)", text):
        assert (SOURCE / path).exists(), path
    help_text = run(IMAGEFS, "--help").stdout
    for line in re.findall(r"(?m)^imagefs ([a-z]+ )?[A-Z]+.*?  +#", text):
        assert "imagefs " + line in help_text
    for option in re.findall(r"--[a-z]+", " ".join(re.findall(r"(?m)^imagefs .*", text))):
        assert option in help_text
    for page in re.findall(r"`man ([\w-]+)`", text):
        assert list((SOURCE / "src").glob(page + ".[17].rst")), page
    # The schemes of the table are those of programs that are here.
    schemes = set(re.findall(r"`([a-z]+)(?:\+https)?://", text))
    known = {p.stem for p in (SOURCE / "src/stores").iterdir() if "_" not in p.stem} - {"serve"}
    assert schemes == known
    for name in re.findall(r"(?m)^option\('(\w+)', type : 'feature'", (SOURCE / "meson_options.txt").read_text()):
        what = {"man": "docutils", "systemd": "libsystemd", "rbd": "librbd", "glance": "libcurl",
                "verify": "OpenSSL", "fuzz": ""}[name]
        assert what in text
