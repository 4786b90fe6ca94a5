# SPDX-License-Identifier: MIT
"""The manual's section FAULTS: for each row it is made to happen, and what is seen and what
the log says is what the row says."""

import errno
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults_manual import ROWS, check_row, pattern_of
from harness import BUILD, wait_until

HERE = Path(__file__).parent
MIB = 1 << 20
SIZE = 2 * MIB
TELLING = "stderr=so%20it%20is "

# Reads of an image with this fault, each time or so often.
READS = {
    "A store program dies once": "at=1000 times=1 signal=9",
    "A store program dies each time": "at=1000 signal=9",
    "A store program ends before it has sent everything": "at=1000 exit=0",
    "A store program sends more than it was asked for": "past=%d surplus=10" % SIZE,
    "A store program closes its output and stays": "at=1000 close hang=deaf",
    "A store program does not end": "at=end hang=deaf",
    "A store program fills its standard error": "flood=3000000",
    "The store cannot be reached": TELLING + "exit=69",
    "The store hangs": "at=1000 hang=deaf",
    "The store cannot read a part of an image": "at=1000 " + TELLING + "exit=74",
    "What the store sent turns out wrong": "at=end " + TELLING + "exit=65",
    "An image is deleted, replaced, or shrinks while it is open": TELLING + "exit=66",
    "The store refuses an image": TELLING + "exit=77",
}

# Those that a test elsewhere makes happen, by name: it checks the row.
ELSEWHERE = {
    "The store drips": "test_limits.py: "
        "test_a_store_that_is_slower_than_the_kernel_waits_does_not_lose_the_mount",
    "No descriptors are left to read": "test_limits.py: "
        "test_without_descriptors_a_read_fails_and_says_so_and_others_go_on",
    "No processes are left": "test_limits.py: test_without_processes_a_read_fails_and_says_so",
    "No memory, or no threads are left": "test_limits.py: "
        "test_without_threads_a_read_fails_and_says_so",
    "The log cannot be written": "test_limits.py: test_a_log_that_nobody_reads_is_no_obstacle",
}


def seen_of(read):
    """What the row calls what @read does: the name of an errno, or nothing."""
    try:
        read()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "nothing"


def read_whole(path, image):
    with open(path, "rb", buffering=0) as file:
        offset = 0
        while offset < image.size:
            data = os.pread(file.fileno(), MIB, offset)
            assert data and data == image.bytes(offset, len(data))
            offset += len(data)


def test_every_row_is_made_to_happen():
    assert set(ROWS) == {*READS, *ELSEWHERE, *LISTS, *OTHERS}


def test_what_goes_wrong_with_reading_is_seen_and_told_as_the_manual_says(fake, mounted):
    images = {title: fake.image("image %d" % number, SIZE, publish=False)
              for number, title in enumerate(READS)}
    fake.publish()
    for title, image in images.items():
        fake.fault(image, READS[title])
    # Where nothing hangs a machine that is busy must not come upon the stall limit.
    patient = mounted(fake.uri, "stall=600", "ttl=3600", noisy=True)
    soon = mounted(fake.uri, "stall=3", "ttl=3600", noisy=True)

    def see(title):
        image = images[title]
        mount = soon if "hang" in READS[title] else patient
        path = mount / image.name
        seen = seen_of(lambda: read_whole(path, image))
        log = "".join(line + "\n" for line in mount.log().splitlines()
                      if line.startswith("imagefs: %s: " % image.name))
        check_row(title, seen, log)
        if seen != "nothing":
            assert os.getxattr(path, "user.imagefs.error").decode() in log
        fake.fault(image)
        read_whole(path, image)  # without a new mount

    with ThreadPoolExecutor(len(READS)) as pool:
        for job in [pool.submit(see, title) for title in READS]:
            job.result()


def fails_to_list(fake, mount, fault):
    fake.fault("list", fault)
    wait_until(lambda: seen_of(lambda: os.listdir(mount.path)) == "EIO", "ls fails")
    return "EIO"


def list_hangs(fake, mount):
    fake.fault("list", "hang=deaf")
    wait_until(lambda: os.listdir(mount.path) and "gave nothing" in mount.log(), "the list hangs")
    return "the old list"


def list_is_cut(fake, mount):
    text = fake.image("b", 10).line()
    fake.write("images.jsonl", text + text[:-5])
    wait_until(lambda: seen_of(lambda: os.listdir(mount.path)) == "EIO", "ls fails")
    return "EIO"


def list_has_rubbish(fake, mount):
    fake.write("images.jsonl", '{"name": "b", "id": "b", "size": -1}\n')
    wait_until(lambda: not os.listdir(mount.path), "the list is another one")
    return "the image is missing"


def store_comes_back(fake, mount):
    fails_to_list(fake, mount, "exit=69")
    fake.fault("list")
    wait_until(lambda: seen_of(lambda: os.listdir(mount.path)) == "nothing", "ls works")
    return "all is well"


LISTS = {
    "The store cannot be listed": lambda fake, mount: fails_to_list(fake, mount,
                                                                    TELLING + "exit=69"),
    "The store hangs when it is listed": list_hangs,
    "The store's list is cut off": list_is_cut,
    "The store's list has rubbish in it, or sizes that cannot be": list_has_rubbish,
    "The store comes back": store_comes_back,
}


@pytest.mark.parametrize("title", LISTS)
def test_what_goes_wrong_with_listing_is_seen_and_told_as_the_manual_says(fake, mounted, title):
    fake.image("a", 10)
    mount = mounted(fake.uri, "stall=1", "ttl=0", noisy=True)
    seen = LISTS[title](fake, mount)
    mount.wait_log(pattern_of(ROWS[title][1]))
    check_row(title, seen, mount.log())
    fake.fault("list")
    fake.publish()
    wait_until(lambda: seen_of(lambda: os.listdir(mount.path)) == "nothing", "ls works")


def no_program(fake, mount, image, folder):
    (folder / "imagefs-store-fake").unlink()
    return seen_of(lambda: read_whole(mount / "a", image))


def no_extents(fake, mount, image, folder):
    fake.fault("extents." + image.id, TELLING + "exit=74")
    with open(mount / "a", "rb") as file:
        return seen_of(lambda: os.lseek(file.fileno(), 0, os.SEEK_HOLE))


def no_warden(fake, mount, image, folder):
    (warden,) = [pid for pid in mount.children()
                 if Path("/proc/%d/comm" % pid).read_text() == "imagefs-warden\n"]
    fake.fault(image, "at=%d say=there hang" % MIB)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(seen_of, lambda: read_whole(mount / "a", image))
        wait_until(lambda: fake.marked("there"), "it is read")
        os.kill(warden, signal.SIGKILL)
        return job.result()


OTHERS = {
    "A store program is gone": no_program,
    "The store cannot say where an image has data": no_extents,
    "The process that runs store programs is killed": no_warden,
}


@pytest.mark.parametrize("title", OTHERS)
def test_what_else_goes_wrong_is_seen_and_told_as_the_manual_says(fake, mounted, folder, title):
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "imagefs-store-fake"
    program.write_bytes((BUILD / "tests/mount/imagefs-store-fake").read_bytes())
    program.chmod(0o755)
    image = fake.image("a", SIZE)
    mount = mounted(fake.uri, "ttl=3600", store_path=str(programs), noisy=True)
    assert os.listdir(mount.path) == ["a"]
    check_row(title, OTHERS[title](fake, mount, image, programs), mount.log())


@pytest.mark.parametrize("title", ELSEWHERE)
def test_what_another_test_makes_happen_is_compared_there(title):
    file, name = ELSEWHERE[title].split(": ")
    test = re.search(r"^def %s\(.*?(?=^def |^@|\Z)" % name, (HERE / file).read_text(), re.S | re.M)
    assert test and 'check_row("%s"' % title in test[0]
