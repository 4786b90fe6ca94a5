# SPDX-License-Identifier: MIT
"""What the manual says is what the program says."""

import errno
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import BUILD, IMAGEFS, SOURCE, STORE_PATH, run, wait_until

MANUAL = (SOURCE / "src" / "imagefs.1.rst").read_text()
MIB = 1 << 20


def section(title):
    """The text under a headline, up to the next one of its kind."""
    found = re.search(r"^%s\n([=-])\1+\n(.*?)(?=^[^\n]+\n\1\1+\n|\Z)" % re.escape(title), MANUAL,
                      re.S | re.M)
    assert found, "the manual has no section " + title
    return found[2]


def terms(text):
    """The terms of a definition list: lines that an indented one follows."""
    return re.findall(r"^(?=\S)(.+)\n(?=    \S)", text, re.M)


def help_text():
    return run(IMAGEFS, "--help").stdout


def helped_options():
    """The options that --help tells, as "-f", "--json" or "ttl=SECONDS"."""
    found = []
    for line in help_text().splitlines():
        word = re.match(r"  (-.|--[a-z-]+(?:=\S+)?|[a-z_]+(?:=\S+)?)(?:, (--[a-z-]+))?(?:\s+|$)", line)
        if word:
            found += [option for option in word.groups() if option]
    return found


def told_options():
    text = section("OPTIONS")
    return [re.sub(r"^-o .*", "-o", option)
            for term in terms(text) for option in term.split(", ")]


def test_each_option_of_the_help_is_in_the_manual():
    assert sorted(set(helped_options()) - set(told_options())) == []


def test_each_option_of_the_manual_is_in_the_help():
    usage = set(re.findall(r"\[(-\w|--[a-z-]+)", help_text()))
    assert sorted(set(told_options()) - set(helped_options()) - usage) == []


def test_each_option_of_the_usage_is_in_the_synopsis():
    synopsis = section("SYNOPSIS").replace("*", "").replace("\\ ", "")
    for line in help_text().split("\n\n")[0].splitlines():
        line = line.replace("usage:", "").strip()
        assert line in synopsis, line


def test_options_of_mount_that_the_manual_names_are_accepted(images):
    named = re.search(r"^ro\n(.*?)(?=^\S|\Z)", section("OPTIONS"), re.S | re.M)[1]
    options = [o for o in re.findall(r"\*\*([a-z_.-]+)\*\*(?!\\)", named) if o != "rw"]
    assert len(options) > 5
    for option in options:
        run(IMAGEFS, "list", "-o", "%s,store_path=%s" % (option, STORE_PATH), images)
    assert run(IMAGEFS, "list", "-o", "rw", images, check=False).returncode != 0


def test_defaults_in_the_manual_are_those_of_the_help():
    manual = dict(re.findall(r"^([a-z]+)=\S+\n(.*?)(?=^\S)", section("OPTIONS"), re.S | re.M))
    for name, text in re.findall(r"^  ([a-z]+)=\S+\s+(.*)", help_text(), re.M):
        default = re.search(r"default: (\d+[KM]?)", text)
        if default:
            assert re.search(r"Default:\s+%s\b" % default[1], manual[name]), name


def test_keys_of_a_listing_are_those_in_the_manual(fake):
    fake.image("a", 1, allocated=5, mtime=7, attrs={"k": "v"})
    fake.image(b"\xff", 1)
    text = section("LISTING")
    for line in run(IMAGEFS, "list", "--json", "-o", "store_path=" + STORE_PATH,
                    fake.uri).stdout.splitlines():
        for key in json.loads(line):
            assert "``%s``" % key in text, key


def test_each_figure_is_in_the_manual(fake, mounted):
    fake.image("a", 10)
    mount = mounted(fake.uri)
    (mount / "a").read_bytes()
    text = section("FIGURES")
    names = {re.sub("^imagefs_(image_)?", "", name)
             for name in re.findall(r"(?m)^# TYPE (\S+)", (mount / ".imagefs/stats").read_text())}
    assert names == set(re.findall(r"``([a-z_]+(?:_(?:total|bytes|seconds|running)|_files)|images|streams)``",
                                   text))


def test_keys_of_a_verification_are_those_in_the_manual(fake):
    content = fake.image("good", 1000)
    content.keys["attrs"] = {"checksum": hashlib.md5(content.bytes(0, 1000)).hexdigest()}
    fake.image("bare", 10)
    bad = fake.image("bad", 10)
    bad.keys["attrs"] = {"checksum": "0" * 32}
    lost = fake.image("lost", 10)
    lost.keys["attrs"] = {"checksum": "0" * 32}
    fake.fault(lost, "stderr=gone exit=66")
    fake.publish()
    text = section("VERIFYING")
    for names, status in [(["good"], 0), (["bad"], 1), (["lost"], 1), (["good", "bare"], 3), ([], 1)]:
        done = run(IMAGEFS, "verify", "--json", "-o", "store_path=" + STORE_PATH, fake.uri, *names,
                   check=False)
        if "built without" in done.stderr:
            pytest.skip("built without OpenSSL")
        assert done.returncode == status, names
        for line in done.stdout.splitlines():
            told = json.loads(line)
            assert "*%s*" % told["result"] in text
            for key in told:
                assert "``%s``" % key in text, key


def test_the_page_is_rendered_without_a_complaint(folder):
    page = folder / "imagefs.1"
    run("rst2man", "--halt=2", SOURCE / "src" / "imagefs.1.rst", page)
    shown = run("man", "--warnings", "-l", page, env={**os.environ, "MANWIDTH": "90",
                                                    "LC_ALL": "C.UTF-8"})
    assert shown.stderr == ""
    assert "imagefs list" in shown.stdout


# ---- troubleshooting ----

# What stands for something in a line of the log, as the manual writes it.
PLACES = r"\b(?:STORE|USER|OPTION|IMAGE|TEXT|PROGRAM|PATH|DIR|WHY|LINE|N|'rbd'|imagefs-store-rbd|30|69|77|64|" \
         r"74|75|65|66|137|127)\b|'rbd'"


def log_lines():
    """[(line, part of the section)] of the lines that are quoted as such."""
    text = section("TROUBLESHOOTING")
    parts = re.split(r"^([^\n]+)\n-+\n", text, flags=re.M)[1:]
    found = []
    for title, part in zip(parts[::2], parts[1::2]):
        for term in terms(part):
            quoted = re.match(r"``(.*?)``", term)
            if quoted and not title.startswith("Other"):
                found.append((quoted[1], title))
    assert len(found) > 30
    return found


# They are others' words.
FOREIGN = ["fuse: device not found, try 'modprobe fuse' first",
           "fusermount3: option allow_other only allowed if 'user_allow_other' is set in "
           "/etc/fuse.conf"]
SYSTEM = re.compile("|".join(os.strerror(number) for number in errno.errorcode))


def literals():
    """All string literals of the daemon, those that follow one another put together."""
    text = ""
    for path in sorted((SOURCE / "src").glob("*.c")):
        source = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        for group in re.findall(r'((?:"(?:[^"\\]|\\.)*"\s*)+)', source):
            text += "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', group)) + "\n"
    return text


def test_each_line_of_the_log_in_the_manual_is_in_the_sources():
    known = re.sub(r"%[-.*0-9]*[a-z]*", "", literals())
    for line, _ in log_lines():
        if line in FOREIGN:
            continue
        for piece in re.split(PLACES + r"|\)| at byte|: |" + SYSTEM.pattern, line):
            piece = piece.strip(" :,()")
            assert piece in known, "%r of %r" % (piece, line)


# They say what their own words mean, or what the kernel's do.
PLAIN = {"%s", "%s: %s", "%s: %s (%s)", "/: %s"}


def messages():
    """What the daemon can log, but for debugging: the literals of the calls."""
    for path in sorted((SOURCE / "src").glob("*.c")):
        source = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        for call in re.findall(r"\b(?:log_line|log_image|image_set_error(?:_at)?)\(([^;]*)\);", source):
            text = re.search(r'((?:"(?:[^"\\]|\\.)*"\s*(?:PRIu64)?\s*)+)', call)
            if text and "LOG_DEBUG" not in call:
                yield path.name, "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text[1]))


def test_each_message_of_the_sources_is_in_the_manual():
    told = re.sub(r"\s+", " ", section("TROUBLESHOOTING"))
    found = 0
    for name, message in messages():
        if message in PLAIN or "(see imagefs --help)" in message or name == "options.c":
            continue
        found += 1
        pieces = [p.strip(" :,.()'") for p in re.split(r"%[-.*0-9]*(?:z|l|ll)?[a-z]?", message)]
        for piece in pieces:
            if "cannot be written" in piece:
                piece = "cannot be written"
            assert piece in told, "%r of %s" % (message, name)
    assert found > 15


def pattern_of(line):
    """A regular expression for what is logged."""
    out, last = "", 0
    for place in re.finditer(r"\b(STORE|USER|OPTION|IMAGE|TEXT|PROGRAM|PATH|DIR|WHY|LINE|N)\b", line):
        out += re.escape(line[last:place.start()])
        out += r"\d+" if place[1] == "N" else r".+"
        last = place.end()
    return "imagefs: " + out + re.escape(line[last:])


# How to have a line of the log: the fault of the reads of an image, and what reading says.
READS = {
    "IMAGE: the store gave nothing until the stall limit at byte N": "hang",
    "IMAGE: the store program ended with status 69 at byte N: TEXT": "stderr=away exit=69",
    "IMAGE: the store program ended with status 74 at byte N: TEXT": "stderr=burnt exit=74",
    "IMAGE: the store program ended with status 75 at byte N: TEXT": "stderr=busy exit=75",
    "IMAGE: the store program ended with status 65 at byte N: TEXT": "stderr=sum exit=65",
    "IMAGE: the store program ended with status 64 at byte N: TEXT": "stderr=what exit=64",
    "IMAGE: the store program ended with status 137 at byte N": "signal=9",
    "IMAGE: the store program ended too early at byte N": "exit=0",
    "IMAGE: the store program sent more than it was asked for at byte N": "at=end surplus=1",
    "IMAGE: the store program closed its output and goes on at byte N": "close hang=deaf",
    "IMAGE: the store program did not end at byte N": "at=end hang=deaf",
    "IMAGE: the store program ended with status 66 at byte N: TEXT": "stderr=gone exit=66",
    "IMAGE: the store program ended with status 77 at byte N: TEXT": "stderr=no exit=77",
}

# They take a machine that is out of something, or a bug; or they have a test of their own.
UNTRIED = [
    "IMAGE: the store program ended with status 127 at byte N: cannot run PROGRAM: TEXT",
    "IMAGE: the store program is lost at byte N",
    "IMAGE: Too many open files at byte N",
    "IMAGE: the store program's extents failed with status N: TEXT",
    "IMAGE: the store program's extents failed: a line that is no extent",
    "IMAGE: no reader can be started: TEXT",
    # tests/mount/test_limits.py
    "IMAGE: cannot be opened: TEXT",
    "IMAGE: the store program cannot be started: TEXT at byte N",
    "IMAGE: the store is too slow for the kernel's limit (fs.fuse.max_request_timeout) at byte N",
]


def test_each_line_about_an_image_has_a_fault_that_brings_it():
    told = [line for line, title in log_lines() if line.startswith("IMAGE")]
    assert sorted(told) == sorted([*READS, *UNTRIED])


def test_faults_of_reads_are_told_as_in_the_manual(fake, mounted):
    """The application's error is that of the headline, and the log has the line."""
    title_of = dict(log_lines())
    for number, (line, fault) in enumerate(READS.items()):
        fake.fault(fake.image("image%d" % number, 5000), fault)
    mount = mounted(fake.uri, "stall=1", noisy=True)
    readers = [subprocess.Popen(["cat", mount / ("image%d" % number)], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True) for number in range(len(READS))]
    for reader, line in zip(readers, READS):
        said = reader.communicate(timeout=120)[1]
        assert title_of[line].split(": ")[1] in said, line
        assert re.search("(?m)^" + pattern_of(line), mount.log()), line


def test_a_program_that_is_gone_is_told_as_in_the_manual(fake, mounted, folder):
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "imagefs-store-fake"
    program.write_bytes((BUILD / "tests/mount/imagefs-store-fake").read_bytes())
    program.chmod(0o755)
    fake.image("a", 5000)
    mount = mounted(fake.uri, "ttl=3600", store_path=str(programs), noisy=True)
    program.unlink()
    assert "Input/output error" in run("cat", mount / "a", check=False).stderr
    assert re.search("(?m)^" + pattern_of(UNTRIED[0]), mount.log())


@pytest.mark.parametrize("fault,line", [("stderr=away exit=74", UNTRIED[3]),
                                        ("print=rubbish%0a", UNTRIED[4])])
def test_extents_that_fail_are_told_as_in_the_manual(fake, mounted, fault, line):
    image = fake.image("a", 5000, extents=[(0, 100)], allocated=512)
    fake.fault("extents." + image.id, fault)
    mount = mounted(fake.uri, noisy=True)
    with open(mount / "a", "rb") as file:
        with pytest.raises(OSError):
            os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    assert re.search("(?m)^" + pattern_of(line), mount.log())


def mount_and_fail(store, mountpoint, *options):
    done = run(IMAGEFS, "-f", "-o", ",".join(["store_path=" + STORE_PATH, *options]), store,
               mountpoint, check=False)
    assert done.returncode != 0
    return done.stderr


def test_mounts_that_fail_are_told_as_in_the_manual(fake, folder, images):
    title = "No mount: imagefs ends with an error"
    lines = [line for line, part in log_lines() if part == title]
    said = mount_and_fail("rbd:x", images, "store_path=/nowhere")
    said += mount_and_fail(folder / "nowhere", images)
    (images / "file").touch()
    said += mount_and_fail(images / "file", images)
    said += mount_and_fail(images, folder / "nowhere")
    for status in (69, 77, 64):
        fake.fault("list", "stderr=sorry exit=%d" % status)
        said += mount_and_fail(fake.uri, images)
    fake.fault("list", "print=half hang" )
    said += mount_and_fail(fake.uri, images, "stall=1").replace("for 1 s", "for 30 s")
    fake.fault("list", "print=half exit=0")
    said += mount_and_fail(fake.uri, images)
    if not os.geteuid():
        said += mount_and_fail(images, images, "store_user=nosuchuser")
    said += mount_and_fail(images, images, "nosuch")
    said += mount_and_fail(images, images, "rw")
    untried = ["store_user=USER: only root","PATH: Transport endpoint", "fuse: device", "fusermount3: option", "PATH: cannot be",
               "PATH: the kernel does not", "the warden process"]
    for line in lines:
        if not any(line.startswith(begin) for begin in untried):
            assert re.search("(?m)^" + pattern_of(line), said), line


def test_a_dead_mount_in_the_way_is_told_as_in_the_manual(images, folder):
    line = [line for line, _ in log_lines() if line.startswith("PATH: Transport endpoint")][0]
    mnt = folder / "mnt"
    mnt.mkdir()
    # A mount that nobody serves: the descriptor that it hangs on is closed at once.
    run("/usr/bin/python3", "-IS", "-c", "import ctypes, os, sys\n"
        "fd = os.open('/dev/fuse', os.O_RDWR)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "data = 'fd=%d,rootmode=40000,user_id=0,group_id=0' % fd\n"
        "sys.exit(libc.mount(b'dead', sys.argv[1].encode(), b'fuse', 0, data.encode()))", mnt)
    try:
        said = mount_and_fail(images, mnt)
        assert re.search("(?m)^" + pattern_of(line), said)
    finally:
        run("umount", "-l", mnt)


def test_a_list_that_fails_later_is_told_as_in_the_manual(fake, mounted):
    fake.image("a", 10)
    mount = mounted(fake.uri, "ttl=0", noisy=True)
    fake.write("images.jsonl",
               fake.images["a", "id-a"].line() + '{"name": "b", "size": 5}\n' * 100)
    wait_until(lambda: os.listdir(mount.path) and "left out" in mount.log(), "a line is left out")
    fake.fault("list", "stderr=sorry exit=69")
    with pytest.raises(OSError) as caught:
        os.listdir(mount.path)
    assert caught.value.errno == errno.EIO
    fake.fault("list")
    wait_until(lambda: os.listdir(mount.path) and "listed again" in mount.log(), "it is over")
    told = [line for line, title in log_lines() if title.startswith("ls fails")]
    for line in told:
        if "gave nothing" not in line:
            assert re.search("(?m)^" + pattern_of(line), mount.log()), line


# ---- read-ahead ----

def test_root_raises_the_readahead_of_a_mount_with_the_command_of_the_manual(mounted, images):
    (images / "a").write_bytes(b"x")
    mount = mounted(images, "readahead=0")
    command = re.search(r"^    (echo \d+ >/sys/\S+.*)$", section("READ-AHEAD"), re.M)[1]
    run("sh", "-ec", command.replace("/mnt", str(mount.path)))
    device = run("mountpoint", "-d", mount.path).stdout.strip()
    assert Path("/sys/class/bdi", device, "read_ahead_kb").read_text() == "2048\n"


def test_the_rule_for_udev_finds_mounts_of_imagefs_and_no_others(mounted, images):
    rule = (SOURCE / "examples/udev/60-imagefs.rules").read_text()
    program = re.search(r"PROGRAM=\"/bin/sh -c '(.*?)'\"", rule)[1].replace('\\"', '"')
    mount = mounted(images)
    device = run("mountpoint", "-d", mount.path).stdout.strip()
    assert run("sh", "-c", program.replace("%k", device)).stdout == "2048\n"
    assert run("sh", "-c", program.replace("%k", "0:4321"), check=False).returncode == 1
