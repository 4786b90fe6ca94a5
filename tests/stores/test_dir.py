# SPDX-License-Identifier: MIT
"""The dir store: what it lists, what it sends, and what it must never send."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies

import conformance

SOURCE = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("IMAGEFS_BUILD", SOURCE / "build")).resolve()
DIR = BUILD / "imagefs-store-dir"
LIMIT = 60
CLOCK_REALTIME_COARSE = 5
MIB = 1 << 20
USAGE, GONE, UNAVAILABLE, IO, AGAIN, DENIED = 64, 66, 69, 74, 75, 77
# strace takes the place of the leak checker, which works by tracing as well.
ENVIRONMENT = dict(os.environ, ASAN_OPTIONS="detect_leaks=0", LC_ALL="C.UTF-8")


@pytest.fixture
def images():
    """An empty directory that other users can look into."""
    with tempfile.TemporaryDirectory(prefix="imagefs-dir.", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "images"
        path.mkdir(mode=0o755)
        yield path


def uri_of(folder):
    return "dir://" + quote(os.fsencode(folder))


def run(*arguments, stdin=b"", program=(DIR,), **options):
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [*program, *arguments],
        input=stdin,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
        check=False,
        **options,
    )


def parse(output):
    """{name: image} of a list."""
    images = [json.loads(line) for line in output.splitlines()]
    return {conformance.name_of(image): image for image in images}


def listed(folder, **options):
    done = run("list", "--", uri_of(folder), **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return parse(done.stdout)


def ident(folder, name):
    return listed(folder)[os.fsencode(name)]["id"]


def make_id(path, name=None):
    """The id that @path would have, were it an image called @name."""
    facts = os.stat(path)

    def seconds(nanoseconds):
        return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09}"

    times = f"{seconds(facts.st_mtime_ns)}:{seconds(facts.st_ctime_ns)}"
    encoded = quote(os.fsencode(path.name if name is None else name), safe="")
    return f"{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{times}:{encoded}"


def read(folder, image, *asks, **options):
    stdin = "".join(f"{offset} {length}\n" for offset, length in asks).encode()
    return run("read", "--", uri_of(folder), image, stdin=stdin, **options)


def assert_gone(done):
    assert done.returncode == GONE
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1


def reader(folder, image):
    """A program that was started to read and waits for what is asked."""
    store = conformance.Store(str(DIR), uri_of(folder), limit=LIMIT)
    return conformance.Run(store, "read", "--", store.uri, image)


def content(size, seed=0):
    """Bytes of which none is 0."""
    return random.Random(seed).randbytes(size).replace(b"\0", b"\1")


# ---- list -------------------------------------------------------------------------------


def test_only_the_regular_files_are_images(images):
    (images / "alpha").write_bytes(b"12345")
    (images / "empty").write_bytes(b"")
    (images / ".hidden").write_bytes(b"x")
    (images / "folder").mkdir()
    (images / "folder" / "inner").write_bytes(b"x")
    (images.parent / "outside").write_bytes(b"x")
    (images / "link").symlink_to("alpha")
    (images / "link-out").symlink_to(images.parent / "outside")
    (images / "link-nowhere").symlink_to("nothing")
    (images / "link-folder").symlink_to("folder")
    os.mkfifo(images / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(images / "socket"))
    with contextlib.suppress(PermissionError):
        os.mknod(images / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(images / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    assert set(listed(images)) == {b"alpha", b"empty"}


def test_an_image_has_the_size_the_space_and_the_time_of_its_file(images):
    path = images / "alpha"
    with open(path, "wb") as file:
        file.truncate(10 * MIB)
        file.write(b"x" * 5000)
    os.utime(path, ns=(0, 1234567890123456789))
    old = images / "old"
    old.write_bytes(b"")
    os.utime(old, ns=(0, -86400 * 10**9 + 5))
    found = listed(images)
    facts = path.stat()
    assert found[b"alpha"] == {
        "name": "alpha",
        "id": make_id(path),
        "size": 10 * MIB,
        "allocated": facts.st_blocks * 512,
        "mtime": 1234567890,
    }
    assert found[b"old"]["mtime"] == old.stat().st_mtime_ns // 10**9
    assert found[b"old"]["id"] == make_id(old)


def test_an_empty_directory_is_an_empty_list(images):
    assert listed(images) == {}


def test_every_byte_can_be_in_a_name(images):
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    names += [b"-rf", b"--help", b"a b", b"$(id)", b"a:b", b"%41", b"a.."]
    names += [b"\xff" * 255, b"a" * 255, "größe-🐑".encode(), b"\xed\xa0\x80", b'"\\\n']
    for number, name in enumerate(names):
        with open(os.path.join(os.fsencode(images), name), "wb") as file:
            file.write(b"%d" % number)
    found = listed(images)
    assert set(found) == set(names)
    for number, name in enumerate(names):
        # "name" where it is UTF-8, since that is what people can read.
        with contextlib.suppress(UnicodeDecodeError):
            text = name.decode()
            assert found[name]["name"] == text
        assert conformance.id_of(found[name])
        done = read(images, found[name]["id"], (0, len(b"%d" % number)))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"%d" % number, b"")


def test_ten_thousand_images_are_listed(images):
    names = {b"image-%d" % number for number in range(10000)}
    for name in names:
        (images / name.decode()).touch()
    found = listed(images)
    assert set(found) == names
    assert len({image["id"] for image in found.values()}) == len(names)


@pytest.fixture
def unprivileged(images):
    """Options for run() that make it a program of a user who is not root."""
    if os.geteuid() != 0:
        return {}
    program = images.parent / "store"  # the build folder may be closed to others
    shutil.copy(DIR, program)
    program.chmod(0o755)
    return {"program": (program,), "user": 65534, "group": 65534, "extra_groups": []}


def test_a_file_that_cannot_be_opened_is_left_out_with_a_line(images, unprivileged):
    for name in ("alpha", "closed\n", "omega"):
        (images / name).write_bytes(b"x")
    (images / "closed\n").chmod(0)
    closed = make_id(images / "closed\n")
    done = run("list", "--", uri_of(images), **unprivileged)
    assert done.returncode == 0
    assert set(parse(done.stdout)) == {b"alpha", b"omega"}
    assert done.stderr == b"left out: cannot open closed?: Permission denied\n"

    done = read(images, closed, (0, 1), **unprivileged)
    assert (done.returncode, done.stdout) == (DENIED, b"")
    assert done.stderr == b"cannot open closed?: Permission denied\n"


def test_a_directory_that_cannot_be_opened_says_why(images, unprivileged):
    (images / "alpha").write_bytes(b"x")
    image = ident(images, "alpha")
    images.chmod(0)
    for done in (
        run("list", "--", uri_of(images), **unprivileged),
        read(images, image, (0, 1), **unprivileged),
    ):
        assert (done.returncode, done.stdout) == (DENIED, b"")
        assert done.stderr == b"cannot open %s: Permission denied\n" % os.fsencode(images)
    images.chmod(0o755)


def test_a_directory_that_is_gone_is_unavailable_until_it_is_back(images):
    (images / "alpha").write_bytes(b"12345")
    image = ident(images, "alpha")
    away = images.with_name("away")
    images.rename(away)
    for done in (run("list", "--", uri_of(images)), read(images, image, (0, 5))):
        assert (done.returncode, done.stdout) == (UNAVAILABLE, b"")
        assert b"No such file or directory" in done.stderr
    away.rename(images)
    assert read(images, image, (0, 5)).stdout == b"12345"


def test_a_file_is_no_directory(images):
    (images / "alpha").write_bytes(b"x")
    done = run("list", "--", uri_of(images / "alpha"))
    assert (done.returncode, done.stdout) == (UNAVAILABLE, b"")


# ---- the URI ----------------------------------------------------------------------------


def test_a_path_is_percent_decoded(images):
    odd = os.path.join(os.fsencode(images), b"a b%41?#\xff\n\"&=+")
    os.mkdir(odd)
    with open(os.path.join(odd, b"alpha"), "wb") as file:
        file.write(b"x")
    for uri in (
        "dir://" + quote(odd),
        "dir://" + "".join(f"%{byte:02x}" if byte != 47 else "/" for byte in odd),
        "DIR:" + quote(odd) + "/",
    ):
        done = run("list", "--", uri)
        assert set(parse(done.stdout)) == {b"alpha"}, done.stderr


def test_the_directory_itself_may_be_reached_through_a_link(images):
    (images / "alpha").write_bytes(b"12345")
    link = images.with_name("link")
    link.symlink_to(images)
    image = ident(link, "alpha")
    assert read(link, image, (1, 3)).stdout == b"234"


@pytest.mark.parametrize(
    "uri",
    [
        "dir:",
        "dir://",
        "dir://images",
        "dir://host/images",
        "dir:images",
        "/tmp",
        "",
        "-",
        "file:///tmp",
        "dirt:///tmp",
        "dir:///tmp%",
        "dir:///tmp%2",
        "dir:///tmp%2g",
        "dir:///tmp%00",
        "dir:///" + "a" * 5000,
    ],
)
def test_a_uri_that_is_none_is_refused(uri):
    for done in (run("list", "--", uri), run("read", "--", uri, "id", stdin=b"0 1\n")):
        assert (done.returncode, done.stdout) == (USAGE, b"")
        assert done.stderr


# ---- ids --------------------------------------------------------------------------------


def let_time_pass(path):
    """Wait for the next tick of the clock that file times come from, a few ms at most:
    before Linux 6.13 two changes within one cannot be told apart."""
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= path.stat().st_ctime_ns:
        pass


def rewrite(path):
    path.write_bytes(b"other bytes")


def rewrite_quietly(path):
    """Other bytes of the same size, with the time of change put back."""
    facts = path.stat()
    path.write_bytes(b"x" * facts.st_size)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def append(path):
    with open(path, "ab") as file:
        file.write(b"more")


def truncate(path):
    os.truncate(path, 3)


def touch(path):
    os.utime(path)


def replace(path):
    other = path.with_name(".new")
    other.write_bytes(path.read_bytes())
    shutil.copystat(path, other)
    other.rename(path)


def remove(path):
    path.unlink()


def rename(path):
    path.rename(path.with_name("beta"))


def become_link(path):
    path.rename(path.with_name("beta"))
    path.symlink_to("beta")


def become_link_out(path):
    path.rename(path.parent.parent / "outside")
    path.symlink_to("../outside")


def become_fifo(path):
    path.unlink()
    os.mkfifo(path)


def become_folder(path):
    path.unlink()
    path.mkdir()


CHANGES = [
    rewrite,
    rewrite_quietly,
    append,
    truncate,
    touch,
    replace,
    remove,
    rename,
    become_link,
    become_link_out,
    become_fifo,
    become_folder,
]


def test_an_id_stays_while_the_file_does(images):
    (images / "alpha").write_bytes(b"12345")
    image = ident(images, "alpha")
    (images / "beta").write_bytes(b"x")
    assert read(images, image, (0, 5)).stdout == b"12345"
    assert ident(images, "alpha") == image == make_id(images / "alpha")


@pytest.mark.parametrize("change", CHANGES)
def test_another_version_has_another_id_and_the_old_one_is_gone(images, change):
    (images / "alpha").write_bytes(b"0123456789")
    image = ident(images, "alpha")
    let_time_pass(images / "alpha")
    change(images / "alpha")
    assert image not in [each["id"] for each in listed(images).values()]
    assert_gone(read(images, image, (0, 1)))
    done = run("extents", "--", uri_of(images), image)
    assert_gone(done)


def test_no_id_leads_out_of_the_directory(images):
    """Each id is what it would have to be, were the path taken for a name."""
    outside = images.parent / "secret"
    outside.write_bytes(b"secret")
    inner = images / "folder" / "inner"
    inner.parent.mkdir()
    inner.write_bytes(b"secret")
    hidden = images / ".hidden"
    hidden.write_bytes(b"secret")
    (images / "link").symlink_to(outside)
    (images / "link-folder").symlink_to(images.parent)
    (images / "self").symlink_to("/proc/self/root")
    ids = [
        make_id(outside, "../secret"),
        make_id(outside, str(outside)),
        make_id(outside, "link"),
        make_id(outside, "link-folder/secret"),
        make_id(outside, "self" + str(outside)),
        make_id(inner, "folder/inner"),
        make_id(inner, "./folder/inner"),
        make_id(hidden),
        make_id(images, "."),
        make_id(images.parent, ".."),
        make_id(images, ""),
        make_id(inner.parent),
        make_id(outside, "../secret").replace("%2F", "/"),
        make_id(outside, "link") + "%00",
        make_id(outside, "a" * 300),
        make_id(outside, "a" * 256),
        "",
        ":",
        "%",
        "a:%2",
    ]
    for image in ids:
        assert_gone(read(images, image, (0, 1)))
        assert_gone(run("extents", "--", uri_of(images), image))


# ---- read -------------------------------------------------------------------------------


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(data=strategies.data())
def test_any_bytes_can_be_asked_for(data):
    with tempfile.TemporaryDirectory(prefix="imagefs-dir.", dir="/tmp") as folder:
        size = data.draw(strategies.integers(1, 3 * MIB))
        bytes_ = content(size, size)
        (Path(folder) / "alpha").write_bytes(bytes_)
        offsets = strategies.integers(0, size - 1)
        ask = offsets.flatmap(
            lambda offset: strategies.tuples(
                strategies.just(offset), strategies.integers(1, size - offset)
            )
        )
        asks = data.draw(strategies.lists(ask, max_size=20))
        done = read(folder, ident(folder, "alpha"), *asks)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"".join(bytes_[at : at + length] for at, length in asks)


@pytest.mark.parametrize("kind", ["pipe", "non-blocking pipe", "file", "socket"])
def test_an_answer_can_go_anywhere(images, kind):
    bytes_ = content(5 * MIB + 123)
    (images / "alpha").write_bytes(bytes_)
    image = ident(images, "alpha")
    asks = b"0 %d\n7 100\n" % len(bytes_)
    with contextlib.ExitStack() as stack:
        if kind == "file":
            output = stack.enter_context(open(images.parent / "output", "w+b"))
            source = output
        elif kind == "socket":
            ends = socket.socketpair()
            source, output = (stack.enter_context(end.makefile("rwb", 0)) for end in ends)
            for end in ends:
                end.close()
        else:
            ends = os.pipe()
            source = stack.enter_context(open(ends[0], "rb", 0))
            output = stack.enter_context(open(ends[1], "wb", 0))
            os.set_blocking(ends[1], kind == "pipe")
        process = subprocess.Popen(
            [DIR, "read", "--", uri_of(images), image], stdin=subprocess.PIPE, stdout=output
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        process.stdin.write(asks)
        process.stdin.close()
        if kind == "file":
            assert process.wait(LIMIT) == 0
            source.seek(0)
        else:
            output.close()
        got = b""
        while piece := source.read(MIB):
            got += piece
        assert got == bytes_ + bytes_[7:107]
        assert process.wait(LIMIT) == 0


def test_nothing_is_sent_for_an_ask_beyond_the_end(images):
    (images / "alpha").write_bytes(b"12345")
    (images / "empty").write_bytes(b"")
    for name, ask in (("alpha", (5, 1)), ("alpha", (0, 6)), ("alpha", (4, 2)), ("empty", (0, 1))):
        done = read(images, ident(images, name), ask)
        assert (done.returncode, done.stdout) == (USAGE, b"")


def test_an_image_larger_than_32_bits_is_read_at_its_end(images):
    size = (1 << 40) + 5
    with open(images / "huge", "wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"12345")
    image = ident(images, "huge")
    done = read(images, image, (size - 6, 6), (1 << 33, 2), (size - 1, 1))
    assert (done.returncode, done.stdout) == (0, b"\00012345" + b"\0\0" + b"5")


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_two_asks_is_gone(images, change):
    (images / "alpha").write_bytes(b"0123456789")
    with reader(images, ident(images, "alpha")) as run_:
        run_.ask((0, 5))
        assert run_.take(5) == b"01234"
        let_time_pass(images / "alpha")
        change(images / "alpha")
        run_.ask((5, 5))
        run_.end_input()
        run_.rest()
        assert run_.wait() == GONE
        assert "alpha has changed" in run_.said()


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_after_the_last_answer_is_gone(images, change):
    (images / "alpha").write_bytes(b"0123456789")
    with reader(images, ident(images, "alpha")) as run_:
        run_.ask((0, 10))
        assert run_.take(10) == b"0123456789"
        let_time_pass(images / "alpha")
        change(images / "alpha")
        run_.end_input()
        assert run_.rest() == b""
        assert run_.wait() == GONE


@pytest.mark.parametrize("change", [rewrite, rewrite_quietly, append, truncate, replace, remove])
def test_a_file_that_changes_in_the_middle_of_an_answer_is_gone(images, change):
    """The pipe is full by then and the answer far from its end; what comes after the next
    look at the file, a MiB later at most, is not sent any more."""
    size = 64 * MIB
    bytes_ = content(MIB) * 64
    (images / "alpha").write_bytes(bytes_)
    with reader(images, ident(images, "alpha")) as run_:
        run_.ask((0, size))
        got = run_.take(4 * MIB)
        let_time_pass(images / "alpha")
        change(images / "alpha")
        assert got == bytes_[: len(got)]
        rest = run_.rest()
        assert run_.wait() == GONE
        # What was in the pipe, the chunk under way, and that which met the change.
        assert len(rest) <= 4 * MIB


def test_a_file_that_gets_shorter_is_never_filled_with_zeros(images):
    """Cut where a page ends: what is behind is neither zeros nor anything else."""
    bytes_ = content(8 * MIB)
    (images / "alpha").write_bytes(bytes_)
    with reader(images, ident(images, "alpha")) as run_:
        run_.ask((0, len(bytes_)))
        got = run_.take(4096)
        os.truncate(images / "alpha", 5 * MIB)
        got += run_.rest()
        assert run_.wait() == GONE
        assert got == bytes_[: len(got)]
        assert len(got) < len(bytes_)


# ---- extents ----------------------------------------------------------------------------


def extents(folder, image, **options):
    done = run("extents", "--", uri_of(folder), image, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]


def test_extents_are_where_the_file_has_data(images):
    pieces = [(0, 4096), (MIB, 10), (2 * MIB + 5, 3 * MIB), (9 * MIB - 1, 1)]
    with open(images / "sparse", "wb") as file:
        file.truncate(10 * MIB)
        for offset, length in pieces:
            file.seek(offset)
            file.write(b"x" * length)
    (images / "empty").write_bytes(b"")
    (images / "dense").write_bytes(b"x" * 10000)
    with open(images / "hole", "wb") as file:
        file.truncate(10 * MIB)
    found = extents(images, ident(images, "sparse"))
    end = 0
    for offset, length in found:
        assert offset > end or offset == end == 0
        end = offset + length
    for offset, length in pieces:
        assert any(at <= offset and offset + length <= at + size for at, size in found)
    # Not all of it, on any file system that has holes.
    if os.stat(images / "sparse").st_blocks * 512 < 5 * MIB:
        assert sum(length for _, length in found) < 5 * MIB
        assert extents(images, ident(images, "hole")) == []
    assert extents(images, ident(images, "dense")) == [(0, 10000)]
    assert extents(images, ident(images, "empty")) == []


# ---- what the system refuses ------------------------------------------------------------


def injecting(images, *faults, only=None):
    """Options for run() under strace, which makes system calls fail: "pread64:error=EIO".
    With @only, those on that file, as the dynamic loader has calls of its own."""
    program = ["strace", "-o", str(images.parent / "strace.log"), "-qq"]
    if only:
        program += ["-P", str(only)]
    for fault in faults:
        program += ["-e", f"inject={fault}"]
    return {"program": [*program, DIR], "env": ENVIRONMENT}


def can_trace():
    if not shutil.which("strace"):
        return False
    done = run("true", program=("strace", "-o", "/dev/null", "-e", "inject=splice:error=EIO"))
    return done.returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace cannot trace here")


def run_stopped(images, call, at, change, *arguments):
    """run(), with the program stopped right after its first @call in whose line @at is;
    change() is called, and it goes on."""
    log = images.parent / "strace.log"
    trace = ["strace", "-o", str(log), "-e", f"trace={call}"]
    run(*arguments, program=(*trace, DIR), env=ENVIRONMENT)
    lines = [line for line in log.read_text().splitlines() if line.startswith(call)]
    number = next(index for index, line in enumerate(lines) if at in line) + 1
    trace += ["-qq", "-e", f"inject={call}:signal=SIGSTOP:when={number}"]
    log.unlink()
    process = subprocess.Popen(
        [*trace, DIR, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    try:
        end = time.monotonic() + LIMIT
        while not log.exists() or "--- stopped by SIGSTOP" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        change()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children), signal.SIGCONT)
        output, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()  # and what it traces, stopped or not
        process.wait()
    return subprocess.CompletedProcess(arguments, process.returncode, output, said)


@needs_strace
def test_what_is_no_file_is_not_even_opened(images):
    """To open a device can do something to it."""
    os.mkfifo(images / "fifo")
    (images / "alpha").write_bytes(b"x")
    log = images.parent / "strace.log"
    program = ("strace", "-o", str(log), "-e", "trace=open,openat,openat2", DIR)
    assert set(listed(images, program=program, env=ENVIRONMENT)) == {b"alpha"}
    assert '"alpha"' in log.read_text()
    assert '"fifo"' not in log.read_text()


@needs_strace
@pytest.mark.parametrize("change", [become_link_out, become_fifo])
def test_a_file_that_is_swapped_while_it_is_listed_is_left_out(images, change):
    path = images / "alpha"
    path.write_bytes(b"secret")
    arguments = ("list", "--", uri_of(images))
    done = run_stopped(images, "newfstatat", '"alpha"', lambda: change(path), *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@needs_strace
def test_a_file_that_is_swapped_while_it_is_opened_leads_nowhere(images):
    """The id is that of what the link then points to."""
    outside = images.parent / "target"
    outside.write_bytes(b"secret")
    path = images / "alpha"
    path.write_bytes(b"secret")

    def swap():
        path.unlink()
        path.symlink_to(outside)

    arguments = ("read", "--", uri_of(images), make_id(outside, "alpha"))
    done = run_stopped(images, "newfstatat", '"alpha"', swap, *arguments)
    assert_gone(done)


@needs_strace
def test_extents_of_a_file_that_changes_meanwhile_are_not_believed(images):
    path = images / "alpha"
    path.write_bytes(b"x" * 10000)
    arguments = ("extents", "--", uri_of(images), ident(images, "alpha"))
    done = run_stopped(images, "lseek", "SEEK_DATA", lambda: os.truncate(path, 5000), *arguments)
    assert (done.returncode, done.stdout) == (GONE, b"")
    assert b"alpha has changed" in done.stderr


@needs_strace
def test_where_splice_does_not_do_bytes_are_copied(images):
    bytes_ = content(3 * MIB)
    (images / "alpha").write_bytes(bytes_)
    image = ident(images, "alpha")
    for fault in (
        "splice:error=EINVAL",
        "splice:error=EINVAL:when=2+",
        "splice:error=EIO:when=1",
        "splice:error=EINTR:when=1",
    ):
        eintr = "pread64:error=EINTR:when=1"
        faults = injecting(images, fault, eintr, only=images / "alpha")
        done = read(images, image, (0, len(bytes_)), (1, 10), **faults)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == bytes_ + bytes_[1:11]


@needs_strace
def test_a_file_that_cannot_be_read_is_an_input_output_error(images):
    (images / "alpha").write_bytes(content(3 * MIB))
    errors = ("splice:error=EIO:when=2+", "pread64:error=EIO")
    faults = injecting(images, *errors, only=images / "alpha")
    done = read(images, ident(images, "alpha"), (0, 3 * MIB), **faults)
    assert done.returncode == IO
    assert done.stdout == content(3 * MIB)[: len(done.stdout)]
    assert done.stderr.startswith(b"cannot read alpha at ")
    assert b": Input/output error\n" in done.stderr


@needs_strace
def test_a_file_that_ends_early_is_an_input_output_error(images):
    (images / "alpha").write_bytes(content(3 * MIB))
    faults = injecting(images, "splice:retval=0:when=2+")
    done = read(images, ident(images, "alpha"), (0, 3 * MIB), **faults)
    assert done.returncode == IO
    assert b"before its size" in done.stderr


@needs_strace
def test_a_directory_that_cannot_be_read_to_its_end_is_no_list(images):
    (images / "alpha").write_bytes(b"x")
    faults = injecting(images, "getdents64:error=EIO:when=2")
    done = run("list", "--", uri_of(images), **faults)
    assert (done.returncode, done.stdout) == (IO, b"")
    assert done.stderr == b"cannot list the directory: Input/output error\n"


@needs_strace
def test_a_list_without_free_descriptors_is_no_list(images):
    for name in ("alpha", "beta"):
        (images / name).write_bytes(b"x")
    faults = injecting(images, "openat2:error=EMFILE:when=2")
    done = run("list", "--", uri_of(images), **faults)
    assert (done.returncode, done.stdout) == (AGAIN, b"")


@needs_strace
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_a_kernel_without_openat2_leads_nowhere_either(images, error):
    (images / "alpha").write_bytes(b"12345")
    outside = images.parent / "secret"
    outside.write_bytes(b"secret")
    faults = injecting(images, f"openat2:error={error}")
    image = ident(images, "alpha")
    assert set(listed(images, **faults)) == {b"alpha"}
    assert read(images, image, (0, 5), **faults).stdout == b"12345"
    (images / "alpha").unlink()
    (images / "alpha").symlink_to(outside)
    assert_gone(read(images, make_id(outside, "alpha"), (0, 1), **faults))


@needs_strace
@pytest.mark.parametrize("error", ["EINVAL", "EOPNOTSUPP"])
def test_a_file_system_that_knows_no_holes_has_data_everywhere(images, error):
    with open(images / "sparse", "wb") as file:
        file.truncate(MIB)
    image = ident(images, "sparse")
    faults = injecting(images, f"lseek:error={error}")
    assert extents(images, image, **faults) == [(0, MIB)]


@needs_strace
def test_holes_that_cannot_be_found_for_another_reason_are_an_error(images):
    (images / "alpha").write_bytes(b"x")
    faults = injecting(images, "lseek:error=EIO")
    done = run("extents", "--", uri_of(images), ident(images, "alpha"), **faults)
    assert (done.returncode, done.stdout) == (IO, b"")
