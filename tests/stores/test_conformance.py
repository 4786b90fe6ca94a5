# SPDX-License-Identifier: MIT
"""conformance.py finds nothing in programs that are right, and each thing that is wrong.

A reference program that keeps all rules is spoilt in one place at a time, so that a rule
that does not look any more, or that sees faults in what is right, fails a test.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import conformance

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
BUILD = Path(os.environ.get("IMAGEFS_BUILD", SOURCE / "build")).resolve()
LIMIT = 60  # seconds for a program that is right
HUNG = 10  # seconds until a program that hangs for ever is said to hang

REFERENCE = r"""#!/usr/bin/python3 -IS
import json, os, sys, time

DATA = {
    "alpha": bytes(i * 7 % 251 for i in range(600000)),
    "empty": b"",
    "holes": bytes(300000) + b"data" * 1000 + bytes(300000),
}
IDS = {f"{name}-1": name for name in DATA}


def fail(status, said):
    print(said, file=sys.stderr)
    sys.exit(status)


def print_list():
    for name, data in DATA.items():
        image = {"name": name, "id": name + "-1", "size": len(data)}
        image.update(allocated=4096, mtime=1.5, immutable=True, attrs={"a.b_c-d": "1"})
        print(json.dumps(image))


def answer(data, offset, length):
    sys.stdout.buffer.write(data[offset : offset + length])
    sys.stdout.buffer.flush()


def serve(data):
    for line in sys.stdin.buffer:
        offset, length = map(int, line.split())
        answer(data, offset, length)
    # the end of input


def print_extents(data):
    if data.strip(b"\0"):
        begin = len(data) - len(data.lstrip(b"\0"))
        end = len(data.rstrip(b"\0"))
        print(begin, end - begin)


def main():
    if len(sys.argv) < 3:
        fail(64, "too few arguments")
    call, dashes, *rest = sys.argv[1:]
    if (call, len(rest)) not in (("list", 1), ("read", 2), ("extents", 2)):
        fail(64, "unknown call")
    if not rest[0].startswith("reference:"):
        fail(64, "unknown URI")
    if call == "list":
        return print_list()
    if rest[1] not in IDS:
        fail(66, "no such image")
    data = DATA[IDS[rest[1]]]
    serve(data) if call == "read" else print_extents(data)


try:
    main()
    sys.stdout.flush()
except BrokenPipeError:
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
"""

IMAGE = 'image = {"name": name, "id": name + "-1", "size": len(data)}'
ATTRS = 'image.update(allocated=4096, mtime=1.5, immutable=True, attrs={"a.b_c-d": "1"})'
ANSWER = "sys.stdout.buffer.write(data[offset : offset + length])"
FLUSH = "    sys.stdout.buffer.flush()\n"
FOR_LINE = "for line in sys.stdin.buffer:"
END = "# the end of input"
HANG = "while True: time.sleep(1000)"
IGNORE = """    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)"""

# A process that ends with its test: when the program's file is gone.
LINGER = """["sh", "-c", "while [ -e $0 ]; do sleep 0.1; done", __file__]"""

# The pipe is given the pages of a buffer that is used again once the pipe is empty.
LEND = """import array, ctypes, fcntl, mmap, termios
    libc = ctypes.CDLL(None)
    memory = globals().setdefault("memory", mmap.mmap(-1, 1 << 20))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[:length] = data[offset : offset + length]
    while length > 0:
        part = (ctypes.c_size_t * 2)(at, length)
        sent = libc.vmsplice(1, part, 1, 0)
        at, length = at + sent, length - sent
    held = array.array("i", [1])
    while held[0]:
        fcntl.ioctl(1, termios.FIONREAD, held)"""

# The rule that is broken, what is replaced in the program, by what, and what is then said.
SPOILT = [
    ("unknown_call", 'fail(64, "unknown call")', "sys.exit(0)", "exited 0, not 64"),
    ("unknown_call", 'fail(64, "unknown call")', "sys.exit(64)", "said nothing"),
    (
        "unknown_call",
        'fail(64, "unknown call")',
        'print("usage"); fail(64, "usage")',
        "6 bytes on standard output",
    ),
    ("missing_arguments", 'fail(64, "too few arguments")', "pass", "exited 1, not 64"),
    ("wrong_uri", 'rest[0].startswith("reference:")', "True", "exited 0, not 64"),
    (
        "dashes",
        "    call, dashes, *rest = sys.argv[1:]",
        '    if "--help" in sys.argv: sys.exit("usage")\n    call, dashes, *rest = sys.argv[1:]',
        "exited 1, not 64",
    ),
    ("unknown_id", 'fail(66, "no such image")', 'fail(74, "?")', "exited 74, not 66"),
    ("unknown_id", 'fail(66, "no such image")', "return print(1)", "exited 0, not 66"),
    ("unknown_id", 'fail(66, "no such image")', 'print(1); fail(66, "?")', "on standard output"),
    ("unknown_id", "rest[1] not in IDS", 'rest[1].strip("x") not in IDS', "not 66"),
    ("list_form", "return print_list()", "return print_list() or sys.exit(75)", "exited 75"),
    ("list_form", "print(json.dumps(image))", "print([])", "not a JSON object"),
    ("list_form", "print(json.dumps(image))", 'print("hello")', "not a JSON object"),
    ("list_form", "print(json.dumps(image))", "print(json.dumps(image), '{}')", "not a JSON"),
    ("list_form", "print(json.dumps(image))", "print()", "not a JSON object"),
    ("list_form", "print(json.dumps(image))", "print(json.dumps(image), end='')", "newline"),
    ("list_form", "print(json.dumps(image))", "print(json.dumps(image, indent=1))", "not a JSON"),
    ("list_form", "print(json.dumps(image))", 'print(\'{"a": 1, "a": 2}\')', "twice"),
    ("list_form", ATTRS, "image['x'] = float('nan')", "NaN is not JSON"),
    ("list_form", ATTRS, "image['x'] = 'x' * (1 << 20)", "more than 1048576"),
    (
        "list_form",
        "print(json.dumps(image))",
        "sys.stdout.buffer.write(b'{\"name\": \"\\xff\"}\\n')",
        "not a JSON object",
    ),
    ("list_names", '{"name": name, ', '{"name": "", ', "not empty"),
    ("list_names", '{"name": name, ', '{"name": name + "\\0", ', "without NUL"),
    ("list_names", '{"name": name, ', '{"name": 7, ', "must be a string"),
    ("list_names", '{"name": name, ', '{"name": "\\ud800", ', "not Unicode"),
    ("list_names", '{"name": name, ', "{", "needs name or name_hex"),
    ("list_names", '{"name": name, ', '{"name": name, "name_hex": "41", ', "not both"),
    ("list_names", '{"name": name, ', '{"name_hex": "abc", ', "two hexadecimal digits"),
    ("list_names", '{"name": name, ', '{"name_hex": "", ', "two hexadecimal digits"),
    ("list_ids", '"id": name + "-1"', '"id": name + " 1"', "printable ASCII"),
    ("list_ids", '"id": name + "-1"', '"id": name + "\\u00e9"', "printable ASCII"),
    ("list_ids", '"id": name + "-1"', '"id": ""', "printable ASCII"),
    ("list_ids", '"id": name + "-1"', '"id": 1', "printable ASCII"),
    ("list_ids", '"id": name + "-1", ', "", "printable ASCII"),
    ("list_ids", '"id": name + "-1"', '"id": "1" * 4097', "4097 bytes"),
    ("list_unique", '"id": name + "-1"', '"id": "1"', "same id"),
    ("list_sizes", '"size": len(data)', '"size": "1"', "whole number"),
    ("list_sizes", '"size": len(data)', '"size": -1', "whole number"),
    ("list_sizes", '"size": len(data)', '"size": 1.0', "whole number"),
    ("list_sizes", '"size": len(data)', '"size": True', "whole number"),
    ("list_sizes", '"size": len(data)', '"size": 1 << 63', "whole number"),
    ("list_sizes", ', "size": len(data)', "", "whole number"),
    ("list_optional", "allocated=4096", "allocated=-1", "allocated"),
    ("list_optional", "allocated=4096", "allocated=1.5", "allocated"),
    ("list_optional", "mtime=1.5", "mtime='now'", "mtime"),
    ("list_optional", "mtime=1.5", "mtime=None", "mtime"),
    ("list_optional", "immutable=True", "immutable=1", "immutable"),
    ("list_optional", 'attrs={"a.b_c-d": "1"}', "attrs=[]", "attrs must be"),
    ("list_optional", 'attrs={"a.b_c-d": "1"}', 'attrs={"A": "1"}', "key of an attribute"),
    ("list_optional", 'attrs={"a.b_c-d": "1"}', 'attrs={"": "1"}', "key of an attribute"),
    ("list_optional", 'attrs={"a.b_c-d": "1"}', 'attrs={"a": 1}', "must be strings"),
    ("list_repeatable", '"id": name + "-1"', '"id": name + str(os.getpid())', "one of two lists"),
    ("list_repeatable", '"size": len(data)', '"size": os.getpid()', "one of two lists"),
    ("list_unread", IGNORE, "    " + HANG, "still runs"),
    ("read_exact", "offset + length]", "offset + length - 1]", "603999 bytes into an answer"),
    ("read_exact", "offset + length]", "offset + length] + b'x'", "1 bytes came that nobody"),
    ("read_exact", END, "sys.exit(74)", "at its end of input it exited 74"),
    ("read_exact", END, "print('done')", "5 bytes came that nobody"),
    ("read_exact", ANSWER, "os.kill(os.getpid(), 9)", "it was killed by signal 9"),
    ("read_nothing", FOR_LINE, "line = next(sys.stdin.buffer)\n    if 1:", "exited 1"),
    ("read_nothing", FOR_LINE, "print('ready')\n    " + FOR_LINE, "6 bytes came that nobody"),
    ("read_empty", "serve(data) if", "data or fail(66, '?')\n    serve(data) if", "exited 66"),
    ("read_edges", ANSWER, "sys.stdout.buffer.write(data[offset : offset + length][:-1])", "ended"),
    ("read_edges", ANSWER, ANSWER[:-1] + " if offset + length < len(data) else b'')", "ended"),
    ("read_edges", ANSWER, "sys.stdout.buffer.write(os.urandom(length))", "and was"),
    ("read_again", ANSWER, "sys.stdout.buffer.write(os.urandom(length))", "read again: byte"),
    ("read_random", "data[offset :", "data[offset // 512 * 512 :", "bytes at"),
    ("read_random", ANSWER, "sys.stdout.buffer.write(data[:length])", "bytes at"),
    (
        "read_queued",
        FOR_LINE,
        "for line in reversed(list(sys.stdin.buffer)):",
        " of 24",
    ),
    (
        "read_queued",
        FOR_LINE,
        "while line := os.read(0, 4096).split(b'\\n')[0]:",
        "output ended",
    ),
    ("read_queued", END, "print('surplus')", "8 bytes came after the last answer"),
    ("read_queued", END, "fail(1, 'bad end')", "exited 1, saying 'bad end'"),
    ("read_flushed", FLUSH, "", "nothing more came"),
    ("read_flushed", FOR_LINE, "for line in list(sys.stdin.buffer):", "nothing more came"),
    (
        "read_overlapped",
        "        answer(data, offset, length)\n",
        "        answer(data, offset, length)\n        sys.stdin.buffer.read1(1 << 20)\n",
        "nothing more came",
    ),
    ("read_pieces", FOR_LINE, "while line := os.read(0, 4096):", "output ended"),
    (
        "read_both",
        FOR_LINE,
        "import fcntl; lock = open(__file__); fcntl.flock(lock, 2)\n    " + FOR_LINE,
        "nothing more came",
    ),
    ("read_moved", ANSWER, LEND, "the beginning, kept in a pipe: byte"),
    ("read_unread", IGNORE, "    " + HANG, "still runs"),
    (
        "read_killed",
        FOR_LINE,
        f"import subprocess; subprocess.Popen({LINGER}, start_new_session=True)\n    {FOR_LINE}",
        "output stays open",
    ),
    ("extents_form", "print(begin, end - begin)", "print(begin)", "not OFFSET LENGTH"),
    ("extents_form", "print(begin, end - begin)", "print(begin, 1.5)", "not OFFSET LENGTH"),
    ("extents_form", "print(begin, end - begin)", "print(begin, end - begin, end='')", "newline"),
    ("extents_form", "print(begin, end - begin)", "sys.exit(74)", "exited 74"),
    ("extents_form", "print(begin, end - begin)", "print(1, 1); sys.exit(64)", "exits 64, and"),
    ("extents_order", "print(begin, end - begin)", "print('9 1'); print('3 1')", "begins before 10"),
    ("extents_order", "print(begin, end - begin)", "print('0 5'); print('4 1')", "begins before 5"),
    ("extents_order", "print(begin, end - begin)", "print('5 0')", "is empty"),
    ("extents_order", "print(begin, end - begin)", "print(0, len(data) + 1)", "ends behind"),
    ("extents_zeros", "print(begin, end - begin)", "print(begin + 1, end - begin - 1)", "not zeros"),
    ("extents_zeros", "print(begin, end - begin)", "print(begin, end - begin - 1)", "not zeros"),
    ("extents_zeros", "print(begin, end - begin)", "pass", "not zeros"),
    ("extents_unknown", "if rest[1] not in IDS:", "if call=='read' and 0: pass\n    if 0:", "not 66"),
]


def write_program(folder, text):
    path = folder / "store"
    path.write_text(text)
    path.chmod(0o755)
    return path


def verdicts(program, uri, **options):
    """What is not ok: {rule: (verdict, why)}."""
    options.setdefault("limit", LIMIT)
    results = list(conformance.check(program, uri, **options))
    assert results
    return {name: (verdict, why) for name, _, verdict, why in results if verdict != "ok"}


def run_tool(*arguments):
    command = [sys.executable, HERE / "conformance.py", "--limit", str(LIMIT), *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=300,
        check=False,
        text=True,
    )


def test_a_program_that_keeps_all_rules_is_all_ok(tmp_path):
    assert verdicts(str(write_program(tmp_path, REFERENCE)), "reference:") == {}


@pytest.mark.parametrize(
    "number", range(len(SPOILT)), ids=[f"{n}-{row[0]}" for n, row in enumerate(SPOILT)]
)
def test_a_rule_that_is_broken_is_said(tmp_path, number):
    rule, old, new, said = SPOILT[number]
    assert REFERENCE.count(old) == 1
    program = write_program(tmp_path, REFERENCE.replace(old, new))
    hangs = said in ("nothing more came", "still runs", "output stays open")
    try:
        found = verdicts(str(program), "reference:", only=[rule], limit=HUNG if hangs else LIMIT)
    finally:
        program.unlink()
    assert rule in found
    verdict, why = found[rule]
    assert verdict == "wrong"
    assert said in why


def test_every_rule_is_seen_to_be_broken():
    names = {name for name, _, _ in conformance.RULES}
    assert names == {row[0] for row in SPOILT}


def test_rules_that_do_not_apply_are_not_wrong(tmp_path):
    no_extents = REFERENCE.replace('("extents", 2)', '("none", 2)')
    found = verdicts(str(write_program(tmp_path, no_extents)), "reference:")
    assert set(found) == {"extents_form", "extents_order", "extents_zeros", "extents_unknown"}
    assert {verdict for verdict, _ in found.values()} == {"n/a"}


def test_an_empty_store_is_right(tmp_path):
    nothing = re.sub(r"DATA = \{.*?\n\}", "DATA = {}", REFERENCE, flags=re.S)
    found = verdicts(str(write_program(tmp_path, nothing)), "reference:")
    assert {verdict for verdict, _ in found.values()} == {"n/a"}


def test_a_list_that_is_wrong_does_not_hide_the_other_rules(tmp_path):
    spoilt = REFERENCE.replace(IMAGE, "image = {}")
    found = verdicts(str(write_program(tmp_path, spoilt)), "reference:")
    assert found["list_names"][0] == "wrong"
    assert found["read_exact"][0] == "n/a"
    assert "list cannot be used" in found["read_exact"][1]


def test_the_image_can_be_chosen(tmp_path):
    spoilt = REFERENCE.replace(ANSWER, 'data == DATA["holes"] and sys.exit(74)\n    ' + ANSWER)
    program = str(write_program(tmp_path, spoilt))
    only = ["read_exact"]
    assert verdicts(program, "reference:", image="alpha", only=only) == {}
    assert verdicts(program, "reference:", image="holes", only=only)["read_exact"][0] == "wrong"
    assert verdicts(program, "reference:", image="none", only=only)["read_exact"][0] == "n/a"


def test_the_tool_exits_0_or_1_and_prints_a_line_for_each_rule(tmp_path):
    program = write_program(tmp_path, REFERENCE)
    good = run_tool(program, "reference:")
    assert (good.returncode, good.stderr) == (0, "")
    assert len(good.stdout.splitlines()) == len(conformance.RULES)
    assert all(line.startswith("ok ") for line in good.stdout.splitlines())

    program.write_text(REFERENCE.replace(END, "sys.exit(75)"))
    bad = run_tool("--rule", "read_exact", "--rule", "list_form", program, "reference:")
    assert (bad.returncode, bad.stderr) == (1, "")
    ok, wrong = bad.stdout.splitlines()
    assert ok.startswith("ok ")
    assert wrong.startswith("WRONG ") and "it exited 75" in wrong


def test_the_tool_prints_json(tmp_path):
    program = write_program(tmp_path, REFERENCE.replace(END, "sys.exit(75)"))
    run = run_tool("--json", "--rule", "read_exact", "--image", "alpha", program, "reference:")
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert found["good"] is False
    assert [(each["rule"], each["verdict"]) for each in found["rules"]] == [("read_exact", "wrong")]


def test_the_tool_says_that_a_program_cannot_be_run(tmp_path):
    run = run_tool(tmp_path / "none", "reference:")
    assert run.returncode == 2
    assert "cannot run" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_store_of_the_manual_keeps_all_rules(tmp_path):
    manual = (SOURCE / "src" / "imagefs-store.7.rst").read_text()
    code = re.search(r"::\n\n((?:    .*\n|\n)+)", manual)[1]
    code = re.sub("^    ", "", code, flags=re.M)
    assert code.startswith("#!/bin/sh\n")
    images = tmp_path / "images"
    images.mkdir()
    (images / "alpha.raw").write_bytes(bytes(i * 7 % 251 for i in range(300000)))
    (images / "empty").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"x")
    program = write_program(tmp_path, code)
    found = verdicts(str(program), f"files://{images}")
    assert {rule for rule in found if not rule.startswith("extents")} == set()
    assert {verdict for verdict, _ in found.values()} == {"n/a"}


def test_dir_keeps_all_rules(tmp_path):
    (tmp_path / "alpha").write_bytes(bytes(i * 7 % 251 for i in range(600000)))
    (tmp_path / "empty").write_bytes(b"")
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(8 << 20)
        file.seek(3 << 20)
        file.write(b"data" * 5000)
    assert verdicts(str(BUILD / "imagefs-store-dir"), f"dir://{tmp_path}") == {}
