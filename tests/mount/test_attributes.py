# SPDX-License-Identifier: MIT
"""What stat, xattr and statfs say of an image, and that nothing can be written."""

import errno
import fcntl
import os
import stat
import time

import pytest
from harness import run, wait_until


def errno_of(function, *args):
    with pytest.raises(OSError) as caught:
        function(*args)
    return caught.value.errno


def test_times_blocks_and_modes_are_those_of_the_store(fake, mounted):
    fake.image("thin", 10 << 30, allocated=1 << 20, mtime=1234567890)
    fake.image("unknown", 1025)
    fake.image("thick", 512, allocated=1 << 30)
    mount = mounted(fake.uri)
    thin, unknown = os.stat(mount / "thin"), os.stat(mount / "unknown")
    assert thin.st_blocks == (1 << 20) // 512
    assert unknown.st_blocks == 3  # of the size: not known to be less
    assert os.stat(mount / "thick").st_blocks == (1 << 30) // 512
    assert (thin.st_mtime, thin.st_ctime) == (1234567890, 1234567890)
    for status in (thin, unknown):
        assert status.st_blksize == 1 << 20
        assert status.st_mode == stat.S_IFREG | 0o444
        assert status.st_nlink == 1
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    folder = os.stat(mount.path)
    assert folder.st_mode == stat.S_IFDIR | 0o555


@pytest.mark.parametrize("mtime,expected", [
    (0, 0), (1.5, 1500000000), (-1.5, -1500000000), (4102444800.25, 4102444800250000000),
])
def test_a_time_keeps_its_fraction(fake, mounted, mtime, expected):
    fake.image("a", 1, mtime=mtime)
    assert abs(os.stat(mounted(fake.uri) / "a").st_mtime_ns - expected) < 1000


def test_an_inode_is_the_same_for_ever(fake, mounted):
    for name in ("a", "b", "c"):
        fake.image(name, 10)
    with mounted(fake.uri, "ttl=0") as mount:
        before = {name: os.stat(mount / name).st_ino for name in os.listdir(mount.path)}
        fake.image("0", 10)
        fake.image("aa", 10)
        wait_until(lambda: len(os.listdir(mount.path)) == 5, "the list has changed")
        after = {name: os.stat(mount / name).st_ino for name in os.listdir(mount.path)}
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 5
    again = mounted(fake.uri)
    assert {name: os.stat(again / name).st_ino for name in os.listdir(again.path)} == after


def test_an_inode_is_kept_when_only_what_is_known_of_it_changes(fake, mounted):
    fake.image("a", 10, mtime=5)
    mount = mounted(fake.uri, "ttl=0")
    before = os.stat(mount / "a")
    fake.image("a", 10, mtime=6)
    wait_until(lambda: os.stat(mount / "a").st_mtime == 6, "the new time is seen")
    assert os.stat(mount / "a").st_ino == before.st_ino


def test_extended_attributes(fake, mounted):
    fake.image("a", 10, id="pool/7@x", attrs={"disk_format": "raw", "owner.id": "gr\u00fcn"})
    mount = mounted(fake.uri)
    path = mount / "a"
    assert sorted(os.listxattr(path)) == [
        "user.imagefs.disk_format", "user.imagefs.id", "user.imagefs.owner.id",
        "user.imagefs.store"]
    assert os.getxattr(path, "user.imagefs.id") == b"pool/7@x"
    assert os.getxattr(path, "user.imagefs.store") == fake.uri.encode()
    assert os.getxattr(path, "user.imagefs.disk_format") == b"raw"
    assert os.getxattr(path, "user.imagefs.owner.id") == "gr\u00fcn".encode()
    for name in ("user.imagefs.error", "user.imagefs.none", "user.imagefs.", "user.id",
                 "security.capability", "trusted.x"):
        assert errno_of(os.getxattr, path, name) in (errno.ENODATA, errno.EOPNOTSUPP)
    assert os.listxattr(mount.path) == []


def test_a_stores_attribute_takes_no_name_of_ours(fake, mounted):
    fake.image("a", 10, id="real", attrs={"id": "false", "store": "false", "error": "false"})
    path = mounted(fake.uri) / "a"
    assert os.getxattr(path, "user.imagefs.id") == b"real"
    assert os.getxattr(path, "user.imagefs.store") == fake.uri.encode()
    assert len(os.listxattr(path)) == len(set(os.listxattr(path)))
    for name in os.listxattr(path):
        assert os.getxattr(path, name) != b"false"


def test_large_attributes_are_whole(fake, mounted):
    attrs = {"key%d" % n: "x" * 1000 for n in range(60)}
    fake.image("a", 10, id="i" * 4096, attrs=attrs)
    path = mounted(fake.uri) / "a"
    assert os.getxattr(path, "user.imagefs.id") == b"i" * 4096
    assert len(os.listxattr(path)) == 62
    assert all(os.getxattr(path, "user.imagefs." + key) == b"x" * 1000 for key in attrs)


def test_getfattr_shows_them(fake, mounted):
    fake.image("a", 10)
    mount = mounted(fake.uri)
    text = run("getfattr", "-d", "a", cwd=mount.path).stdout
    assert 'user.imagefs.id="id-a"' in text


def test_nothing_can_be_written(fake, mounted):
    image = fake.image("a", 1000)
    mount = mounted(fake.uri)
    path, new = mount / "a", mount / "new"
    calls = [
        (os.open, path, os.O_WRONLY), (os.open, path, os.O_RDWR),
        (os.open, path, os.O_RDONLY | os.O_TRUNC), (os.open, path, os.O_WRONLY | os.O_APPEND),
        (os.open, new, os.O_RDWR | os.O_CREAT), (os.truncate, path, 5), (os.unlink, path),
        (os.rename, path, new), (os.link, path, new), (os.symlink, "x", new), (os.mkdir, new),
        (os.rmdir, path), (os.mkfifo, new), (os.mknod, new), (os.chmod, path, 0o600),
        (os.chown, path, 1, 1), (os.utime, path), (os.setxattr, path, "user.x", b"1"),
        (os.removexattr, path, "user.imagefs.id"),
        (os.chmod, mount.path, 0o700), (os.setxattr, mount.path, "user.x", b"1"),
        (os.open, mount.path, os.O_RDWR | os.O_TMPFILE),
    ]
    for function, *args in calls:
        got = errno_of(function, *args)
        allowed = {errno.EROFS}
        if function in (os.rmdir,) or args[0] == mount.path and function is os.open:
            allowed |= {errno.ENOTDIR, errno.EISDIR}
        assert got in allowed, "%s%s: %s" % (function.__name__, args, errno.errorcode[got])
    with open(path, "rb") as file:
        with pytest.raises(OSError):
            os.write(file.fileno(), b"x")
        with pytest.raises(OSError):
            os.ftruncate(file.fileno(), 1)
        with pytest.raises(OSError):
            os.posix_fallocate(file.fileno(), 0, 10)
    assert path.read_bytes() == image.bytes(0, 1000)
    assert os.listdir(mount.path) == ["a"]


def test_access_is_as_the_modes_say(fake, mounted):
    fake.image("a", 10)
    path = mounted(fake.uri, "default_permissions") / "a"
    assert os.access(path, os.R_OK)
    assert not os.access(path, os.W_OK)
    assert not os.access(path, os.X_OK)


def test_statfs(fake, mounted):
    fake.image("a", 1 << 30, allocated=1 << 20)
    fake.image("b", 1 << 20)
    mount = mounted(fake.uri)
    fs = os.statvfs(mount.path)
    assert fs.f_blocks * fs.f_frsize == 2 << 20
    assert (fs.f_bfree, fs.f_bavail, fs.f_files, fs.f_namemax) == (0, 0, 2, 255)
    assert fs.f_flag & os.ST_RDONLY
    assert "2.0M" in run("df", "-h", mount.path).stdout


def test_reading_changes_no_time(fake, mounted):
    fake.image("a", 100000, mtime=1000)
    mount = mounted(fake.uri)
    before = os.stat(mount / "a")
    (mount / "a").read_bytes()
    after = os.stat(mount / "a")
    assert (before.st_atime_ns, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns)
    assert abs(os.stat(mount.path).st_mtime - time.time()) < 3600


def test_locks_and_fsync_work_as_on_any_file(fake, mounted):
    fake.image("a", 100)
    with open(mounted(fake.uri) / "a", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        fcntl.flock(file, fcntl.LOCK_UN)
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
