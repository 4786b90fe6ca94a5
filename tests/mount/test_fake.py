# SPDX-License-Identifier: MIT
"""The fake store does what it is told: else the tests that use it would say nothing."""

import signal
import subprocess

import harness
import pytest
from harness import LIMIT, run, wait_until

FAKE = harness.BUILD / "tests" / "mount" / "imagefs-store-fake"


def read(fake, image, *asks, limit=LIMIT):
    """Ask a reader, and let it end: (status, bytes, standard error)."""
    text = "".join("%d %d\n" % ask for ask in asks).encode()
    done = subprocess.run([FAKE, "read", "--", fake.uri, image.id], input=text,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit)
    return done.returncode, done.stdout, done.stderr


def test_list_prints_the_images(fake):
    fake.image("one", 1)
    fake.image("two", 2, mtime=5)
    done = run(FAKE, "list", "--", fake.uri)
    assert done.stdout == (fake.folder / "images.jsonl").read_text()
    assert done.stdout.count("\n") == 2
    assert fake.calls("list") == [[]]


@pytest.mark.parametrize("offset", [0, 1, 65535, 65536, 262143, 10**6, 2**62 - 300000])
@pytest.mark.parametrize("length", [1, 8, 4096, 65537, 300000])
def test_bytes_are_computed_alike_in_both_languages(fake, offset, length):
    image = fake.image("a", 2**62)
    assert read(fake, image, (offset, length)) == (0, image.bytes(offset, length), b"")


def test_no_two_places_and_no_two_images_are_alike(fake):
    one, two = fake.image("one", 2**62), fake.image("two", 2**62)
    offsets = [0, 8, 4096, 65536, 1 << 20, 1 << 32, 1 << 61]
    pieces = [image.bytes(offset, 64) for image in (one, two) for offset in offsets]
    assert len(set(pieces)) == len(pieces)


def test_holes_are_zeros(fake):
    image = fake.image("a", 1000000, extents=[(0, 100), (70000, 65536), (900000, 50)])
    assert read(fake, image, (0, 1000000)) == (0, image.bytes(0, 1000000), b"")
    assert image.bytes(99, 3)[1:] == b"\0\0"
    assert image.bytes(0, 1000000).count(b"\0" * 500) > 1000
    assert run(FAKE, "extents", "--", fake.uri, image.id).stdout.split("\n")[1] == "70000 65536"


def test_a_gone_image_is_gone(fake):
    image = fake.image("a", 100)
    fake.remove(image)
    assert read(fake, image, (0, 10))[0] == 66


@pytest.mark.parametrize("fault,status,data", [
    ("at=50 exit=74", 74, slice(0, 50)),
    ("at=0 exit=0", 0, slice(0, 0)),
    ("past=100 exit=65", 65, slice(0, 100)),
    ("at=end exit=3", 3, slice(0, 100)),
    ("at=99 signal=9", -9, slice(0, 99)),
    ("at=begin stderr=disk%20on%20fire exit=69", 69, slice(0, 0)),
])
def test_it_ends_where_it_is_told(fake, fault, status, data):
    image = fake.image("a", 100)
    fake.fault(image, fault)
    got = read(fake, image, (0, 100))
    assert got[:2] == (status, image.bytes(0, 100)[data])
    assert got[2] == (b"disk on fire\n" if "stderr" in fault else b"")


def test_a_fault_happens_as_often_as_it_is_told(fake):
    image = fake.image("a", 100)
    fake.fault(image, "at=50 after=1 times=2 exit=74")
    assert [read(fake, image, (0, 100))[0] for _ in range(5)] == [0, 74, 74, 0, 0]


def test_bytes_too_many_too_few_and_in_drops(fake):
    image = fake.image("a", 100)
    data = image.bytes(0, 100)
    fake.fault(image, "at=10 surplus=3 print=a%00b")
    assert read(fake, image, (0, 100))[1] == data[:10] + b"###a\0b" + data[10:]
    fake.fault(image, "at=10 short=20")
    assert read(fake, image, (0, 100))[1] == data[:10] + data[30:]
    fake.fault(image, "drip=7/1 flood=100000")
    status, got, said = read(fake, image, (0, 100))
    assert (status, got, len(said)) == (0, data, 100000)


def test_it_waits_for_what_a_test_says(fake):
    image = fake.image("a", 100)
    fake.fault(image, "at=50 say=half until=go")
    with subprocess.Popen([FAKE, "read", "--", fake.uri, image.id], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as reader:
        reader.stdin.write(b"0 100\n")
        reader.stdin.close()
        wait_until(lambda: fake.marked("half"), "half is sent")
        assert reader.poll() is None
        fake.mark("go")
        assert reader.stdout.read() == image.bytes(0, 100)


def test_a_deaf_one_hears_only_a_kill(fake):
    image = fake.image("a", 100)
    fake.fault(image, "at=50 say=half hang=deaf")
    with subprocess.Popen([FAKE, "read", "--", fake.uri, image.id], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as reader:
        reader.stdin.write(b"0 100\n")
        reader.stdin.close()
        assert reader.stdout.read(50) == image.bytes(0, 50)
        wait_until(lambda: fake.marked("half"), "half is sent")
        # The mark comes before the signals are set aside.
        ignored = lambda: "SigIgn:\t%016x" % (1 << 14) <= [
            line for line in open("/proc/%d/status" % reader.pid).read().splitlines()
            if line.startswith("SigIgn")][0]
        wait_until(ignored, "it is deaf")
        reader.send_signal(signal.SIGTERM)
        assert reader.poll() is None
        reader.kill()
        assert reader.wait(LIMIT) == -9


def test_asks_are_logged_and_checked(fake):
    image = fake.image("a", 100)
    read(fake, image, (0, 10), (90, 10), (95, 6))
    assert fake.asks(image) == [(0, 10), (90, 10), (95, 6)]
    assert fake.calls("bad", "ask") == [["id-a", "95", "6"]]
    assert (fake.readers(image), fake.asked_bytes(image)) == (1, 26)
    assert fake.calls("exit") == [["0"]]
