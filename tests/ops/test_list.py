# SPDX-License-Identifier: MIT
"""imagefs list, and what imagefs shows at a terminal."""

import json
import os
import pty
import subprocess

import pytest
from harness import IMAGEFS, LIMIT, STORE_PATH, run

BOLD, RED, OFF = "\x1b[1m", "\x1b[31m", "\x1b[0m"
PATH = ["-o", "store_path=" + STORE_PATH]


@pytest.fixture
def store(fake):
    """Four images; in the order of their names the others are no order."""
    fake.image("c", 3 << 30, mtime=300, allocated=1 << 20)
    fake.image("a", 1000, mtime=400)
    fake.image("d", 5 << 20, mtime=100, allocated=512)
    fake.image("b", 2 << 20, mtime=200, allocated=2 << 20)
    return fake.uri


def names(*options, env=None):
    lines = run(IMAGEFS, "list", *PATH, *options, env=env).stdout.splitlines()
    return "".join(line.split()[0] for line in lines[1:])


@pytest.mark.parametrize("key,order", [("name", "abcd"), ("size", "cdba"), ("time", "acbd"),
                                       ("allocated", "bcda")])
def test_a_list_is_sorted(store, key, order):
    assert names("--sort=" + key, store) == order
    assert names("--sort=" + key, "--reverse", store) == order[::-1]


def test_objects_are_sorted_too(store):
    lines = run(IMAGEFS, "list", *PATH, "--json", "--sort=size", store).stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == list("cdba")


def test_images_that_are_the_same_in_the_key_are_sorted_by_name(fake):
    for name in "cab":
        fake.image(name, 10)
    assert names("--sort=size", fake.uri) == "abc"


def test_sizes_are_for_people_or_in_bytes(store):
    table = {line.split()[0]: line.split()[1:3]
             for line in run(IMAGEFS, "list", *PATH, store).stdout.splitlines()}
    assert table["c"] == ["3.0G", "1.0M"]
    assert table["a"] == ["1000", "-"]
    table = {line.split()[0]: line.split()[1:3]
             for line in run(IMAGEFS, "list", *PATH, "--bytes", store).stdout.splitlines()}
    assert table["c"] == ["3221225472", "1048576"]
    assert table["a"] == ["1000", "-"]


@pytest.mark.parametrize("options", [[], ["--bytes"]])
def test_columns_are_straight(fake, options):
    fake.image("kurz", (1 << 63) - 1, mtime=1, allocated=(1 << 63) - 1)
    fake.image("gr\u00fc\u00dfe\u2026", 1, mtime=1, allocated=0)
    lines = run(IMAGEFS, "list", *PATH, *options, fake.uri).stdout.splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[0].index("TIME") == lines[1].index("1970")


def at_terminal(*args, **variables):
    """The output of a program at a terminal, and its status."""
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    parent, child = pty.openpty()
    process = subprocess.Popen([str(arg) for arg in args], stdin=child, stdout=child, stderr=child,
                               env={**env, "TERM": "xterm", **variables}, start_new_session=True)
    os.close(child)
    said = b""
    try:
        while True:
            said += os.read(parent, 65536)
    except OSError:
        pass  # the terminal's other side is closed
    os.close(parent)
    return said.decode(), process.wait(LIMIT)


def test_colours_are_for_terminals(store):
    said, status = at_terminal(IMAGEFS, "list", *PATH, store)
    assert status == 0 and said.startswith(BOLD + "NAME") and OFF in said
    said, status = at_terminal(IMAGEFS, "list", "nosuch:x")
    assert status == 1 and said.startswith(RED + "imagefs:" + OFF + " ")
    assert "\x1b" not in run(IMAGEFS, "list", *PATH, store).stdout
    assert "\x1b" not in run(IMAGEFS, "list", "nosuch:x", check=False).stderr


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_for_those_who_want_them(store, variables):
    said, status = at_terminal(IMAGEFS, "list", *PATH, store, **variables)
    assert status == 0 and "NAME" in said and "\x1b" not in said
    said, status = at_terminal(IMAGEFS, "list", "nosuch:x", **variables)
    assert status == 1 and "nosuch" in said and "\x1b" not in said


def test_what_a_terminal_would_act_on_is_not_shown_there(fake):
    fake.image("a\x1b]0;title\x07b", 1)
    said, _ = at_terminal(IMAGEFS, "list", *PATH, fake.uri, NO_COLOR="1")
    assert "a?]0;title?b" in said
    assert "a\x1b]0;title\x07b" in run(IMAGEFS, "list", *PATH, fake.uri).stdout


def test_who_reads_the_first_line_only_hears_no_complaint(fake):
    for number in range(5000):
        fake.image("image%d" % number, 1, publish=False)
    fake.publish()
    done = run("bash", "-c", '"$@" | head -n 1', "-", IMAGEFS, "list", *PATH, fake.uri)
    assert done.stdout.startswith("NAME") and done.stderr == ""


def test_an_output_that_cannot_be_written_is_an_error(store):
    with open("/dev/full", "w") as full:
        done = subprocess.run([IMAGEFS, "list", *PATH, store], stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert done.stderr == "imagefs: the list cannot be written: No space left on device\n"


USE_BUILT = "-ostore_path=" + STORE_PATH


@pytest.mark.parametrize("arguments,status", [
    (["--help"], 0), (["--version"], 0), (["list", USE_BUILT, "{store}"], 0),
    (["list", USE_BUILT, "{store}/nowhere"], 1), (["list", "nosuch:x"], 1), ([], 2), (["list"], 2),
    (["{store}"], 2), (["{store}", "{store}/nowhere"], 2), (["-o", "nosuch", "{store}", "/"], 2),
    (["--nosuch"], 2), (["-x"], 2), (["list", "--sort=x", "{store}"], 2),
    (["-o", "rw", "{store}", "/"], 2), (["-o", "stall=x", "{store}", "/"], 2),
])
def test_exit_statuses_are_those_of_the_manual(images, arguments, status):
    done = run(IMAGEFS, *[argument.format(store=images) for argument in arguments], check=False)
    assert done.returncode == status
    assert (done.stderr == "") == (status == 0)
    if status:
        assert done.stderr.startswith("imagefs: ") and done.stderr.count("\n") == 1
