# SPDX-License-Identifier: MIT
"""A parser of the text format of Prometheus, version 0.0.4, that takes nothing else:
https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format"""

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
VALUE = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|Inf)|NaN"
TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}


def unescape(text):
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)


def parse_line(line):
    """(name, {label: value}, number) of a sample."""
    match = re.fullmatch(r"(%s)(?:\{(.*)\})? (%s)" % (NAME, VALUE), line)
    assert match, "not a sample: " + line
    labels, rest = {}, match[2] or ""
    while rest:
        label = re.match(LABEL + r"(?:,|$)", rest)
        assert label, "not a label: %r in %s" % (rest, line)
        assert label[1] not in labels, "a label twice: " + line
        labels[label[1]] = unescape(label[2])
        rest = rest[label.end():]
    return match[1], labels, float(match[3])


class Family:
    """The samples of one metric."""

    def __init__(self, name):
        self.name, self.type, self.help, self.samples = name, None, None, {}

    def owns(self, name):
        suffixes = ("_bucket", "_sum", "_count") if self.type == "histogram" else ("",)
        return name in [self.name + suffix for suffix in suffixes]

    def add(self, name, labels, value):
        key = (name, tuple(sorted(labels.items())))
        assert key not in self.samples, "twice: %r" % (key,)
        self.samples[key] = value

    def check(self):
        assert self.type in TYPES and self.help, self.name
        if self.type == "counter":
            assert self.name.endswith("_total"), self.name
            assert all(value >= 0 for value in self.samples.values())
        if self.type == "histogram":
            self.check_histogram()

    def check_histogram(self):
        """Buckets that grow, up to +Inf, which is the count; for each set of labels."""
        buckets = {}
        for (name, labels), value in self.samples.items():
            if name.endswith("_bucket"):
                rest = tuple(label for label in labels if label[0] != "le")
                buckets.setdefault(rest, []).append((float(dict(labels)["le"]), value))
        assert buckets or not self.samples, self.name
        for labels, found in buckets.items():
            assert found == sorted(found), "buckets are in order"
            assert [value for _, value in found] == sorted(value for _, value in found)
            assert found[-1][0] == float("inf")
            assert self.samples[self.name + "_count", labels] == found[-1][1]
            assert self.samples[self.name + "_sum", labels] >= 0


def parse(text):
    """{name: Family}; what is not well formed fails."""
    assert text == "" or text.endswith("\n")
    families, current = {}, None
    for line in text.splitlines():
        comment = re.fullmatch(r"# (HELP|TYPE) (%s) (.*)" % NAME, line)
        if not comment:
            assert not line.startswith("#"), line
            name, labels, value = parse_line(line)
            assert current and current.owns(name), "without a headline: " + line
            current.add(name, labels, value)
            continue
        kind, name, rest = comment.groups()
        if not current or current.name != name:
            assert name not in families, "the lines of a metric stand together: " + line
            current = families[name] = Family(name)
        assert not current.samples, "a headline comes first: " + line
        assert getattr(current, kind.lower()) is None, "twice: " + line
        setattr(current, kind.lower(), rest)
    for family in families.values():
        family.check()
    return families


def value(families, name, **labels):
    """The value of the one sample of @name that has these labels, and no others but store."""
    found = []
    for family in families.values():
        for (sample, its), number in family.samples.items():
            if sample == name and {k: v for k, v in its if k != "store"} == labels:
                found.append(number)
    assert len(found) == 1, "%s %r: %r" % (name, labels, found)
    return found[0]
