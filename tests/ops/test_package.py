# SPDX-License-Identifier: MIT
"""Packages: built from the tree, installed into a Debian that has nothing else, used, removed;
and what "meson install" puts where."""

import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
from harness import BUILD, SOURCE, run

PACK = SOURCE / "examples/packaging/build"
MIRROR = os.environ.get("IMAGEFS_TEST_MIRROR", "http://deb.debian.org/debian")
needs_root = pytest.mark.skipif(os.geteuid() or not os.path.exists("/dev/fuse"),
                                reason="not root, or no /dev/fuse")


def needs(*programs):
    missing = [name for name in programs if not shutil.which(name, path="/usr/sbin:" + os.environ["PATH"])]
    return pytest.mark.skipif(bool(missing), reason="not here: " + ", ".join(missing))


def build(folder):
    """{package: path} of what is built."""
    missing = subprocess.run(["dpkg-checkbuilddeps", SOURCE / "examples/packaging/debian/control"],
                             capture_output=True, text=True, timeout=60)
    if missing.returncode:
        pytest.skip(missing.stderr.strip())
    run(PACK, folder, limit=600, env={**os.environ, "DEB_BUILD_OPTIONS": "parallel=2 noautodbgsym"})
    return {path.name.split("_")[0]: path for path in folder.glob("*.deb")}


def files_of(package):
    return {line.split(None, 5)[5][1:] for line in run("dpkg-deb", "-c", package).stdout.splitlines()
            if not line.endswith("/")}


# In a name space of mounts of its own: a root folder with the devices that imagefs needs.
ENTER = """
cd "$1"
mount -t proc proc proc
mount -t tmpfs tmpfs dev
mknod -m 666 dev/null c 1 3; mknod -m 666 dev/fuse c 10 229; mknod -m 666 dev/urandom c 1 9
ln -s /proc/self/fd dev/fd
cat /etc/resolv.conf >etc/resolv.conf 2>/dev/null || true
exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive bash -euc "$2"
"""


def inside(root, script, **keys):
    return run("unshare", "--mount", "--pid", "--fork", "--propagation", "private", "bash", "-euc",
               ENTER, "-", root, script, limit=300, **keys)


USE = """
cd /root
mkdir images mnt
head -c 5M /dev/urandom >images/disk.raw
imagefs list images | grep -q '^disk.raw .* 5.0M '
imagefs images mnt
cmp images/disk.raw mnt/disk.raw
imagefs stats mnt | grep -q '^disk.raw  *5.0M'
umount mnt
mount -t fuse.imagefs /root/images mnt
cmp images/disk.raw mnt/disk.raw
umount mnt
! imagefs list rbd://pool/ 2>said
grep -q "no store program for the scheme 'rbd'" said
"""


# The others, with what they depend on: each is found, and says what is missing then.
MORE = """
apt-get update -qq
apt-get install -qq -y --no-install-recommends /imagefs-rbd_*.deb /imagefs-glance_*.deb >/dev/null 2>&1
! imagefs list rbd://pool/ 2>said
grep -q ceph.conf said
! imagefs list glance+http://127.0.0.1:1/ 2>said
grep -q 127.0.0.1 said
test -f /usr/share/man/man7/imagefs-rbd.7.gz -a -f /usr/share/man/man7/imagefs-glance.7.gz
apt-get purge -qq -y imagefs-rbd imagefs-glance >/dev/null 2>&1
! imagefs list rbd://pool/ 2>said
grep -q "no store program for the scheme 'rbd'" said
"""


@needs_root
@needs("dpkg-buildpackage", "dh", "debootstrap")
@pytest.mark.limit(900)
def test_packages_are_installed_used_and_removed(folder):
    packages = build(folder / "packages")
    assert set(packages) == {"imagefs", "imagefs-rbd", "imagefs-glance"}

    # What is in which, and what it needs.
    files = {name: files_of(path) for name, path in packages.items()}
    assert {"/usr/bin/imagefs", "/usr/libexec/imagefs/imagefs-store-dir",
            "/usr/share/man/man1/imagefs.1.gz", "/lib/systemd/system/imagefs@.service",
            "/usr/share/bash-completion/completions/imagefs",
            "/usr/share/zsh/vendor-completions/_imagefs"} <= files["imagefs"]
    assert "/usr/libexec/imagefs/imagefs-store-rbd" in files["imagefs-rbd"]
    assert "/usr/libexec/imagefs/imagefs-store-glance" in files["imagefs-glance"]
    everything = set().union(*files.values())
    for page in (SOURCE / "src").glob("*.rst"):
        assert "/usr/share/man/man%s/%s.gz" % (page.stem[-1], page.stem) in everything, page
    depends = {name: re.sub(r" \([^)]*\)", "", run("dpkg-deb", "-f", path, "Depends").stdout.strip())
               for name, path in packages.items()}
    assert set(depends["imagefs"].split(", ")) == {"fuse3", "libc6", "libfuse3-3", "libjansson4",
                                                   "libssl3", "libsystemd0"}
    assert {"imagefs", "librbd1"} < set(depends["imagefs-rbd"].split(", "))
    assert {"imagefs", "libcurl4"} < set(depends["imagefs-glance"].split(", "))
    if shutil.which("lintian"):
        (changes,) = (folder / "packages").glob("*.changes")
        done = run("lintian", "--fail-on", "error,warning", changes, limit=300, check=False)
        assert done.returncode == 0, done.stdout

    # A Debian that has what the base depends on, and nothing else.
    root = folder / "root"
    done = run("debootstrap", "--variant=minbase", "--include=fuse3,libjansson4,libssl3", "bookworm",
               root, MIRROR, limit=400, check=False)
    if done.returncode:
        pytest.skip("debootstrap: " + done.stdout[-300:] + done.stderr[-300:])
    for package in packages.values():
        shutil.copy(package, root)
    inside(root, "dpkg -i /imagefs_*.deb")
    inside(root, USE)
    if os.environ.get("IMAGEFS_TEST_ALL"):
        inside(root, MORE)
    done = inside(root, "dpkg -P imagefs; cat /var/lib/dpkg/status; "
                        "find / -xdev -name '*imagefs*' ! -path '/proc/*'")
    assert "Package: imagefs" not in done.stdout
    # The name of the package in dpkg's own log is not a file.
    left = re.findall(r"(?m)^/.*imagefs.*$", done.stdout)
    assert sorted(left) == sorted("/" + package.name for package in packages.values())


@needs("dpkg-buildpackage", "dh")
@pytest.mark.limit(600)
@pytest.mark.skipif(not os.environ.get("IMAGEFS_TEST_ALL"), reason="takes two builds: IMAGEFS_TEST_ALL=1")
def test_packages_are_the_same_each_time(folder):
    sums = [{name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in
             build(folder / where).items()} for where in ("here", "there/and/elsewhere")]
    assert sums[0] == sums[1] and len(sums[0]) == 3


@needs("dpkg-parsechangelog")
def test_packages_are_not_built_in_the_tree():
    for folder in (SOURCE, SOURCE / "examples/packages"):
        done = run(PACK, folder, check=False)
        assert done.returncode == 2 and "outside of the tree" in done.stderr
    assert not (SOURCE / "examples/packages").exists()


# ---- meson install ----

def test_an_installation_goes_where_it_is_told(folder):
    """Into DESTDIR, below the prefix, and runs there."""
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", folder / "dest",
        limit=180)
    options = {option["name"]: option["value"] for option in
               json.loads(run("meson", "introspect", "--buildoptions", BUILD).stdout)}
    prefix = options["prefix"]
    assert os.listdir(folder / "dest") == [prefix.split("/")[1]]
    dest = folder / "dest" / prefix.lstrip("/")
    assert os.access(dest / "bin/imagefs", os.X_OK)
    assert os.access(dest / options["libexecdir"] / "imagefs/imagefs-store-dir", os.X_OK)
    if shutil.which("rst2man"):
        assert (dest / options["mandir"] / "man1/imagefs.1").exists()
    if os.geteuid():
        pytest.skip("not root: it cannot be put where it will be")
    (folder / "images").mkdir()
    (folder / "images/a").write_bytes(b"content")
    done = run("unshare", "--mount", "--propagation", "private", "bash", "-euc",
               'mount --bind "$1$2" "$2"; "$2/bin/imagefs" list "$3"', "-", folder / "dest", prefix,
               folder / "images")
    assert re.search(r"(?m)^a +7 ", done.stdout)


def test_another_prefix_is_known_everywhere(folder):
    run("meson", "setup", folder / "build", SOURCE, "--prefix=/opt/imagefs", "-Dtests=false",
        "-Dglance=disabled", "-Drbd=disabled", "-Dverify=disabled", limit=180)
    placed = json.loads(run("meson", "introspect", "--installed", folder / "build").stdout)
    assert len(placed) > 5
    for where in placed.values():
        assert where.startswith("/opt/imagefs/"), where
    compiled = json.loads((folder / "build/compile_commands.json").read_text())
    assert any("/opt/imagefs/libexec/imagefs" in entry["command"] for entry in compiled)
    unit = folder / "build/imagefs@.service"
    if unit.exists():
        assert "ExecStart=/opt/imagefs/bin/imagefs " in unit.read_text()
