# SPDX-License-Identifier: MIT
"""The manual's section FAULTS, for the tests that make happen what its rows say."""

import re

from harness import SOURCE

MANUAL = (SOURCE / "src" / "imagefs.1.rst").read_text()


def rows():
    """{what goes wrong: (what is seen, what the log says or None)}"""
    text = re.search(r"^FAULTS\n=+\n(.*?)^[A-Z ]+\n=+\n", MANUAL, re.S | re.M)[1]
    found = {}
    for title, row in re.findall(r"^(\S.*)\n((?:    .*\n)+)", text, re.M):
        parts = re.match(r"Seen: (.*?)\.? Log: (.*?)\.? Do: .", " ".join(row.split()))
        assert parts, "not a row: " + title
        quoted = re.match(r"``(.*?)``", parts[2])
        found[title] = parts[1], quoted and quoted[1]
    return found


ROWS = rows()


def pattern_of(line):
    """A line of the manual as a pattern for one of the log."""
    line = re.sub(r"\b(STORE|IMAGE|TEXT|PROGRAM|WHY|LINE)\b", ".+", re.escape(line))
    return re.sub(r"\bN\b", r"[0-9]+", line)


def check_row(title, seen, log):
    """What happened is what the row says: @seen is an errno's name, or the row's own words."""
    told_seen, told_log = ROWS[title]
    assert re.search(r"\b%s\b" % seen, told_seen), (title, seen)
    if told_log:
        assert re.search("imagefs: %s( |$)" % pattern_of(told_log), log, re.M), (title, log)
    else:
        assert log == ""
