# SPDX-License-Identifier: MIT
"""The folder .imagefs: figures, the log, and the images by their ids."""

import errno
import os
import re
import subprocess

import pytest
from harness import run, wait_until


def figures(mount):
    """{name and labels but the store's: value} of the figures, which are well formed."""
    found, typed = {}, set()
    for line in (mount / ".imagefs/stats").read_text().splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'(\w+)\{store="(?:[^"\\]|\\.)*"(.*)\} ([0-9.e+-]+)', line)
        assert match, line
        assert re.sub("_(bucket|sum|count)$", "", match[1]) in typed, line
        found[match[1] + match[2]] = float(match[3])
    return found


def test_the_folder_is_there_but_not_shown(fake, mounted):
    fake.image("a", 10)
    mount = mounted(fake.uri)
    assert os.listdir(mount.path) == ["a"]
    assert sorted(os.listdir(mount / ".imagefs")) == ["by-id", "log", "stats"]
    assert not os.path.exists(mount / ".imagefs/nothing")
    with pytest.raises(OSError) as caught:
        open(mount / ".imagefs/stats", "r+")
    assert caught.value.errno in (errno.EROFS, errno.EACCES)


def test_an_image_of_the_folders_name_is_reached_all_the_same(fake, mounted):
    image = fake.image(".imagefs", 1000)
    mount = mounted(fake.uri)
    (name,) = os.listdir(mount.path)
    assert name != ".imagefs"
    assert (mount / name).read_bytes() == image.bytes(0, 1000)
    assert "stats" in os.listdir(mount / ".imagefs")


def test_images_are_found_by_their_ids(fake, mounted):
    images = [fake.image("same", 1000 + i, id="id/%d%%" % i) for i in range(3)]
    images.append(fake.image("other", 10, id="x" * 300))
    mount = mounted(fake.uri)
    names = os.listdir(mount / ".imagefs/by-id")
    assert len(names) == len(set(names)) == 4
    for image in images[:3]:
        name = image.id.replace("%", "%25").replace("/", "%2F")
        path = mount / (".imagefs/by-id/" + name)
        assert path.read_bytes() == image.bytes(0, image.size)
        assert os.getxattr(path, "user.imagefs.id") == image.id.encode()
    assert sorted(os.stat(mount / (".imagefs/by-id/" + n)).st_ino for n in names) == sorted(
        os.stat(mount / n).st_ino for n in os.listdir(mount.path))
    assert not os.path.exists(mount / ".imagefs/by-id/none")


def test_figures_tell_what_was_read(fake, mounted):
    image = fake.image('a "b"\\', 5 << 20)
    fake.image("unread", 10)
    mount = mounted(fake.uri, "direct_io")
    assert (mount / image.name).read_bytes() == image.bytes(0, image.size)
    with open(mount / image.name, "rb", buffering=0) as file:
        now = figures(mount)
        assert now["imagefs_open_files"] == 1
        assert file.read(1)
    now = figures(mount)
    label = r',image="a \"b\"\\"'
    assert now["imagefs_images"] == 2
    assert now["imagefs_read_bytes_total"] == image.size + 1
    assert now["imagefs_image_read_bytes_total" + label] == image.size + 1
    assert now["imagefs_store_bytes_total"] >= image.size
    assert now["imagefs_read_errors_total"] == 0
    assert now["imagefs_open_files"] == 0
    assert now["imagefs_read_wait_seconds_count"] == now["imagefs_reads_total"]
    assert now['imagefs_read_wait_seconds_bucket,le="+Inf"'] == now["imagefs_reads_total"]
    assert not any("unread" in name for name in now)
    wait_until(lambda: figures(mount)["imagefs_programs_running"] == 0, "programs end")


def test_figures_count_failures(fake, mounted):
    image = fake.image("a", 1 << 20)
    fake.fault("read." + image.id, "at=1000 exit=74")
    mount = mounted(fake.uri, noisy=True)
    with pytest.raises(OSError):
        (mount / "a").read_bytes()
    now = figures(mount)
    assert now["imagefs_read_errors_total"] >= 1
    assert now["imagefs_programs_restarted_total"] >= 4
    assert now["imagefs_programs_started_total"] > now["imagefs_programs_restarted_total"]


def test_the_log_is_kept_for_whoever_has_the_mount(fake, mounted):
    image = fake.image("a\nb", 1 << 20)
    mount = mounted(fake.uri, noisy=True)
    assert (mount / ".imagefs/log").read_text() == ""
    fake.remove(image)
    with pytest.raises(OSError):
        (mount / "a\nb").read_bytes()
    text = (mount / ".imagefs/log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} a\?b: .*status 66", text, re.M)


def test_the_files_are_read_like_any_file(fake, mounted, folder):
    fake.image("a", 10)
    mount = mounted(fake.uri)
    run("cp", mount / ".imagefs/stats", folder / "copy")
    assert (folder / "copy").read_text().startswith("# HELP imagefs_images")
    done = subprocess.run(["tail", "-n", "1", mount / ".imagefs/stats"], stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout.startswith(b"imagefs_")
    assert os.listxattr(mount / ".imagefs/stats") == []
