#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a store program gets wrong.

    conformance.py [--image NAME] [--json] PROGRAM URI

Runs the program the way imagefs does and goes through the rules of the protocol
(imagefs-store(7)) one by one.  Each is one line: "ok", "WRONG" with what was seen, or
"n/a" with why it does not apply here.  Exit status 0 if nothing was wrong, else 1.

The store's images must not change meanwhile.  At most a few MiB of an image are read.
"""

import argparse
import contextlib
import fcntl
import json
import math
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

USAGE, GONE = 64, 66
ID_MAX = 4096
LINE_MAX = 1 << 20
SIZE_MAX = (1 << 63) - 1
PREFIX = 4 << 20  # bytes from an image's beginning that rules compare with
HELD = 256 << 10  # bytes that are kept in a pipe meanwhile
LOOK_AT = 16  # images that rules go through
PATIENCE = 30  # seconds at least for what rules need, but are not about
ZEROS_READ = 32 << 20  # bytes read to see that they are zeros

RULES = []


class Wrong(Exception):
    """The program breaks the rule."""


class NotApplicable(Exception):
    """The rule cannot be tried here."""


def rule(text):
    """Make a function of a store a rule; it raises Wrong or NotApplicable, or it is met."""

    def add(function):
        RULES.append((function.__name__, text, function))
        return function

    return add


def tell(status):
    """An exit status in words."""
    return f"was killed by signal {-status}" if status < 0 else f"exited {status}"


class Run:
    """One running store program.  Every wait ends at the limit."""

    def __init__(self, store, *arguments, limit=None):
        self.limit = limit or store.limit
        self.stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [store.program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=store.environment,
            bufsize=0,
            process_group=0,
        )
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdin.fileno(), False)
        self.taken = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.process.wait()
        for file in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                file.close()

    def kill(self, sign=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)

    def ask(self, *asks):
        """Write asks, (offset, length) each, without waiting for an answer."""
        data = "".join(f"{offset} {length}\n" for offset, length in asks).encode()
        end = time.monotonic() + self.limit
        while data:
            if not select.select([], [self.stdin], [], max(0, end - time.monotonic()))[1]:
                raise Wrong(f"did not read what was asked within {self.limit} s")
            try:
                data = data[os.write(self.stdin.fileno(), data) :]
            except BrokenPipeError:
                return  # it ended: seen by what is missing on its output

    def end_input(self):
        self.stdin.close()

    def wait_output(self, what):
        if not select.select([self.stdout], [], [], self.limit)[0]:
            raise Wrong(f"{what}, nothing more came for {self.limit} s")

    def _some(self, most, what):
        """Up to @most bytes, b"" at the end of output."""
        self.wait_output(what)
        return os.read(self.stdout.fileno(), most)

    def take(self, length):
        """Exactly @length bytes."""
        pieces, left = [], length
        while left:
            what = f"{length - left} bytes into an answer of {length}"
            piece = self._some(min(left, 1 << 20), what)
            if not piece:
                raise Wrong(f"output ended {what}; {self.ending()}")
            pieces.append(piece)
            left -= len(piece)
        self.taken += length
        return b"".join(pieces)

    def rest(self, most=64 << 20):
        """All until the end of output."""
        pieces, total = [], 0
        what = "after its end of input, output stays open"
        while True:
            piece = self._some(1 << 20, what)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            total += len(piece)
            if total > most:
                raise Wrong(f"more than {most} bytes came")

    def wait(self):
        try:
            return self.process.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise Wrong(f"still runs {self.limit} s later") from None

    def said(self):
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace").strip()

    def ending(self):
        """How it ended, for a message."""
        last = self.said().splitlines()[-1:]
        return f"it {tell(self.wait())}" + (f", saying {last[0]!r}" if last else "")

    def finish(self):
        """End its input; nothing more may come, and it exits 0."""
        self.end_input()
        surplus = self.rest()
        if surplus:
            raise Wrong(f"{len(surplus)} bytes came that nobody asked for: {surplus[:16]!r}")
        status = self.wait()
        if status != 0:
            raise Wrong(f"at its end of input {self.ending()}")


class Held:
    """A pipe that holds @length bytes of a program's output as they are, not copies."""

    def __init__(self, length):
        self.out, self.into = os.pipe()
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, 2 * length)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.out)
        os.close(self.into)

    def take_from(self, run, length):
        while length:
            run.wait_output("an answer is under way")
            moved = os.splice(run.stdout.fileno(), self.into, length, flags=os.SPLICE_F_NONBLOCK)
            if not moved:
                raise Wrong(f"output ended, {run.ending()}")
            length -= moved

    def read(self, length):
        pieces = []
        while length:
            pieces.append(os.read(self.out, length))
            length -= len(pieces[-1])
        return b"".join(pieces)


class Store:
    """A program and a URI, and what is known of them so far."""

    def __init__(self, program, uri, image=None, limit=30):
        self.program = os.path.abspath(program) if os.sep in program else program
        self.uri = uri
        self.chosen = image
        self.limit = limit
        self.environment = dict(
            os.environ,
            IMAGEFS_STORE_PROTOCOL="1",
            IMAGEFS_STALL_MS=str(limit * 1000),
            LC_ALL="C.UTF-8",
        )
        self._listed = None
        self._prefixes = {}

    def call(self, *arguments, stdin=b"", limit=None):
        """Run to the end with a few asks.  Returns (status, output, standard error)."""
        with Run(self, *arguments, limit=limit) as run:
            with contextlib.suppress(BrokenPipeError):
                os.write(run.stdin.fileno(), stdin)
            run.end_input()
            output = run.rest(1 << 30)
            return run.wait(), output, run.said()

    def fresh_list(self, limit=None):
        """The images, listed now."""
        status, output, said = self.call("list", "--", self.uri, limit=limit)
        if status != 0:
            raise Wrong(f"list {tell(status)}: {said}")
        if output and not output.endswith(b"\n"):
            raise Wrong(f"the list's last line has no newline: {output[-80:]!r}")
        return [parse_object(line) for line in output.split(b"\n")[:-1]]

    def listed(self):
        """The images as objects that name and id can be taken from."""
        if self._listed is None:
            try:
                objects = self.fresh_list(max(self.limit, PATIENCE))
                for each in objects:
                    name_of(each), id_of(each), size_of(each)
            except Wrong as wrong:
                raise NotApplicable(f"the list cannot be used: {wrong}") from None
            self._listed = objects
        return self._listed

    def images(self):
        """What to look at: the image that was named, or some of those that are there."""
        images = self.listed()
        if self.chosen is not None:
            images = [each for each in images if name_of(each) == os.fsencode(self.chosen)]
            if not images:
                raise NotApplicable(f"there is no image {self.chosen}")
        if not images:
            raise NotApplicable("there are no images")
        return sorted(images, key=size_of)[-LOOK_AT:]

    def image(self):
        """One image to read: the smallest of at least PREFIX bytes, else the largest."""
        images = self.images()
        if size_of(images[-1]) == 0:
            raise NotApplicable("no image has any bytes")
        return next((each for each in images if size_of(each) >= PREFIX), images[-1])

    def read(self, image, limit=None):
        return Run(self, "read", "--", self.uri, id_of(image), limit=limit)

    def prefix(self, image):
        """The first bytes of an image, from one ask."""
        ident = id_of(image)
        if ident not in self._prefixes:
            length = min(size_of(image), PREFIX)
            try:
                with self.read(image, max(self.limit, PATIENCE)) as run:
                    run.ask((0, length))
                    run.end_input()
                    self._prefixes[ident] = run.take(length)
            except Wrong as wrong:
                raise NotApplicable(f"no answer to compare with: {wrong}") from None
        return self._prefixes[ident]


def parse_object(line):
    def no_constant(text):
        raise ValueError(f"{text} is not JSON")

    def no_twice(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    if len(line) + 1 > LINE_MAX:
        raise Wrong(f"a line has {len(line) + 1} bytes, more than {LINE_MAX}")
    try:
        text = line.decode()
        found = json.loads(text, parse_constant=no_constant, object_pairs_hook=no_twice)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"not a JSON object: {line[:200]!r} ({error})") from None
    if not isinstance(found, dict):
        raise Wrong(f"not a JSON object: {line[:200]!r}")
    return found


def name_of(image):
    if ("name" in image) == ("name_hex" in image):
        raise Wrong(f"needs name or name_hex, and not both: {image}")
    if "name" in image:
        try:
            name = image["name"].encode() if isinstance(image["name"], str) else b""
        except UnicodeEncodeError:
            raise Wrong(f"a name that is not Unicode: {image['name']!r}") from None
    else:
        text = image["name_hex"]
        if not isinstance(text, str) or not re.fullmatch("([0-9a-fA-F]{2})+", text):
            raise Wrong(f"not two hexadecimal digits a byte: name_hex {text!r}")
        name = bytes.fromhex(text)
    if not name or b"\0" in name:
        raise Wrong(f"a name must be a string, not empty and without NUL: {image}")
    return name


def id_of(image):
    ident = image.get("id")
    if not isinstance(ident, str) or not re.fullmatch(r"[!-~]+", ident):
        raise Wrong(f"an id must be printable ASCII without spaces: {ident!r}")
    if len(ident) > ID_MAX:
        raise Wrong(f"an id has {len(ident)} bytes, more than {ID_MAX}: {ident[:40]}…")
    return ident


def size_of(image):
    size = image.get("size")
    if type(size) is not int or not 0 <= size <= SIZE_MAX:
        raise Wrong(f"a size must be a whole number from 0 to 2^63-1: {size!r}")
    return size


def shown(image):
    return os.fsdecode(name_of(image))


def expect(got, wanted, what):
    """Compare bytes, and say where they differ."""
    if got == wanted:
        return
    if len(got) != len(wanted):
        raise Wrong(f"{what}: {len(got)} bytes, not {len(wanted)}")
    at = next(i for i, pair in enumerate(zip(got, wanted)) if pair[0] != pair[1])
    raise Wrong(f"{what}: byte {at} is {got[at]:#04x} and was {wanted[at]:#04x} before")


# ---- the arguments ----------------------------------------------------------------------


def refused(store, wanted, *arguments, stdin=b""):
    status, output, said = store.call(*arguments, stdin=stdin)
    called = " ".join(arguments)
    if status not in wanted:
        expected = " or ".join(map(str, wanted))
        raise Wrong(f"'{called}' {tell(status)}, not {expected}: {said or 'without a word'}")
    if output:
        raise Wrong(f"'{called}' put {len(output)} bytes on standard output: {output[:40]!r}")
    if not said:
        raise Wrong(f"'{called}' said nothing on standard error")


@rule("an unknown call exits 64, with a word on standard error and none on standard output")
def unknown_call(store):
    refused(store, [USAGE], "no-such-call", "--", store.uri)
    refused(store, [USAGE], "no-such-call", "--", store.uri, "id")


@rule("a call without all its arguments exits 64")
def missing_arguments(store):
    refused(store, [USAGE])
    refused(store, [USAGE], "list")
    refused(store, [USAGE], "read", "--", store.uri)


@rule("a URI of another scheme exits 64")
def wrong_uri(store):
    refused(store, [USAGE], "list", "--", "no-such-scheme:nothing")
    refused(store, [USAGE], "read", "--", "no-such-scheme:nothing", "id", stdin=b"0 1\n")


@rule("what comes after -- is never an option")
def dashes(store):
    refused(store, [USAGE], "list", "--", "--help")
    refused(store, [GONE], "read", "--", store.uri, "--help", stdin=b"0 1\n")


@rule("reading an id that is not there exits 66")
def unknown_id(store):
    ids = ["no-such-id", "../../../../etc/passwd", "%00", "-", "0", "$(echo 1)", "a" * ID_MAX]
    with contextlib.suppress(NotApplicable):
        for image in store.images()[-1:]:
            # Not put behind it: the tail of an id may be a name that is looked up.
            ids += ["x" + id_of(image)[: ID_MAX - 1], id_of(image)[:-1] or "x"]
    known = {id_of(image) for image in store.listed()}
    for ident in ids:
        if ident not in known:
            refused(store, [GONE], "read", "--", store.uri, ident, stdin=b"0 1\n")


# ---- list -------------------------------------------------------------------------------


@rule("list exits 0 and prints a JSON object a line")
def list_form(store):
    store.fresh_list()


@rule("list: each image has a name, or a name_hex")
def list_names(store):
    for image in store.fresh_list():
        name_of(image)


@rule("list: each image has an id of printable ASCII")
def list_ids(store):
    for image in store.fresh_list():
        id_of(image)


@rule("list: no id is there twice")
def list_unique(store):
    seen = {}
    for image in store.fresh_list():
        if id_of(image) in seen:
            names = f"{seen[id_of(image)]} and {shown(image)}"
            raise Wrong(f"{names} have the same id {id_of(image)}")
        seen[id_of(image)] = shown(image)


@rule("list: each image has a size, 0 to 2^63-1")
def list_sizes(store):
    for image in store.fresh_list():
        size_of(image)


def check_optional(image):
    allocated, mtime = image.get("allocated", 0), image.get("mtime", 0)
    if type(allocated) is not int or allocated < 0:
        raise Wrong(f"allocated must be a whole number of bytes: {allocated!r}")
    if type(mtime) not in (int, float) or not math.isfinite(mtime):
        raise Wrong(f"mtime must be a number of seconds: {mtime!r}")
    if not isinstance(image.get("immutable", False), bool):
        raise Wrong(f"immutable must be true or false: {image['immutable']!r}")
    attrs = image.get("attrs", {})
    if not isinstance(attrs, dict):
        raise Wrong(f"attrs must be an object: {attrs!r}")
    for key, value in attrs.items():
        if not re.fullmatch("[a-z0-9._-]+", key):
            raise Wrong(f"the key of an attribute is made of a-z 0-9 . _ -: {key!r}")
        if not isinstance(value, str):
            raise Wrong(f"attributes must be strings: {key} is {value!r}")


@rule("list: allocated, mtime, immutable and attrs are of the right kind")
def list_optional(store):
    for image in store.fresh_list():
        check_optional(image)


@rule("list again: the same images with the same ids")
def list_repeatable(store):
    def facts():
        return sorted((name_of(each), id_of(each), size_of(each)) for each in store.fresh_list())

    before, after = facts(), facts()
    for one, other in ((before, after), (after, before)):
        for image in set(one) - set(other):
            raise Wrong(f"only one of two lists has {image}; or did the store change meanwhile?")


@rule("list ends when nobody reads it")
def list_unread(store):
    with Run(store, "list", "--", store.uri) as run:
        run.stdout.close()
        run.end_input()
        run.wait()


# ---- read -------------------------------------------------------------------------------


@rule("read: an answer has exactly the bytes asked for, and the end of input exits 0")
def read_exact(store):
    image = store.image()
    length = min(size_of(image), PREFIX)
    with store.read(image) as run:
        run.ask((0, length))
        run.end_input()
        run.take(length)
        run.finish()


@rule("read: the end of input without an ask exits 0")
def read_nothing(store):
    with store.read(store.images()[-1]) as run:
        run.finish()


@rule("read: an image of 0 bytes is read by asking nothing")
def read_empty(store):
    empty = [image for image in store.images() if size_of(image) == 0]
    if not empty:
        raise NotApplicable("no image has 0 bytes")
    with store.read(empty[0]) as run:
        run.finish()


@rule("read: the first and the last byte of every image can be had")
def read_edges(store):
    images = [image for image in store.images() if size_of(image) > 0]
    if not images:
        raise NotApplicable("no image has any bytes")
    for image in images:
        last = size_of(image) - 1
        try:
            with store.read(image) as run:
                run.ask((0, 1), (last, 1), (0, 1))
                run.end_input()
                first, _, again = run.take(1), run.take(1), run.take(1)
                expect(again, first, "the first byte, once more")
                run.finish()
        except Wrong as wrong:
            raise Wrong(f"{shown(image)}: {wrong}") from None


@rule("read: the same bytes, however often they are read")
def read_again(store):
    image = store.image()
    prefix = store.prefix(image)
    with store.read(image) as run:
        run.ask(*[(0, len(prefix))] * 2)
        run.end_input()
        for _ in range(2):
            expect(run.take(len(prefix)), prefix, "the beginning, read again")


def some_asks(size, count):
    """Offsets and lengths of all kinds within @size, the same every time."""
    choose = random.Random(1)
    asks = [(0, 1), (size - 1, 1), (0, min(size, 4096)), (max(0, size - 513), min(size, 513))]
    while len(asks) < count:
        offset = choose.randrange(size)
        longest = choose.choice([1, 512, 4096, 5000, 128 << 10])
        asks.append((offset, choose.randint(1, min(longest, size - offset))))
    return asks[:count]


@rule("read: any offset and length, in any order")
def read_random(store):
    image = store.image()
    prefix = store.prefix(image)
    with store.read(image) as run:
        for offset, length in some_asks(len(prefix), 24):
            run.ask((offset, length))
            what = f"{length} bytes at {offset}"
            expect(run.take(length), prefix[offset : offset + length], what)
        run.finish()


@rule("read: many asks at once are answered in their order, also after the end of input")
def read_queued(store):
    image = store.image()
    prefix = store.prefix(image)
    asks = some_asks(len(prefix), 24)
    with store.read(image) as run:
        run.ask(*asks)
        run.end_input()
        for number, (offset, length) in enumerate(asks):
            what = f"ask {number + 1} of {len(asks)}, {length} bytes at {offset}"
            expect(run.take(length), prefix[offset : offset + length], what)
        surplus = run.rest()
        if surplus:
            raise Wrong(f"{len(surplus)} bytes came after the last answer")
        if run.wait() != 0:
            raise Wrong(run.ending())


@rule("read: an answer is begun and flushed without waiting for more input")
def read_flushed(store):
    image = store.image()
    prefix = store.prefix(image)
    with store.read(image) as run:
        for length in (1, min(len(prefix), 511), len(prefix)):
            run.ask((0, length))
            expect(run.take(length), prefix[:length], f"{length} bytes")


@rule("read: asks may come while an answer is under way")
def read_overlapped(store):
    image = store.image()
    prefix = store.prefix(image)
    with store.read(image) as run:
        run.ask((0, len(prefix)))
        half = run.take(len(prefix) // 2)
        run.ask((0, 1), (len(prefix) - 1, 1))
        expect(half + run.take(len(prefix) - len(half)), prefix, "the answer under way")
        expect(run.take(2), prefix[:1] + prefix[-1:], "the answers after it")
        run.finish()


@rule("read: a line that arrives in pieces is one ask")
def read_pieces(store):
    image = store.image()
    prefix = store.prefix(image)
    with store.read(image) as run:
        for piece in (b"0", b" ", b"1", b"\n0 1", b"\n"):
            with contextlib.suppress(BrokenPipeError):
                os.write(run.stdin.fileno(), piece)
            # Whether the program sees them one by one is its and the kernel's affair.
            time.sleep(0.01)
        expect(run.take(2), prefix[:1] * 2, "two asks in five pieces")
        run.finish()


@rule("read: two programs at once do not disturb one another")
def read_both(store):
    image = store.image()
    prefix = store.prefix(image)
    with store.read(image) as one, store.read(image) as other:
        for run in (one, other):
            run.ask((0, len(prefix)))
        for run in (one, other):
            expect(run.take(len(prefix)), prefix, "read by two at once")
        for run in (one, other):
            run.finish()


@rule("read: what was written stays as it is, moved on from pipe to pipe")
def read_moved(store):
    image = store.image()
    prefix = store.prefix(image)
    length = min(len(prefix), HELD)
    with store.read(image) as run, Held(length) as held:
        run.ask((0, len(prefix)))
        held.take_from(run, length)
        run.take(len(prefix) - length)
        # Other bytes for what may be used again.
        for offset in range(min(4096, length - 1), length, max(1, length // 8)):
            run.ask((offset, len(prefix) - offset))
            run.take(len(prefix) - offset)
        expect(held.read(length), prefix[:length], "the beginning, kept in a pipe")
        run.finish()


@rule("read: ends when nobody reads the answer")
def read_unread(store):
    image = store.image()
    with store.read(image) as run:
        # More than a pipe holds, so that it must notice.
        run.ask(*[(0, min(size_of(image), PREFIX))] * 4)
        run.take(1)
        run.stdout.close()
        run.end_input()
        run.wait()


@rule("read: a killed program leaves no process behind that holds its pipes")
def read_killed(store):
    image = store.image()
    with store.read(image) as run:
        run.ask(*[(0, min(size_of(image), PREFIX))] * 4)
        run.take(1)
        run.kill()
        run.wait()
        run.rest()


# ---- extents ----------------------------------------------------------------------------


def extents_of(store, image):
    """The runs of data of an image, as they were printed."""
    status, output, said = store.call("extents", "--", store.uri, id_of(image))
    if status == USAGE:
        if output:
            raise Wrong("exits 64, and prints extents")
        raise NotApplicable("the program cannot tell (exit status 64)")
    if status != 0:
        raise Wrong(f"extents of {shown(image)} {tell(status)}: {said}")
    lines = output.split(b"\n")
    if lines.pop() != b"":
        raise Wrong("the last line has no newline")
    for line in lines:
        if not re.fullmatch(rb"[0-9]{1,19} [0-9]{1,19}", line):
            raise Wrong(f"not OFFSET LENGTH: {line[:80]!r}")
    return [tuple(map(int, line.split())) for line in lines]


@rule("extents: exits 0 and prints OFFSET LENGTH a line, or exits 64")
def extents_form(store):
    for image in store.images():
        extents_of(store, image)


@rule("extents: ascending, not overlapping, not empty, within the image")
def extents_order(store):
    for image in store.images():
        end = 0
        for offset, length in extents_of(store, image):
            here = f"{shown(image)}: {offset} {length}"
            if offset < end:
                raise Wrong(f"{here} begins before {end}, the end of the one before")
            if length == 0:
                raise Wrong(f"{here} is empty")
            if offset + length > size_of(image):
                raise Wrong(f"{here} ends behind the image, which has {size_of(image)} bytes")
            end = offset + length


def holes_of(store, image):
    """What is not in the extents."""
    end = 0
    for offset, length in extents_of(store, image):
        if offset > end:
            yield end, offset - end
        end = max(end, offset + length)
    if end < size_of(image):
        yield end, size_of(image) - end


@rule("extents: all else is zeros")
def extents_zeros(store):
    budget = ZEROS_READ
    for image in store.images():
        asks = []
        for offset, length in holes_of(store, image):
            # All of a small hole; of a large one the beginning and the end.
            edge = min(length, 128 << 10, budget // 2)
            budget -= 2 * edge
            if edge == 0 or len(asks) == 32:
                break
            asks += [(offset, edge), (offset + length - edge, edge)]
        if not asks:
            continue
        with store.read(image) as run:
            run.ask(*asks)
            for offset, length in asks:
                if run.take(length).count(0) != length:
                    here = f"{shown(image)}: {length} bytes at {offset}"
                    raise Wrong(f"{here} are outside of the extents and not zeros")


@rule("extents: an id that is not there exits 66")
def extents_unknown(store):
    extents_of(store, store.images()[0])
    refused(store, [GONE], "extents", "--", store.uri, "no-such-id")


# ---- all of them ------------------------------------------------------------------------


def check(program, uri, image=None, limit=30, only=None):
    """Go through the rules.  Yields (name, text, verdict, why) for each."""
    store = Store(program, uri, image, limit)
    for name, text, function in RULES:
        if only and name not in only:
            continue
        verdict, why = "ok", ""
        try:
            function(store)
        except Wrong as wrong:
            verdict, why = "wrong", str(wrong)
        except NotApplicable as reason:
            verdict, why = "n/a", str(reason)
        yield name, text, verdict, why


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", help="the image to read; else one that suits")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--rule", action="append", help="only this rule; can be repeated")
    parser.add_argument(
        "--limit", type=int, default=30, help="seconds without progress that count as hung (30)"
    )
    parser.add_argument("program")
    parser.add_argument("uri")
    options = parser.parse_args()
    unknown = set(options.rule or ()) - {name for name, _, _ in RULES}
    if unknown:
        parser.error(f"no such rule: {', '.join(sorted(unknown))}")

    if not shutil.which(options.program):
        parser.error(f"cannot run {options.program}")

    results = []
    for name, text, verdict, why in check(
        options.program, options.uri, options.image, options.limit, options.rule
    ):
        results.append({"rule": name, "text": text, "verdict": verdict, "why": why})
        if not options.json:
            mark = "WRONG" if verdict == "wrong" else verdict
            print(f"{mark:5}  {text}" + (f": {why}" if why else ""), flush=True)
    good = all(result["verdict"] != "wrong" for result in results)
    if options.json:
        facts = {"program": options.program, "uri": options.uri, "good": good, "rules": results}
        print(json.dumps(facts, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
