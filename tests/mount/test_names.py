# SPDX-License-Identifier: MIT
"""Any name is a file, no two meet, and none is taken for anything but a name."""

import os
import re

import pytest
from harness import IMAGEFS, STORE_PATH, run

MARK = re.compile(rb"%~[0-9a-f]{16}$")


def file_name(name):
    """The file name of an image, but for those that are marked."""
    if name in (b".", b"..", b".imagefs"):
        name = name.replace(b".", b"\0")
    return name.replace(b"%", b"%25").replace(b"/", b"%2F").replace(b"\0", b"%2E")


def listed(mount):
    return sorted(os.listdir(os.fsencode(mount.path)))


def check(fake, mounted, names):
    images = {name: fake.image(name, 100, id="id%d" % number, publish=False)
              for number, name in enumerate(names)}
    fake.publish()
    mount = mounted(fake.uri)
    assert listed(mount) == sorted(file_name(name) for name in names)
    for name, image in images.items():
        path = mount / file_name(name)
        assert path.read_bytes() == image.bytes(0, 100)
        assert os.getxattr(path, "user.imagefs.id") == image.id.encode()


def test_every_byte_in_a_name(fake, mounted):
    bytes_ = [bytes([byte]) for byte in range(1, 256)]
    check(fake, mounted, bytes_ + [b"x" + byte + b"y" for byte in bytes_])


def test_names_that_look_like_something_else(fake, mounted):
    check(fake, mounted, [
        b".", b"..", b"...", b".imagefs", b".imagefs2", b"..imagefs", b"/", b"//", b"/etc/passwd",
        b"../../etc/passwd", b"a/b", b"-", b"--", b"-rf", b"--help", b"-o", b"$(id)", b"`id`",
        b"; reboot", b"|cat", b"*", b"?", b"~", b"~root", b"'", b'"', b"\\", b"\\x41", b"a\nb",
        b"\n", b"\r\n", b" ", b"  a  ", b"\t", b"\x1b[31mred\x1b[0m", b"%", b"%%", b"%s%n", b"%2F",
        b"%2f", b"%2E", b"%2E%2E", b"%2Eimagefs", b"%25", b"%~", b"%~0123456789abcdef",
        b"NUL", b"con", b"#", b"a#b", b"a?b", b"a@b", b"a:b", b"a,b=c", b"\xff\xfe", b"\xc0\xaf",
        b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "gr\u00fc\u00df".encode(), "\U0001f415".encode(),
        "a\u0301".encode(), "\u00e1".encode(), "\u202e".encode(), b"A", b"a", b"{}", b"[]", b"null",
    ])


def test_names_of_the_greatest_length_are_kept(fake, mounted):
    check(fake, mounted, [b"x" * 255, b"y" * 254, b"/" * 85, b"%" * 85, b"\xff" * 255])


def test_long_names_are_cut_and_told_apart(fake, mounted):
    names = [b"x" * 256, b"x" * 257, b"x" * 4096, b"x" * 4095 + b"y", b"/" * 86, b"/" * 300,
             b"z" * 236 + b"/" * 10, b"z" * 237 + b"/" * 10, b"z" * 238 + b"/" * 10,
             b"\xc3\xbc" * 200]
    images = [fake.image(name, 100, id="id%d" % n) for n, name in enumerate(names)]
    mount = mounted(fake.uri)
    found = listed(mount)
    assert len(found) == len(set(found)) == len(names)
    by_id = {os.getxattr(mount / name, "user.imagefs.id").decode(): name for name in found}
    for name, image in zip(names, images):
        shown = by_id[image.id]
        assert len(shown) <= 255 and MARK.search(shown)
        kept = shown[:-18]
        assert file_name(name).startswith(kept) and len(kept) >= 230
        assert not re.search(rb"%[0-9A-F]?$", kept)
        assert (mount / shown).read_bytes() == image.bytes(0, 100)


def test_a_long_name_is_always_cut_alike(fake, mounted):
    fake.image(b"x" * 300, 1)
    with mounted(fake.uri) as mount:
        before = listed(mount)
    fake.image(b"x" * 301, 1)
    fake.image(b"another", 1)
    assert before[0] in listed(mounted(fake.uri))


def test_images_of_one_name_are_all_there(fake, mounted):
    images = [fake.image("same", 100, id="id%d" % n) for n in range(5)]
    images += [fake.image("x" * 255, 100, id="long%d" % n) for n in range(3)]
    mount = mounted(fake.uri)
    found = listed(mount)
    assert len(found) == len(set(found)) == 8
    assert b"same" in found and b"x" * 255 in found
    assert sum(bool(MARK.search(name)) for name in found) == 6
    seen = {}
    for name in found:
        id = os.getxattr(mount / name, "user.imagefs.id").decode()
        seen[id] = (mount / name).read_bytes()
    assert seen == {image.id: image.bytes(0, 100) for image in images}


def test_who_keeps_a_name_does_not_hang_on_the_order_of_the_list(fake, mounted):
    lines = [fake.image("same", 100, id="id%d" % n).line() for n in range(4)]

    def names():
        with mounted(fake.uri) as mount:
            return {name: os.getxattr(mount / name, "user.imagefs.id") for name in listed(mount)}

    before = names()
    fake.write("images.jsonl", "".join(reversed(lines)))
    assert names() == before


def test_one_image_listed_twice_is_one_file(fake, mounted):
    line = fake.image("a", 100).line()
    fake.write("images.jsonl", line + line)
    assert listed(mounted(fake.uri)) == [b"a"]


@pytest.mark.parametrize("id", ["-", "--", "-rf", "--help", "$(id)", "`id`;", "../../x", "%s%n",
                                "'", '"', "\\", "*", "~", "|", "x" * 4096, "/", "#?&="],
                         ids=lambda id: id[:20])
def test_an_id_reaches_the_store_as_it_is(fake, mounted, id):
    image = fake.image("a", 100, id=id)
    mount = mounted(fake.uri)
    assert (mount / "a").read_bytes() == image.bytes(0, 100)
    assert fake.calls("read") == [[id]]


def test_control_bytes_reach_no_log_and_no_terminal(fake, mounted, folder):
    image = fake.image(b"\x1b[2Jbad\x07\n\xc2\x9bimagefs: forged\xff", 100)
    fake.fault(image, "stderr=%1b[31mred%0aimagefs:%20forged exit=74")
    mount = mounted(fake.uri, noisy=True)
    name = listed(mount)[0]
    try:
        (mount / name).read_bytes()
    except OSError:
        pass
    mount.wait_log("red")
    log = mount.log_path.read_bytes()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2\x9b|\xff", log)
    assert b"\nimagefs: forged" not in log
    error = os.getxattr(mount / name, "user.imagefs.error")
    assert b"red" in error and not re.search(rb"[\x00-\x1f\x7f]", error)


def test_a_terminal_gets_no_control_bytes_from_imagefs_list(fake, folder):
    fake.image(b"\x1b[2J\x07bad", 100)
    command = "%s list -o store_path=%s %s" % (IMAGEFS, STORE_PATH, fake.uri)
    text = run("script", "-qec", command, folder / "typescript").stdout
    assert "bad" in text and "\x1b[2J" not in text and "\x07" not in text
