# SPDX-License-Identifier: MIT
"""The figures of a mount: what they are, and their form."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios

import prometheus
import pytest
from harness import IMAGEFS, LIMIT, SOURCE, run, wait_until

MIB = 1 << 20


def figures(mount):
    return prometheus.parse((mount / ".imagefs/stats").read_text())


# What there is of a mount and of each image.
COUNTED = [
    "read_bytes_total", "reads_total", "reads_ring_total", "reads_parked_total", "reads_passed_total",
    "reads_random_total", "reads_hole_total", "read_errors_total", "programs_restarted_total",
    "programs_stalled_total", "skipped_bytes_total", "store_bytes_total", "programs_running",
    "memory_bytes", "open_files", "stall_seconds", "read_wait_seconds",
]


def test_there_is_all_of_it_for_the_store_and_for_each_image(fake, mounted):
    image = fake.image("a", 5 * MIB)
    mount = mounted(fake.uri)
    assert (mount / "a").read_bytes() == image.bytes(0, image.size)
    found = figures(mount)
    for name in COUNTED:
        for prefix in ("imagefs_", "imagefs_image_"):
            family = found[prefix + name]
            assert family.samples, prefix + name
            for (_, labels) in family.samples:
                assert dict(labels)["store"] == fake.uri
                assert ("image" in dict(labels)) == (prefix == "imagefs_image_")
    assert prometheus.value(found, "imagefs_image_size_bytes", image="a") == 5 * MIB
    assert prometheus.value(found, "imagefs_image_position_bytes", image="a") == 5 * MIB


def test_how_reads_were_answered_adds_up(fake, mounted):
    image = fake.image("a", 20 * MIB)
    holes = fake.image("holes", 8 * MIB, extents=[(0, 65536)], allocated=65536)
    mount = mounted(fake.uri, "direct_io")
    with contextlib.ExitStack() as opened:
        for made in (image, holes):
            file = opened.enter_context(open(mount / made.name, "rb", buffering=0))
            os.lseek(file.fileno(), 0, os.SEEK_HOLE)  # has the holes be known
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            for offset in range(0, made.size, MIB):  # not at the end, which nobody answers
                assert file.read(MIB) == made.bytes(offset, MIB)
            for offset in (7 * MIB, 3 * MIB, 5 * MIB):
                assert os.pread(file.fileno(), 4096, offset) == made.bytes(offset, 4096)
        # What ends with an open file ends between the one figure and the other.
        found = figures(mount)

    def of(name, image):
        return prometheus.value(found, "imagefs_image_" + name, image=image)

    for name in ("a", "holes"):
        ways = [of("reads_%s_total" % way, name) for way in ("ring", "parked", "random", "hole")]
        assert sum(ways) == of("reads_total", name)
        # All that waited for a program, and no others.
        assert of("stall_seconds_count", name) == ways[1] + ways[2]
        assert of("read_wait_seconds_count", name) == of("reads_total", name)
        assert of("read_wait_seconds_sum", name) >= of("stall_seconds_sum", name) > 0
    assert of("reads_random_total", "a") >= 1
    assert of("reads_hole_total", "holes") >= 1
    for name in ("reads_total", "read_bytes_total", "store_bytes_total", "memory_bytes"):
        assert prometheus.value(found, "imagefs_" + name) == of(name, "a") + of(name, "holes")


def test_a_stall_is_counted_by_the_time_that_it_took(fake, mounted):
    image = fake.image("a", MIB)
    fake.fault(image, "times=1 delay=1200")
    mount = mounted(fake.uri)
    assert (mount / "a").read_bytes() == image.bytes(0, image.size)
    found = figures(mount)
    short = prometheus.value(found, "imagefs_image_stall_seconds_bucket", image="a", le="1")
    all = prometheus.value(found, "imagefs_image_stall_seconds_count", image="a")
    assert all - short >= 1
    assert prometheus.value(found, "imagefs_stall_seconds_sum") >= 1


def test_readers_and_their_memory_are_counted_while_they_are_there(fake, mounted):
    image = fake.image("a", 64 * MIB)
    fake.image("b", 10)
    mount = mounted(fake.uri, "idle=1")
    with open(mount / "a", "rb", buffering=0) as file:
        assert file.read(MIB) == image.bytes(0, MIB)
        found = figures(mount)
        assert prometheus.value(found, "imagefs_programs_running") >= 1
        assert prometheus.value(found, "imagefs_image_programs_running", image="a") >= 1
        held = prometheus.value(found, "imagefs_image_memory_bytes", image="a")
        assert MIB <= held == prometheus.value(found, "imagefs_memory_bytes")
        assert held <= prometheus.value(found, "imagefs_memory_limit_bytes")
        assert prometheus.value(found, "imagefs_image_open_files", image="a") == 1
    for name in ("programs_running", "memory_bytes", "streams", "open_files"):
        wait_until(lambda: prometheus.value(figures(mount), "imagefs_" + name) == 0, "no " + name)


def test_restarts_are_counted(fake, mounted):
    image = fake.image("a", 3 * MIB)
    fake.fault(image, "times=2 at=1000000 exit=74")
    mount = mounted(fake.uri, noisy=True)
    assert (mount / "a").read_bytes() == image.bytes(0, image.size)
    assert prometheus.value(figures(mount), "imagefs_image_programs_restarted_total", image="a") >= 1


def test_an_image_that_changed_while_it_was_open_is_two(fake, mounted):
    old = fake.image("a", MIB, id="old")
    mount = mounted(fake.uri, "ttl=0")
    with open(mount / "a", "rb") as file:
        assert file.read(10) == old.bytes(0, 10)
        fake.remove(old, gone=False)
        new = fake.image("a", MIB, id="new")

        def read_new():
            with open(mount / "a", "rb") as again:
                return again.read(10) == new.bytes(0, 10)

        wait_until(read_new, "the name means the new one")
        found = figures(mount)
        assert prometheus.value(found, "imagefs_image_open_files", image="a", old_id="old") == 1
        assert prometheus.value(found, "imagefs_image_open_files", image="a") == 0


def test_counting_goes_on_when_only_what_is_said_of_an_image_changes(fake, mounted):
    image = fake.image("a", MIB, allocated=4096)
    mount = mounted(fake.uri, "ttl=0")
    for allocated in (8192, 16384, 20480):
        with open(mount / "a", "rb") as file:
            assert file.read() == image.bytes(0, MIB)
            fake.image("a", MIB, allocated=allocated)
            wait_until(lambda: os.stat(mount / "a").st_blocks * 512 == allocated, "it is listed")
            found = [line for line in (mount / ".imagefs/stats").read_text().splitlines()
                     if line.startswith("imagefs_image_open_files")]
            assert len(found) == 1 and "old_id" not in found[0], found
    assert prometheus.value(figures(mount), "imagefs_image_read_bytes_total", image="a") == 3 * MIB


@pytest.mark.parametrize("name", ['a "quoted"', "back\\slash", "new\nline", "\u00fc", b"\xff", "a,b={}"])
def test_any_name_can_be_a_label(fake, mounted, name):
    fake.image(name, 10)
    mount = mounted(fake.uri)
    (mount / name).read_bytes()
    (labels,) = [dict(labels) for _, labels in figures(mount)["imagefs_image_reads_total"].samples]
    shown = "?" if isinstance(name, bytes) else name.replace("\n", "?")
    assert labels["image"] == shown


# ---- node_exporter ----

COLLECT = SOURCE / "examples/node_exporter/imagefs-textfile"


def test_the_collector_of_node_exporter_is_given_all_mounts(fake, mounted, images, folder):
    out = folder / "out"
    out.mkdir()
    fake.image("a", 1000)
    (images / "b c").write_bytes(b"content")
    mounts = [mounted(fake.uri), mounted(images), mounted(images)]
    for mount, name in zip(mounts, ["a", "b c", "b c"]):
        (mount / name).read_bytes()
    # Only these: other mounts of the machine come and go meanwhile.
    run("unshare", "--mount", "--propagation", "private", "bash", "-ec",
        'findmnt -rn -t fuse.imagefs -o TARGET | while read -r m; do '
        'case $m in "$0"/*) ;; *) umount -l "$m" || true ;; esac; done; umount -l "$0/mnt2"; '
        '"$1" "$2"', folder, COLLECT, out)
    assert os.listdir(out) == ["imagefs.prom"]
    assert os.stat(out / "imagefs.prom").st_mode & 0o777 == 0o644
    found = prometheus.parse((out / "imagefs.prom").read_text())
    stores = {dict(labels)["store"] for _, labels in found["imagefs_reads_total"].samples}
    assert stores == {fake.uri, "dir://%s" % images}


def test_the_collector_writes_a_file_without_mounts(folder):
    run("unshare", "--mount", "--propagation", "private", "bash", "-ec",
        'findmnt -rn -t fuse.imagefs -o TARGET | while read -r m; do umount -l "$m" || true; done; '
        '"$0" "$1"', COLLECT, folder)
    assert (folder / "imagefs.prom").read_text() == ""


def test_the_timer_and_its_service_have_nothing_wrong(folder):
    if not os.path.exists("/usr/bin/systemd-analyze"):
        pytest.skip("no systemd here")
    units = []
    for name in ("imagefs-textfile.service", "imagefs-textfile.timer"):
        text = (SOURCE / "examples/node_exporter" / name).read_text()
        (folder / name).write_text(re.sub(r"/usr/local/sbin/imagefs-textfile", str(COLLECT), text))
        units.append(folder / name)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True,
                          text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "imagefs" in line] == []


# ---- imagefs stats ----

class Terminal:
    """imagefs stats at a terminal, of 24 rows of 100 columns."""

    def __init__(self, *args, **variables):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.pop("NO_COLOR", None)
            os.environ.update({"TERM": "xterm", **variables})
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
            os.execv(IMAGEFS, [str(arg) for arg in (IMAGEFS, "stats", *args)])
        self.said = ""

    def read(self):
        """What else is said; "" at the end."""
        try:
            text = os.read(self.fd, 65536).decode(errors="replace")
        except OSError:
            text = ""
        self.said += text
        return text

    def screen(self):
        """The lines of the last whole screen."""
        screens = re.findall(r"\x1b\[H((?:(?!\x1b\[H).)*)\x1b\[J", self.said, re.S)
        if not screens:
            return []
        return [re.sub(r"\x1b\[[0-9;]*[mK]", "", line).rstrip() for line in screens[-1].split("\n")]

    def wait_for(self, condition):
        """Wait for a screen that is so; its lines."""
        while not condition(self.screen()):
            assert select.select([self.fd], [], [], LIMIT)[0] and self.read(), self.said[-2000:]
        return self.screen()

    def end(self):
        """Its status, once it has ended."""
        while self.read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def row_of(screen, name):
    return next((line for line in screen if line.startswith(name + " ")), "")


def test_a_terminal_shows_the_open_images_live(fake, mounted):
    image = fake.image("disk.raw", 64 * MIB)
    fake.image("closed", 10)
    mount = mounted(fake.uri, "direct_io")
    (mount / "closed").read_bytes()
    terminal = Terminal(mount.path)
    terminal.wait_for(lambda screen: "1 images" not in screen and len(screen) > 4)
    with open(mount / "disk.raw", "rb", buffering=0) as file:
        for offset in range(0, 16 * MIB, MIB):
            assert file.read(MIB) == image.bytes(offset, MIB)
        screen = terminal.wait_for(lambda screen: row_of(screen, "disk.raw"))
        assert re.search(r"\[######\.{18}\]  25% +\S+/s +\S+/s", row_of(screen, "disk.raw"))
        assert not row_of(screen, "closed")
        assert "2 images, 1 open files" in screen[1]
        assert max(len(line) for line in screen) <= 100
        os.pread(file.fileno(), MIB, 31 * MIB)
        terminal.wait_for(lambda screen: " 50% " in row_of(screen, "disk.raw"))
        assert "\x1b[1mIMAGE" in terminal.said
    terminal.wait_for(lambda screen: not row_of(screen, "disk.raw"))
    os.write(terminal.fd, b"xq")
    assert terminal.end() == 0
    assert terminal.said.count("\x1b[?1049h") == terminal.said.count("\x1b[?1049l") == 1
    assert terminal.said.endswith("\x1b[?25h\x1b[?1049l")


def test_the_terminal_is_left_as_it_was(fake, mounted):
    mount = mounted(fake.uri)
    parent, child = pty.openpty()
    before = termios.tcgetattr(child)
    process = subprocess.Popen([IMAGEFS, "stats", mount.path], stdin=child, stdout=child,
                               env={**os.environ, "TERM": "xterm"})
    try:
        wait_until(lambda: not termios.tcgetattr(child)[3] & termios.ICANON, "it has begun")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
        assert termios.tcgetattr(child) == before
    finally:
        process.kill()
        process.wait()
        os.close(parent)
        os.close(child)


def test_a_terminal_that_changes_its_size_is_fitted(fake, mounted):
    fake.image("a" * 200, 10)
    mount = mounted(fake.uri)
    with open(mount / ("a" * 200), "rb"):
        terminal = Terminal(mount.path, NO_COLOR="1")
        wide = terminal.wait_for(lambda screen: len(screen) > 6)
        assert 80 < max(map(len, wide)) <= 100
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
        terminal.wait_for(lambda screen: max(map(len, screen)) <= 70)
        assert "\x1b[1m" not in terminal.said
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.end() == 0


def test_a_mount_that_goes_away_ends_the_view(fake, mounted):
    mount = mounted(fake.uri)
    terminal = Terminal(mount.path)
    terminal.wait_for(lambda screen: len(screen) > 4)
    mount.end()
    assert terminal.end() == 1
    said = terminal.said.split("\x1b[?1049l")[1]
    assert "%s: no imagefs is mounted there" % mount.path in said


@pytest.mark.parametrize("how", ["pipe", "--once", "dumb"])
def test_a_table_is_shown_once(fake, mounted, how):
    image = fake.image("a", 3 * MIB)
    mount = mounted(fake.uri)
    assert (mount / "a").read_bytes() == image.bytes(0, image.size)
    if how == "pipe":
        said = run(IMAGEFS, "stats", mount.path).stdout
    else:
        terminal = Terminal(*(["--once"] if how == "--once" else []), mount.path,
                            **({"TERM": "dumb"} if how == "dumb" else {}))
        assert terminal.end() == 0
        said = terminal.said.replace("\r", "")
    assert "\x1b" not in said
    lines = [line.split() for line in said.splitlines()]
    assert lines[0][:3] == ["IMAGE", "READ", "STORE"]
    assert [line[:2] for line in lines[1:]] == [["(all)", "3.0M"], ["a", "3.0M"]]


def test_json_has_what_the_text_has(fake, mounted):
    fake.image('a "b"', 3 * MIB)
    mount = mounted(fake.uri)
    (mount / 'a "b"').read_bytes()
    wait_until(lambda: not mount.store_processes(), "programs end")
    found = figures(mount)
    told = json.loads(run(IMAGEFS, "stats", "--json", mount.path).stdout)
    assert told["store"] == fake.uri and told["mountpoint"] == str(mount.path)
    (image,) = told["images"]
    assert image.pop("image") == 'a "b"'
    for prefix, its, labels in [("imagefs_", told["mount"], {}),
                                ("imagefs_image_", image, {"image": 'a "b"'})]:
        for name, value in its.items():
            if not isinstance(value, dict):
                assert prometheus.value(found, prefix + name, **labels) == value, name
                continue
            for le, number in value["buckets"].items():
                assert prometheus.value(found, prefix + name + "_bucket", le=le, **labels) == number
            for part in ("count", "sum"):
                assert prometheus.value(found, "%s%s_%s" % (prefix, name, part), **labels) == value[part]


@pytest.mark.parametrize("arguments,status,text", [
    (["/tmp"], 1, "/tmp: no imagefs is mounted there"),
    (["/none"], 1, "/none: No such file or directory (no imagefs is mounted there)"),
    ([], 2, "usage: imagefs stats [--once] [--json] MOUNTPOINT (see imagefs --help)"),
    (["a", "b"], 2, "b: one argument too many (see imagefs --help)"),
    (["--bytes", "a"], 2, "--bytes: no such option (see imagefs --help)"),
])
def test_errors_name_the_next_step(arguments, status, text):
    done = run(IMAGEFS, "stats", *arguments, check=False)
    assert (done.returncode, done.stderr) == (status, "imagefs: %s\n" % text)
