# SPDX-License-Identifier: MIT
"""The directory is the store's list: whole, or an error, and never held up by the store."""

import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import IMAGEFS, SANITIZER, STORE_PATH, run, wait_until


def list_error(path):
    """The errno of listing a folder, 0 if it can be listed."""
    try:
        os.listdir(path)
    except OSError as error:
        return error.errno
    return 0


def test_each_image_is_a_file_of_its_exact_size(fake, mounted):
    sizes = {"empty": 0, "one": 1, "odd": 4097, "large": 5 << 40, "huge": 2**62, "max": 2**63 - 1}
    for name, size in sizes.items():
        fake.image(name, size)
    mount = mounted(fake.uri)
    assert sorted(os.listdir(mount.path)) == sorted(sizes)
    for name, size in sizes.items():
        status = os.stat(mount / name)
        assert (status.st_size, stat.S_ISREG(status.st_mode)) == (size, True)


def test_an_empty_store_is_an_empty_directory(fake, mounted):
    assert os.listdir(mounted(fake.uri).path) == []


def test_what_the_list_and_the_directory_say_is_the_same(fake, mounted):
    for number in range(3000):
        fake.image("image-%d" % number, number, publish=False)
    fake.publish()
    mount = mounted(fake.uri)
    with os.scandir(mount.path) as entries:
        found = {entry.name: entry for entry in entries}
    assert len(found) == 3000
    for name, entry in found.items():
        assert entry.is_file(follow_symlinks=False)
        assert entry.inode() == os.stat(mount / name).st_ino
        assert entry.stat().st_size == int(name.split("-")[1])


def test_a_new_image_appears_and_a_removed_one_goes(fake, mounted):
    first = fake.image("first", 10)
    mount = mounted(fake.uri, "ttl=1")
    assert os.listdir(mount.path) == ["first"]
    fake.image("second", 20)
    wait_until(lambda: sorted(os.listdir(mount.path)) == ["first", "second"], "second is there")
    fake.remove(first)
    wait_until(lambda: os.listdir(mount.path) == ["second"], "first is gone")
    wait_until(lambda: not os.path.exists(mount / "first"), "first cannot be looked up")


def test_a_new_image_can_be_opened_before_anybody_lists(fake, mounted):
    mount = mounted(fake.uri, "ttl=1")
    assert not os.path.exists(mount / "new")
    image = fake.image("new", 1000)
    wait_until(lambda: os.path.exists(mount / "new"), "the image is there")
    assert (mount / "new").read_bytes() == image.bytes(0, 1000)


def test_a_listing_serves_everybody_for_its_time(fake, mounted):
    for number in range(50):
        fake.image("image-%d" % number, number, publish=False)
    fake.publish()
    mount = mounted(fake.uri, "ttl=3600")
    for _ in range(20):
        for name in os.listdir(mount.path):
            os.stat(mount / name)
        assert not os.path.exists(mount / "no-such-image")
    assert len(fake.calls("list")) == 1


def test_many_who_wait_for_a_listing_share_one(fake, mounted):
    fake.image("a", 10)
    mount = mounted(fake.uri, "ttl=1")
    assert os.listdir(mount.path) == ["a"]
    fake.fault("list", "say=listing until=go")
    calls = len(fake.calls("list"))
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(os.listdir, mount.path) for _ in range(16)]
        wait_until(lambda: list_error(mount.path) or fake.marked("listing"), "a list is asked for")
        assert len(fake.calls("list")) == calls + 1
        fake.mark("go")
        assert [job.result() for job in jobs] == [["a"]] * 16


def test_a_directory_is_of_one_listing(fake, mounted):
    old = ["old-%04d" % number for number in range(2000)]
    new = ["new-%04d" % number for number in range(2000)]
    for name in old:
        fake.image(name, 1, publish=False)
    fake.publish()
    mount = mounted(fake.uri, "ttl=0")
    lines = [json.dumps({"name": n, "id": n, "size": 1}) + "\n" for n in old]
    other = [json.dumps({"name": n, "id": n, "size": 1}) + "\n" for n in new]
    seen = set()
    for turn in range(20):
        with os.scandir(mount.path) as entries:
            found = [next(entries).name]
            fake.write("images.jsonl", "".join(other if turn % 2 else lines))
            os.path.exists(mount / "anything")  # has the store listed meanwhile
            found += [entry.name for entry in entries]
        assert sorted(found) in (sorted(old), sorted(new))
        seen.add(found[0][:3])
    assert seen == {"old", "new"}


@pytest.mark.parametrize("fault", [
    "exit=69", "exit=1", "exit=64", "signal=11", "at=end exit=74", "at=5 exit=0", "at=40 exit=74",
])
def test_a_failed_listing_is_an_error_and_no_empty_directory(fake, mounted, fault):
    image = fake.image("a", 100)
    fake.image("b", 100)
    mount = mounted(fake.uri, "ttl=1", noisy=True)
    with open(mount / "a", "rb") as file:
        fake.fault("list", "stderr=the%20dog%20ate%20it " + fault)

        def failed():
            try:
                assert sorted(os.listdir(mount.path)) == ["a", "b"]
            except OSError as error:
                assert error.errno == errno.EIO
                return True

        wait_until(failed, "ls fails")
        mount.wait_log("the dog ate it" if "exit=0" not in fault else "list")
        assert file.read() == image.bytes(0, 100)  # what is open goes on
    fake.fault("list")
    wait_until(lambda: not list_error(mount.path), "ls works again")
    assert sorted(os.listdir(mount.path)) == ["a", "b"]


def test_an_image_that_was_listed_can_be_opened_when_the_store_cannot_be_listed(fake, mounted):
    """Its readers may work; and where they do not, it is the file that says why."""
    image, gone = fake.image("a", 100), fake.image("gone", 100)
    mount = mounted(fake.uri, "ttl=0", noisy=True)
    assert sorted(os.listdir(mount.path)) == ["a", "gone"]
    fake.remove(gone)
    fake.fault("list", "stderr=away exit=69")

    def error(name):
        try:
            os.stat(mount / name)
        except OSError as error:
            return error.errno
        return 0

    wait_until(lambda: error("never") == errno.EIO, "the listing fails")
    assert list_error(mount.path)
    assert (mount / "a").read_bytes() == image.bytes(0, 100)
    assert (mount / ".imagefs/by-id" / image.id).read_bytes() == image.bytes(0, 100)
    with pytest.raises(OSError) as caught:
        (mount / "gone").read_bytes()
    assert caught.value.errno == errno.ESTALE
    assert "no image" in os.getxattr(mount / "gone", "user.imagefs.error").decode()


def test_a_hanging_list_stops_nobody(fake, mounted):
    image = fake.image("a", 100000)
    mount = mounted(fake.uri, "ttl=1", "stall=600", noisy=True)
    fake.fault("list", "say=hangs hang=deaf")
    wait_until(lambda: os.listdir(mount.path) == ["a"] and fake.marked("hangs"), "the list hangs")
    for _ in range(3):
        assert os.listdir(mount.path) == ["a"]
        assert (mount / "a").read_bytes() == image.bytes(0, 100000)
    assert len(fake.calls("list")) == 2


def test_a_hanging_list_is_ended_and_tried_again(fake, mounted):
    fake.image("a", 100)
    mount = mounted(fake.uri, "ttl=1", "stall=1", noisy=True)
    fake.fault("list", "at=20 times=1 say=hangs hang=deaf")
    fake.image("b", 100)
    wait_until(lambda: sorted(os.listdir(mount.path)) == ["a", "b"], "the next list is taken")
    assert fake.marked("hangs")


@pytest.mark.parametrize("fault", [
    "flood=60000000", "at=end flood=60000000", "at=end grandchild=deaf exit=0",
    "grandchild=deaf", "at=end grandchild exit=0",
])
def test_a_list_that_says_much_or_leaves_a_child_is_taken(fake, mounted, fault):
    fake.image("a", 100)
    fake.fault("list", fault)
    mount = mounted(fake.uri, "ttl=0", "stall=600")
    for _ in range(2):
        assert os.listdir(mount.path) == ["a"]
    wait_until(lambda: not mount.store_processes(), "nothing of it is left")


BAD_LINES = {
    "no object": "[1]",
    "no JSON": "{name: a}",
    "not closed": '{"name": "bad", "id": "i", "size": 1',
    "no name": '{"id": "i", "size": 1}',
    "empty name": '{"name": "", "id": "i", "size": 1}',
    "NUL in the name": '{"name": "bad\\u0000", "id": "i", "size": 1}',
    "odd hex": '{"name_hex": "abc", "id": "i", "size": 1}',
    "NUL in hex": '{"name_hex": "6100", "id": "i", "size": 1}',
    "no id": '{"name": "bad", "size": 1}',
    "empty id": '{"name": "bad", "id": "", "size": 1}',
    "space in the id": '{"name": "bad", "id": "i i", "size": 1}',
    "long id": '{"name": "bad", "id": "%s", "size": 1}' % ("i" * 4097),
    "no size": '{"name": "bad", "id": "i"}',
    "negative size": '{"name": "bad", "id": "i", "size": -1}',
    "size of 2^63": '{"name": "bad", "id": "i", "size": 9223372036854775808}',
    "size of 2^64": '{"name": "bad", "id": "i", "size": 18446744073709551616}',
    "fractional size": '{"name": "bad", "id": "i", "size": 1.5}',
    "size in words": '{"name": "bad", "id": "i", "size": "1"}',
    "strange time": '{"name": "bad", "id": "i", "size": 1, "mtime": "now"}',
    "endless time": '{"name": "bad", "id": "i", "size": 1, "mtime": 1e400}',
    "attrs of numbers": '{"name": "bad", "id": "i", "size": 1, "attrs": {"a": 1}}',
    "a key with a slash": '{"name": "bad", "id": "i", "size": 1, "attrs": {"a/b": "1"}}',
    "control bytes": "\x01\x1b[2J\x7f",
    "deep": "[" * 100000,
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_line_that_says_nothing_is_told_in_the_log(fake, mounted, what):
    """Neither is a file made up from it, nor are the others lost."""
    good = fake.image("good", 1000)
    fake.write("images.jsonl", BAD_LINES[what] + "\n" + good.line())
    mount = mounted(fake.uri, noisy=True)
    assert os.listdir(mount.path) == ["good"]
    assert (mount / "good").read_bytes() == good.bytes(0, 1000)
    assert "list" in mount.log()
    assert not set(mount.log()) & set("\x01\x1b\x7f")


@pytest.mark.parametrize("text", ["", "\n", "\n\n"])
def test_a_list_of_nothing_is_no_mistake(fake, mounted, text):
    fake.write("images.jsonl", text)
    assert os.listdir(mounted(fake.uri, noisy=bool(text)).path) == []


def test_an_unfinished_last_line_is_a_failed_list(fake, folder):
    good = fake.image("good", 1000)
    fake.write("images.jsonl", good.line() + good.line()[:-1])
    done = run(IMAGEFS, "list", "-o", "store_path=" + STORE_PATH, fake.uri, check=False)
    assert done.returncode != 0 and done.stderr.startswith("imagefs: ")


def test_a_line_without_end_is_a_failed_list(fake, folder):
    fake.write("images.jsonl", "x" * (3 << 20))
    done = run(IMAGEFS, "list", "-o", "store_path=" + STORE_PATH, fake.uri, check=False)
    assert done.returncode != 0 and done.stderr.startswith("imagefs: ")


def test_a_line_of_the_longest_length_is_taken(fake, mounted):
    keys = {"attrs": {"a": "x"}, "ignored": ""}
    line = json.dumps({"name": "a", "id": "a", "size": 1, **keys})
    keys["ignored"] = "x" * ((1 << 20) - len(line) - 1)
    fake.write("images.jsonl", json.dumps({"name": "a", "id": "a", "size": 1, **keys}) + "\n")
    assert os.listdir(mounted(fake.uri).path) == ["a"]


@pytest.mark.limit(400)
def test_a_million_images(fake, mounted):
    count = 100000 if SANITIZER else 1000000
    fake.write("images.jsonl", "".join(
        '{"name": "image-%d", "id": "%d", "size": %d}\n' % (n, n, n) for n in range(count)))
    mount = mounted(fake.uri, "ttl=3600")
    with os.scandir(mount.path) as entries:
        assert sum(1 for _ in entries) == count
    assert os.stat(mount / ("image-%d" % (count - 1))).st_size == count - 1
    assert not os.path.exists(mount / ("image-%d" % count))


def test_imagefs_list_shows_a_table(fake):
    fake.image("disk.raw", 1 << 30, allocated=1 << 20, mtime=1000000000)
    fake.image("other image", 5)
    done = run(IMAGEFS, "list", "-o", "store_path=" + STORE_PATH, fake.uri,
               env={**os.environ, "TZ": "UTC"})
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["NAME", "SIZE", "ALLOCATED", "TIME"]
    assert "disk.raw" in lines[1] and "1.0G" in lines[1] and "1.0M" in lines[1]
    assert "2001-09-09" in lines[1]
    assert "other image" in lines[2]


def test_imagefs_list_prints_json_for_programs(fake):
    fake.image("disk.raw", 2**62, id="the/id", allocated=7, mtime=1000000000, immutable=True,
               attrs={"key": "value"})
    fake.image(b"\xff\n/", 5)
    done = run(IMAGEFS, "list", "--json", "-o", "store_path=" + STORE_PATH, fake.uri)
    images = [json.loads(line) for line in done.stdout.splitlines()]
    found = {image["id"]: image for image in images}
    assert len(images) == 2
    disk = found["the/id"]
    assert (disk["name"], disk["size"], disk["allocated"]) == ("disk.raw", 2**62, 7)
    assert (disk["mtime"], disk["immutable"], disk["attrs"]) == (1000000000, True, {"key": "value"})
    other = next(image for image in images if image["id"] != "the/id")
    assert other["name_hex"] == "ff0a2f"


def test_imagefs_list_says_what_is_wrong(fake, folder):
    fake.fault("list", "stderr=nobody%20home exit=69")
    done = run(IMAGEFS, "list", "-o", "store_path=" + STORE_PATH, fake.uri, check=False)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.startswith("imagefs: ") and "nobody home" in done.stderr
    assert done.stderr.count("\n") == 1
