# SPDX-License-Identifier: MIT
"""imagefs verify: what it tells, with which status it ends, and that it leaves nothing."""

import hashlib
import json
import os
import pty
import signal
import subprocess

import pytest
from harness import IMAGEFS, LIMIT, STORE_PATH, descendants, wait_until

KIB, MIB = 1 << 10, 1 << 20


def command(*words, store_path=STORE_PATH):
    return [str(IMAGEFS), "verify", "-o", "store_path=" + store_path, *map(str, words)]


def verify(*words, **keys):
    """Run it; (status, standard output, standard error)."""
    done = subprocess.run(command(*words), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=LIMIT, **keys)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(autouse=True)
def built():
    status, _, said = verify("/")
    if "libcrypto" in said:
        pytest.skip("imagefs was built without libcrypto")


def hashed(image, algorithm="sha512", name=None):
    return {"os_hash_algo": name or algorithm,
            "os_hash_value": hashlib.new(algorithm, image.bytes(0, image.size)).hexdigest()}


def add(fake, name, size, algorithm="sha512", **attrs):
    """An image with the right hash, but for @attrs."""
    image = fake.image(name, size, publish=False)
    image.keys["attrs"] = {**hashed(image, algorithm), **attrs}
    fake.publish()
    return image


def rows(text):
    """{name: the rest of the line} of a table."""
    head, *lines = text.splitlines()
    assert head.split() == ["NAME", "SIZE", "HASH", "RESULT"]
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_images_that_are_equal_to_their_hashes(fake):
    add(fake, "empty", 0)
    add(fake, "byte", 1, "sha256")
    add(fake, "large", 9 * MIB + 7)
    status, text, said = verify(fake.uri)
    assert (status, said) == (0, "")
    assert rows(text) == {"byte": "1 sha256 equal", "empty": "0 sha512 equal",
                          "large": "9.0M sha512 equal"}


def test_an_image_that_is_not_equal_is_told_with_both_hashes(fake):
    add(fake, "good", 100 * KIB)
    bad = add(fake, "bad", 100 * KIB, os_hash_value="0" * 128)
    status, text, said = verify(fake.uri)
    assert (status, said) == (1, "")
    found = hashlib.sha512(bad.bytes(0, bad.size)).hexdigest()
    assert rows(text)["bad"] == f"100K sha512 DIFFERENT: is {found}, should be {'0' * 128}"
    assert rows(text)["good"] == "100K sha512 equal"


def test_one_byte_is_enough_to_be_different(fake):
    image = add(fake, "image", 100 * KIB)
    fake.fault(image, f"at={100 * KIB - 1} print=%00 short=1")
    status, text, _ = verify(fake.uri)
    assert status == 1 and "DIFFERENT" in text


def test_an_image_that_cannot_be_read_is_told_with_the_reason(fake):
    image = add(fake, "image", 100 * KIB)
    add(fake, "other", 100 * KIB)
    fake.fault(image, "at=5000 stderr=the%20store%20is%20angry exit=77")
    status, text, said = verify(fake.uri)
    assert status == 1
    assert rows(text)["image"].startswith("100K sha512 NOT READ: ")
    assert "the store is angry" in rows(text)["image"] and "angry" in said
    assert rows(text)["other"] == "100K sha512 equal"


def test_a_reader_that_ends_early_is_started_again(fake):
    image = add(fake, "image", 3 * MIB)
    fake.fault(image, "at=1000000 times=2 exit=75")
    status, text, said = verify(fake.uri)
    assert status == 0 and rows(text)["image"] == "3.0M sha512 equal"
    assert len(said.splitlines()) == 2


def test_what_a_program_takes_back_at_its_end_is_not_equal(fake):
    """All bytes came, but the program says that they were wrong."""
    image = add(fake, "image", 100 * KIB)
    fake.fault(image, "at=end exit=65")
    status, text, _ = verify(fake.uri)
    assert status == 1 and "NOT READ" in text


def test_an_image_without_a_hash_has_nothing_to_compare_with(fake):
    fake.image("plain", 5000)
    status, text, said = verify(fake.uri)
    assert (status, said) == (3, "")
    assert rows(text) == {"plain": "4.9K - nothing to compare with"}
    assert fake.calls("read") == []
    add(fake, "good", 5000)
    assert verify(fake.uri)[0] == 3
    assert verify(fake.uri, "good")[0] == 0
    add(fake, "bad", 5000, os_hash_value="0" * 128)
    assert verify(fake.uri)[0] == 1


def test_md5_is_compared_for_want_of_another_hash(fake):
    image = fake.image("old", 5000, publish=False)
    md5 = hashlib.md5(image.bytes(0, 5000)).hexdigest()
    image.keys["attrs"] = {"checksum": md5.upper()}
    fake.publish()
    assert rows(verify(fake.uri)[1]) == {"old": "4.9K md5 equal"}
    image.keys["attrs"] = {"checksum": md5, "os_hash_algo": "of-tomorrow", "os_hash_value": "1"}
    fake.publish()
    assert rows(verify(fake.uri)[1]) == {"old": "4.9K md5 equal"}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha224", "sha384", "blake2b", "blake2s",
                                       "sha3_256"])  # fmt: skip
def test_hashes_go_by_the_names_that_glance_has_for_them(fake, algorithm):
    add(fake, "image", 5000, algorithm)
    assert rows(verify(fake.uri)[1]) == {"image": f"4.9K {algorithm} equal"}


def test_images_are_chosen_by_file_name_or_id(fake):
    first, second = add(fake, "first", 10), add(fake, "a/b", 10)
    third = add(fake, "third", 10)
    assert list(rows(verify(fake.uri, "third", second.id)[1])) == ["third", "a%2Fb"]
    assert list(rows(verify(fake.uri, "a%2Fb", first.id)[1])) == ["a%2Fb", "first"]
    assert fake.readers(third) == 1
    status, text, said = verify(fake.uri, "first", "nobody")
    assert status == 1 and said == "imagefs: nobody: no such image\n"
    assert list(rows(text)) == ["first"]


def test_a_store_that_cannot_be_listed_is_an_error(fake):
    fake.fault("list", "stderr=no%20list%20today exit=69")
    status, text, said = verify(fake.uri)
    assert status == 1 and text == "" and "no list today" in said
    assert verify("nothing://")[0] == 1
    assert verify()[0] == 2  # as for all wrong arguments


def test_no_images_at_all_are_all_equal(fake):
    assert verify(fake.uri)[0] == 0


def test_many_images_are_told_in_the_order_of_their_names(fake):
    names = ["image-%02d" % i for i in range(40)]
    for i, name in enumerate(names):
        add(fake, name, (i * 7919) % 300000 + 1)
    status, text, said = verify(fake.uri)
    assert (status, said) == (0, "")
    assert list(rows(text)) == names


def test_json_is_an_object_for_each_image(fake):
    good = add(fake, "good", 5000)
    add(fake, b"\xff".decode(errors="surrogateescape"), 5000, os_hash_value="0" * 128)
    fake.image("plain", 5000)
    status, text, _ = verify("--json", fake.uri)
    assert status == 1
    found = {o.get("file", o.get("file_hex")): o for o in map(json.loads, text.splitlines())}
    value = good.keys["attrs"]["os_hash_value"]
    assert found["good"] == {"file": "good", "id": good.id, "size": 5000, "result": "equal",
                             "hash": "sha512", "expected": value, "found": value}
    assert found["plain"] == {"file": "plain", "id": "id-plain", "size": 5000,
                              "result": "no hash"}
    assert found["ff"]["result"] == "different"
    assert found["ff"]["expected"] == "0" * 128


def on_terminal(*words, **variables):
    """Run it on a terminal; (status, what the terminal got)."""
    environment = {**os.environ, "TERM": "xterm", **variables}
    environment = {k: v for k, v in environment.items() if v is not None}
    pid, fd = pty.fork()
    if pid == 0:
        arguments = command(*words)
        os.execve(arguments[0], arguments, environment)
    text = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            piece = b""
        if not piece:
            break
        text += piece
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


def test_a_terminal_gets_a_bar_and_colors(fake):
    add(fake, "image", 5 * MIB)
    status, text = on_terminal(fake.uri, NO_COLOR=None)
    assert status == 0
    assert "%" in text and "MB/s" in text
    assert "\033[32mequal" in text
    # What stays of each line is what is behind its last return.
    lines = [line.rsplit("\r\033[K", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    assert lines[0].split() == ["NAME", "SIZE", "HASH", "RESULT"]
    assert lines[-1] == ""


def test_no_colors_where_they_are_not_wanted(fake):
    add(fake, "image", 5 * MIB)
    assert "\033[32m" not in on_terminal(fake.uri, NO_COLOR="1")[1]
    text = on_terminal(fake.uri, TERM="dumb", NO_COLOR=None)[1]
    assert "\033" not in text and "MB/s" not in text


def test_no_bar_where_there_is_no_terminal(fake):
    add(fake, "image", 5 * MIB)
    status, text, said = verify(fake.uri, env={**os.environ, "TERM": "xterm"})
    assert (status, said) == (0, "")
    assert "\r" not in text and "\033" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_its_programs(fake, number):
    add(fake, "done", 10)
    image = add(fake, "image", 50 * MIB)
    fake.fault(image, "at=1000000 say=reading hang")
    with subprocess.Popen(command(fake.uri), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().split()[0] == b"NAME"
        assert process.stdout.readline().split()[0] == b"done"
        wait_until(lambda: fake.marked("reading"), "the image is read")
        programs = descendants(process.pid)
        assert programs
        process.send_signal(number)
        text, said = process.communicate(timeout=LIMIT)
    assert process.returncode == -number
    assert (text, said) == (b"", b"")
    alive = lambda: [p for p in programs if os.path.exists("/proc/%d" % p)]
    wait_until(lambda: all(state_of(p) in ("Z", None) for p in alive()), "all programs are gone")


def state_of(pid):
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0].decode()
    except OSError:
        return None


def test_ctrl_c_takes_the_bar_away(fake):
    image = add(fake, "image", 50 * MIB)
    fake.fault(image, "at=1000000 say=reading hang")
    pid, fd = pty.fork()
    if pid == 0:
        arguments = command(fake.uri)
        os.execve(arguments[0], arguments, {**os.environ, "TERM": "xterm"})
    text = b""
    while b"MB/s" not in text:
        text += os.read(fd, 65536)
    wait_until(lambda: fake.marked("reading"), "the image is read")
    os.write(fd, b"\003")
    status = os.waitpid(pid, 0)[1]
    try:
        while piece := os.read(fd, 65536):
            text += piece
    except OSError:
        pass
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGINT
    assert text.endswith(b"\r\033[K")


def test_a_reader_of_the_table_that_goes_away_is_an_error(fake):
    for i in range(5):
        add(fake, "image-%d" % i, 10)
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(command(fake.uri), stdin=subprocess.DEVNULL, stdout=write,
                          stderr=subprocess.PIPE) as process:
        os.close(write)
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "written" in said
