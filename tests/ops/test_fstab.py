# SPDX-License-Identifier: MIT
"""Mounting by mount(8), from an fstab, in a name space of mounts of its own."""

import os
import re

import pytest
from harness import IMAGEFS, STORE_PATH, run

pytestmark = pytest.mark.skipif(not os.path.exists("/sbin/mount.fuse3") or os.geteuid(),
                                reason="no mount.fuse3 here, or not root")

# mount(8) looks for imagefs in the PATH of the system.
BEGIN = """
mkdir bin mnt other
cp "$IMAGEFS" bin/imagefs
mount --bind bin /usr/local/sbin
table() { grep -c "$PWD.* - fuse.imagefs " /proc/self/mountinfo; }
"""


@pytest.fixture
def private(folder, images):
    (images / "a").write_bytes(b"content")

    def run_script(fstab, script, **keys):
        (folder / "fstab").write_text(fstab.format(images=images, folder=folder,
                                                   path="store_path=" + STORE_PATH))
        return run("unshare", "--mount", "--propagation", "private", "bash", "-ec", BEGIN + script,
                   cwd=folder, env={**os.environ, "IMAGEFS": str(IMAGEFS)}, **keys)

    return run_script


# What the manual says, and more.
LINES = [
    "_netdev,nofail,allow_other", "defaults", "ro", "noauto,x-systemd.automount", "user",
    "defaults,nosuid,nodev", "nofail,x-systemd.idle-timeout=60,x-systemd.requires=network.target",
]


@pytest.mark.parametrize("options", LINES)
@pytest.mark.parametrize("source", ["{images}", "dir://{images}"])
def test_a_line_of_fstab_mounts(private, source, options):
    done = private(source + " {folder}/mnt fuse.imagefs " + options + ",{path} 0 0\n",
                   "mount -T fstab \"$PWD/mnt\"; cat mnt/a; umount mnt; ! mountpoint -q mnt")
    assert done.stdout == "content" and done.stderr == ""


def test_mount_all_mounts_each_once(private):
    done = private("{images} {folder}/mnt fuse.imagefs {path} 0 0\n"
                   "dir://{images} {folder}/other fuse.imagefs _netdev,{path} 0 0\n"
                   "{images} {folder}/images fuse.imagefs noauto,{path} 0 0\n",
                   "mount -a -T fstab; mount -a -T fstab; table; umount mnt other; table || true")
    assert done.stdout.split() == ["2", "0"]


def test_mount_all_goes_on_without_a_store_that_is_not_there(private):
    done = private("nosuch://host/ {folder}/other fuse.imagefs nofail,{path} 0 0\n"
                   "{images} {folder}/mnt fuse.imagefs nofail,{path} 0 0\n",
                   "mount -a -T fstab || echo \"status $?\"; cat mnt/a; umount mnt")
    assert done.stdout == "status 64\ncontent"  # some were mounted, mount(8)
    assert re.search("imagefs: nosuch://host/: no store program", done.stderr)


def test_a_comma_in_a_value_is_escaped(private):
    done = private("{images} {folder}/mnt fuse.imagefs fsname=one\\,two,{path} 0 0\n",
                   "mount -a -T fstab; findmnt -no SOURCE mnt; umount mnt")
    assert done.stdout == "one,two\n"


def test_a_space_in_a_path_is_written_as_fstab_wants_it(private):
    done = private("{folder}/my\\040images {folder}/mnt fuse.imagefs {path} 0 0\n",
                   "mkdir 'my images'; echo x >'my images/b c'; mount -a -T fstab; ls mnt;"
                   "umount mnt")
    assert done.stdout == "b c\n"


def test_it_is_a_fuse_file_system_with_a_type_of_its_own(private):
    done = private("{images} {folder}/mnt fuse.imagefs {path} 0 0\n",
                   "mount -a -T fstab; mount -t fuse.imagefs | grep \"$PWD/mnt\"; findmnt -no FSTYPE,SOURCE mnt; "
                   "umount mnt")
    lines = done.stdout.splitlines()
    assert "/mnt type fuse.imagefs (ro,nosuid,nodev" in lines[0]
    assert lines[1].startswith("fuse.imagefs /") and lines[1].endswith("/images")
