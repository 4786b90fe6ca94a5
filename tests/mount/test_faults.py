# SPDX-License-Identifier: MIT
"""A reader that fails in the middle: all the bytes, or the right error, never others."""

import errno
import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import SANITIZER, run, wait_until

MIB = 1 << 20
SIZE = 20 * MIB + 4321


def read_error(path):
    """What reading a whole file ends with: 0 or an errno."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    except OSError as error:
        return error.errno
    return 0


def check(path, image):
    """Compare a whole file, piece by piece."""
    with open(path, "rb", buffering=0) as file:
        check_rest(file, image, 0)


def check_rest(file, image, offset):
    while True:
        piece = file.read(MIB)
        assert piece == image.bytes(offset, len(piece)), "wrong bytes after %d" % offset
        offset += len(piece)
        if not piece:
            break
    assert offset == image.size


def error_of(path):
    return os.getxattr(path, "user.imagefs.error").decode()


# Places that differ to a stream: the first byte, the end of the first ask, inside and at the
# edges of its ring, one before the end of the image.
PLACES = [0, 1, 4096, MIB + MIB // 8, 4 * MIB - 1, 4 * MIB, 7 * MIB + 13, SIZE - 1]


@pytest.mark.parametrize("place", PLACES)
def test_a_reader_that_dies_once_is_not_noticed(fake, mounted, place):
    images = {how: fake.image(how, SIZE, publish=False)
              for how in ("exit=74", "exit=0", "exit=75", "signal=9", "signal=11")}
    fake.publish()
    for how, image in images.items():
        fake.fault(image, "at=%d times=1 %s" % (place, how))
    mount = mounted(fake.uri, noisy=True)
    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(lambda image: check(mount / image.name, image), images.values()))
    for image in images.values():
        assert fake.readers(image) > 1


def test_it_goes_on_at_the_exact_byte(fake, mounted):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%d times=1 exit=74" % (7 * MIB + 13))
    check(mounted(fake.uri, noisy=True) / "a", image)
    assert 7 * MIB + 13 in [offset for offset, _ in fake.asks(image)]
    assert fake.asked_bytes(image) < 3 * SIZE


def test_a_reader_that_dies_again_and_again_but_gets_on(fake, mounted):
    image = fake.image("a", 64 * MIB)
    fake.fault(image, *("at=%d times=1 exit=74" % (n * MIB + n) for n in range(60)))
    check(mounted(fake.uri, noisy=True) / "a", image)


STATUSES = {0: errno.EIO, 1: errno.EIO, 64: errno.EIO, 65: errno.EIO, 66: errno.ESTALE,
            69: errno.EIO, 70: errno.EIO, 74: errno.EIO, 75: errno.EIO, 77: errno.EACCES,
            127: errno.EIO, 255: errno.EIO}


def test_a_reader_that_always_fails_is_the_right_error(fake, mounted):
    images = {(status, place): fake.image("%d at %d" % (status, place), SIZE, publish=False)
              for status in STATUSES for place in (0, 5 * MIB)}
    other = fake.image("other", SIZE)
    for (status, place), image in images.items():
        fake.fault(image, "at=%d stderr=first stderr=the%%20disk%%20burns exit=%d"
                   % (place, status))
    mount = mounted(fake.uri, "ttl=3600", noisy=True)

    def try_image(which):
        (status, place), image = which, images[which]
        path = mount / image.name
        assert read_error(path) == STATUSES[status]
        with open(path, "rb", buffering=0) as file:
            with pytest.raises(OSError) as caught:
                os.pread(file.fileno(), 1, place)
        assert caught.value.errno == STATUSES[status]
        assert "the disk burns" in error_of(path)
        fake.fault(image)
        check(path, image)  # it works again, without a remount

    with ThreadPoolExecutor(len(images)) as pool:
        jobs = [pool.submit(try_image, which) for which in images]
        check(mount / "other", other)  # the rest is unharmed
        for job in jobs:
            job.result()
    with pytest.raises(OSError):
        error_of(mount / "other")
    for image in images.values():
        assert re.search(r"imagefs: %s: .*the disk burns" % image.name, mount.log())


def test_tries_are_counted(fake, mounted):
    """One start and five more; and one if the kernel asks for the page once more."""
    image = fake.image("a", 1000)
    fake.fault(image, "exit=74")
    mount = mounted(fake.uri, noisy=True)
    with open(mount / "a", "rb", buffering=0) as file:
        with pytest.raises(OSError):
            os.pread(file.fileno(), 10, 0)
    assert fake.readers(image) in (6, 7)


def test_a_store_that_tries_for_long_itself_has_the_last_word(fake, mounted):
    """Each of the tries waiting for almost the stall limit would be minutes in all."""
    image = fake.image("a", 1000)
    fake.fault(image, "delay=1500 stderr=nobody%20answers exit=69")
    mount = mounted(fake.uri, "stall=2", noisy=True)
    with open(mount / "a", "rb", buffering=0) as file:
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 10, 0)
    assert caught.value.errno == errno.EIO
    assert fake.readers(image) <= 2
    assert "nobody answers" in error_of(mount / "a")


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
@pytest.mark.parametrize("place", [0, 5 * MIB])
def test_after_an_error_the_next_read_asks_the_store_again(fake, mounted, flags, place):
    image = fake.image("a", SIZE)
    fake.fault(image, "exit=74")
    mount = mounted(fake.uri, noisy=True)
    fd = os.open(mount / "a", os.O_RDONLY | flags)
    try:
        # One request of the kernel's: of several another may still be under way.
        with pytest.raises(OSError):
            os.pread(fd, 65536, place)
        fake.fault(image)
        assert os.pread(fd, 65536, place) == image.bytes(place, 65536)
    finally:
        os.close(fd)


def test_a_store_that_comes_back_between_two_tries(fake, mounted):
    image = fake.image("a", SIZE)
    fake.fault(image, "times=4 stderr=away exit=69")
    check(mounted(fake.uri, noisy=True) / "a", image)


def test_a_reader_that_is_killed_from_outside(fake, mounted):
    image = fake.image("a", 32 * MIB)
    fake.fault(image, "drip=65536/1")
    mount = mounted(fake.uri, noisy=True)
    done = threading.Event()
    kills = []

    def kill():
        while not done.wait(0.1) and len(kills) < 20:
            for pid in mount.store_processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                    kills.append(pid)
                except ProcessLookupError:
                    pass

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        check(mount / "a", image)
    finally:
        done.set()
        thread.join()
    assert kills


def test_bytes_too_many_are_an_error(fake, mounted):
    """The reader does not send what it should, so nothing that it sent can be trusted."""
    faults = {}
    for size in (1, 1000, MIB, SIZE):
        for fault in ("past=%d surplus=10" % size, "at=end surplus=1", "at=end surplus=5000",
                      "at=end surplus=%d" % (10 * MIB)):
            faults[fake.image("%d %s" % (size, fault), size)] = fault
    for image, fault in faults.items():
        fake.fault(image, fault)
    mount = mounted(fake.uri, "ttl=3600", noisy=True)

    def try_image(image):
        assert read_error(mount / image.name) == errno.EIO
        assert error_of(mount / image.name)
        fake.fault(image)
        check(mount / image.name, image)

    with ThreadPoolExecutor(len(faults)) as pool:
        list(pool.map(try_image, faults))


@pytest.mark.parametrize("size", [1, 1000, MIB, SIZE])
def test_bytes_behind_the_end_once(fake, mounted, size):
    image = fake.image("a", size)
    fake.fault(image, "past=%d times=1 surplus=1" % size)
    mount = mounted(fake.uri, noisy=True)
    # After more than one ask it is not known which answer was too long.
    if size == SIZE:
        assert read_error(mount / "a") in (0, errno.EIO)
    check(mount / "a", image)


def test_a_bad_status_after_all_the_bytes_is_an_error_of_the_copy(fake, mounted, folder):
    images = {(status, size): fake.image("%d of %d" % (status, size), size, publish=False)
              for status in STATUSES if status for size in (1, 1000, MIB, SIZE)}
    fake.publish()
    for (status, _), image in images.items():
        fake.fault(image, "at=end stderr=that%%20was%%20another%%20version exit=%d" % status)
    mount = mounted(fake.uri, "ttl=3600", noisy=True)

    def try_image(which):
        name, status = images[which].name, which[0]
        assert read_error(mount / name) == STATUSES[status], which
        assert "another version" in error_of(mount / name)
        copy = run("cp", mount / name, folder / name, check=False)
        assert copy.returncode != 0 and os.strerror(STATUSES[status]) in copy.stderr

    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(try_image, images))


def test_a_bad_status_after_all_the_bytes_once(fake, mounted):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=end times=1 exit=74")
    check(mounted(fake.uri, noisy=True) / "a", image)


def test_a_drip_is_slow_and_whole(fake, mounted):
    image = fake.image("a", 2000)
    fake.fault(image, "drip=1/1")
    mount = mounted(fake.uri, "stall=5")
    check(mount / "a", image)


def test_a_drip_in_the_middle(fake, mounted):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%d times=3 delay=200" % (6 * MIB), "at=%d drip=4099/0" % (8 * MIB))
    check(mounted(fake.uri, "stall=5") / "a", image)


@pytest.mark.parametrize("hang", ["hang", "hang=deaf", "grandchild=deaf hang=deaf"])
def test_a_reader_that_hangs_is_ended_and_an_error(fake, mounted, hang):
    images = {where: fake.image(where, SIZE, publish=False)
              for where in ("begin", "0", str(5 * MIB), str(SIZE - 1))}
    other = fake.image("other", MIB)
    for where, image in images.items():
        fake.fault(image, "at=%s say=hangs %s" % (where, hang))
    mount = mounted(fake.uri, "stall=1", noisy=True)

    def try_image(image):
        assert read_error(mount / image.name) == errno.EIO
        assert error_of(mount / image.name)

    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(try_image, images.values()))
    wait_until(lambda: not mount.store_processes(), "the readers are gone")
    check(mount / "other", other)
    for image in images.values():
        fake.fault(image)
        check(mount / image.name, image)


@pytest.mark.parametrize("hang", ["hang", "hang=deaf", "grandchild=deaf hang=deaf"])
def test_an_end_that_did_not_come_is_an_error_however_often_it_is_asked(fake, mounted, hang):
    """Also when the time has passed in which it is refused without asking the store."""
    image = fake.image("a", SIZE)
    fake.fault(image, "at=end " + hang)
    mount = mounted(fake.uri, "stall=1", noisy=True)
    with open(mount / "a", "rb", buffering=0) as file:
        assert read_error(mount / "a") == errno.EIO
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            with pytest.raises(OSError):
                os.pread(file.fileno(), 1, SIZE - 1)
    fake.fault(image)
    check(mount / "a", image)


def test_a_reader_that_hangs_stops_nobody_else(fake, mounted):
    fake.fault(fake.image("a", SIZE), "at=%d say=hangs hang" % (2 * MIB))
    other = fake.image("other", SIZE)
    mount = mounted(fake.uri, "stall=600", "ttl=0", noisy=True)
    cat = subprocess.Popen(["cat", mount / "a"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: fake.marked("hangs"), "the store hangs")
        assert sorted(os.listdir(mount.path)) == ["a", "other"]
        for _ in range(3):
            check(mount / "other", other)
        assert os.stat(mount / "a").st_size == SIZE
    finally:
        cat.kill()
        cat.wait(60)


def test_many_that_hang_stop_nobody_else(fake, mounted):
    for number in range(100):
        image = fake.image("a%d" % number, SIZE, publish=False)
        fake.fault(image, "say=hangs%d hang" % number)
    other = fake.image("other", SIZE)
    mount = mounted(fake.uri, "stall=600", "ttl=0", noisy=True)
    cats = [subprocess.Popen(["cat", mount / ("a%d" % number)], stdout=subprocess.DEVNULL)
            for number in range(100)]
    try:
        wait_until(lambda: all(fake.marked("hangs%d" % n) for n in range(100)), "all hang")
        assert len(os.listdir(mount.path)) == 101
        check(mount / "other", other)
    finally:
        for cat in cats:
            cat.kill()
        for cat in cats:
            cat.wait(60)


@pytest.mark.parametrize("where", ["begin", str(5 * MIB), "end"])
def test_gigabytes_of_standard_error(fake, mounted, where):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%s flood=%d" % (where, 64 * MIB if SANITIZER or where != "end" else 1 << 30))
    mount = mounted(fake.uri, noisy=True)
    check(mount / "a", image)
    assert len(mount.log()) < 100000
    if not SANITIZER:
        assert mount.peak_memory() < 64 * MIB


def test_a_flood_of_standard_error_and_then_a_failure(fake, mounted):
    image = fake.image("a", SIZE)
    fake.fault(image, "flood=10000000 stderr=%0alast%20words exit=77")
    mount = mounted(fake.uri, noisy=True)
    assert read_error(mount / "a") == errno.EACCES
    assert "last words" in error_of(mount / "a")


@pytest.mark.parametrize("where", ["begin", "0", str(5 * MIB), "end"])
@pytest.mark.parametrize("kind", ["grandchild", "grandchild=deaf"])
@pytest.mark.parametrize("status", [74, 0])
def test_a_grandchild_that_holds_the_pipes(fake, mounted, where, kind, status):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%s times=1 %s exit=%d" % (where, kind, status))
    mount = mounted(fake.uri, "stall=600", noisy=True)
    check(mount / "a", image)
    wait_until(lambda: not mount.store_processes(), "the grandchild is gone")


def test_a_reader_that_forks_and_goes_on_in_the_child(fake, mounted):
    images = {(where, status): fake.image("%s-%d" % (where, status), SIZE, publish=False)
              for where in ("begin", "0", str(5 * MIB), "end") for status in (0, 74)}
    fake.publish()
    for (where, status), image in images.items():
        fake.fault(image, "at=%s fork=%d" % (where, status))
    mount = mounted(fake.uri, "stall=2", noisy=True)

    def try_image(image):
        try:
            check(mount / image.name, image)
        except OSError as error:
            assert error.errno == errno.EIO

    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(try_image, images.values()))
    wait_until(lambda: not mount.store_processes(), "nothing of it is left")


@pytest.mark.parametrize("where", ["begin", "0", str(5 * MIB)])
def test_a_reader_that_closes_its_output_and_stays(fake, mounted, where):
    image = fake.image("a", SIZE)
    fake.fault(image, "at=%s times=1 close hang=deaf" % where)
    mount = mounted(fake.uri, "stall=2", noisy=True)
    assert read_error(mount / "a") in (0, errno.EIO)
    check(mount / "a", image)


def test_a_store_program_that_disappears(fake, mounted, folder):
    """For a while it cannot be started; nothing else is wrong with the store."""
    import harness
    image = fake.image("a", SIZE)
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "imagefs-store-fake"
    program.write_bytes((harness.BUILD / "tests/mount/imagefs-store-fake").read_bytes())
    program.chmod(0o755)
    mount = mounted(fake.uri, "ttl=3600", store_path=str(programs), noisy=True)
    program.rename(programs / "away")
    assert read_error(mount / "a") == errno.EIO
    assert error_of(mount / "a")
    (programs / "away").rename(program)
    check(mount / "a", image)


def test_random_reads_are_errors_too_and_come_back(fake, mounted):
    image = fake.image("a", 1 << 40)
    mount = mounted(fake.uri, "readahead=0", noisy=True)
    with open(mount / "a", "rb", buffering=0) as file:
        places = [(n * 7919 * MIB) % (1 << 40) for n in range(30)]
        fake.fault(image, "times=5 exit=74")
        for place in places:
            assert os.pread(file.fileno(), 4096, place) == image.bytes(place, 4096)
        fake.fault(image, "stderr=gone%20fishing exit=69")
        for pid in mount.store_processes():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 99 * MIB)
        assert caught.value.errno == errno.EIO
        assert "gone fishing" in error_of(mount / "a")
        fake.fault(image)
        for place in places:
            assert os.pread(file.fileno(), 5000, place + 1) == image.bytes(place + 1, 5000)


@pytest.mark.xfail(strict=True, reason="answers have no frames: what is too much of one is "
                                       "taken for the beginning of the next that was asked for")
def test_bytes_too_many_between_random_reads_are_an_error(fake, mounted):
    """Several reads are asked for at once; the first answer is too long."""
    image = fake.image("a", 1 << 30)
    places = [n * 7 * MIB for n in range(1, 9)]
    fake.fault(image, "at=%d until=all" % places[0], "past=%d surplus=512" % (places[0] + 4096))
    mount = mounted(fake.uri, "readahead=0", noisy=True)

    fd = os.open(mount / "a", os.O_RDONLY | os.O_DIRECT)

    def read(place):
        try:
            return os.pread(fd, 4096, place) == image.bytes(place, 4096)
        except OSError as error:
            return error.errno == errno.EIO

    def asked():
        text = (mount / ".imagefs/stats").read_text()
        return int(re.search(r"^imagefs_reads_random_total\S+ (\d+)", text, re.M)[1])

    with ThreadPoolExecutor(len(places)) as pool:
        jobs = [pool.submit(read, places[0])]
        wait_until(lambda: fake.asks(image), "the first is asked for")
        jobs += [pool.submit(read, place) for place in places[1:]]
        wait_until(lambda: asked() == len(places), "all are asked for")
        fake.mark("all")
        results = [job.result() for job in jobs]
    os.close(fd)
    assert all(results)
