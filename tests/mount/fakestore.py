# SPDX-License-Identifier: MIT
"""The fake store as a test sees it: makes the folder that tests/mount/fake.c is told by."""

import glob
import json
import os
import re
import struct

BLOCK = 65536
NAME_MAX = 200  # of an id in the name of a file
MASK = (1 << 64) - 1


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


TABLE = int.from_bytes(
    struct.pack("<%dQ" % (BLOCK // 8), *(mix(i + 1) for i in range(BLOCK // 8))), "little"
)
ONES = int.from_bytes(struct.pack("<Q", 1) * (BLOCK // 8), "little")


def key_of(id):
    key = 0xCBF29CE484222325
    for byte in id.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    return key


def quote(text):
    """Text as fault.h wants it: %XX for what is not plain."""
    data = text if isinstance(text, bytes) else text.encode()
    return "".join(
        chr(b) if re.match(rb"[A-Za-z0-9._/:-]", bytes([b])) else "%%%02X" % b for b in data
    )


def file_name(id):
    quoted = "".join(c if re.match(r"[A-Za-z0-9._-]", c) else "%%%02X" % ord(c) for c in id)
    return quoted[:NAME_MAX]


class Image:
    """An image of the fake store; its bytes are known without reading them from anywhere."""

    def __init__(self, name, size, id, extents, keys):
        self.name = name
        self.size = size
        self.id = id
        self.key = key_of(id)
        self.extents = extents
        self.keys = keys

    def block(self, number):
        word = mix(self.key ^ mix(number))
        return (TABLE ^ (word * ONES)).to_bytes(BLOCK, "little")

    def data(self, offset, length):
        """The bytes of a full image, whatever its extents."""
        end = offset + length
        first = offset // BLOCK
        blocks = b"".join(self.block(n) for n in range(first, -(-end // BLOCK)))
        return blocks[offset - first * BLOCK : end - first * BLOCK]

    def bytes(self, offset, length):
        """What a read of @length bytes at @offset has to give."""
        end = min(self.size, offset + length)
        if offset >= end:
            return b""
        if self.extents is None:
            return self.data(offset, end - offset)
        result = bytearray(end - offset)
        for start, run in self.extents:
            low, high = max(start, offset), min(start + run, end)
            if low < high:
                result[low - offset : high - offset] = self.data(low, high - low)
        return bytes(result)

    def line(self):
        name = os.fsencode(self.name)
        shown = {"id": self.id, "size": self.size}
        try:
            shown["name"] = name.decode()
        except UnicodeDecodeError:
            shown["name_hex"] = name.hex()
        shown.update(self.keys)
        return json.dumps(shown) + "\n"


class FakeStore:
    def __init__(self, folder):
        self.folder = folder
        self.uri = "fake://%s" % folder
        self.images = {}
        for name in ("sizes", "extents", "gone", "faults", "fired", "marks", "sent"):
            (folder / name).mkdir(parents=True)
        self.publish()

    def image(self, name, size, id=None, extents=None, publish=True, **keys):
        """An image, listed from the next listing on unless @publish is false; a second one
        of the same name and id takes the place of the first."""
        image = Image(name, size, id or "id-" + file_name(os.fsdecode(name)), extents, keys)
        (self.folder / "sizes" / file_name(image.id)).write_text("%d\n" % size)
        if extents is not None:
            self.write("extents/" + file_name(image.id), "".join("%d %d\n" % e for e in extents))
        self.images[name, image.id] = image
        if publish:
            self.publish()
        return image

    def remove(self, image, gone=True):
        """Leave the image out of the list; @gone: reading it ends with "no such image"."""
        del self.images[image.name, image.id]
        self.publish()
        if gone:
            (self.folder / "gone" / file_name(image.id)).touch()

    def publish(self):
        self.write("images.jsonl", "".join(image.line() for image in self.images.values()))

    def write(self, name, text):
        """Replace a file as a whole: a program that runs sees the old or the new one."""
        new = self.folder / (name + ".new")
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        new.rename(self.folder / name)

    def fault(self, what, *lines):
        """What goes wrong, see fault.h; @what is an image (its reads), or "list", or
        "extents.ID".  Without lines: nothing any more, for programs started from now on.
        What happened earlier does not count for after= and times=."""
        if isinstance(what, Image):
            what = "read." + file_name(what.id)
        for fired in (self.folder / "fired").glob(glob.escape(what) + ".*.*"):
            if fired.name.rsplit(".", 2)[0] == what:
                fired.unlink()
        self.write("faults/" + what, "".join(line + "\n" for line in lines))

    def mark(self, name):
        (self.folder / "marks" / name).touch()

    def marked(self, name):
        return (self.folder / "marks" / name).exists()

    def log(self):
        """All that was called so far: lists of words, the process first."""
        try:
            text = (self.folder / "log").read_text()
        except FileNotFoundError:
            return []
        return [line.split(" ") for line in text.splitlines()]

    def calls(self, *words):
        """The entries of the log that begin with @words, without them: for
        calls("ask", "id-a") pairs of strings."""
        count = len(words)
        return [e[1 + count :] for e in self.log() if tuple(e[1 : 1 + count]) == words]

    def asks(self, image):
        return [(int(offset), int(length)) for offset, length in self.calls("ask", image.id)]

    def readers(self, image):
        """How many reader processes were ever started for the image."""
        return len(self.calls("read", image.id))

    def asked_bytes(self, image):
        return sum(length for _, length in self.asks(image))

    def sent_bytes(self, image):
        """How much of the image its readers have sent, more than once where it was so."""
        path = self.folder / "sent" / file_name(image.id)
        return int.from_bytes(path.read_bytes(), "little") if path.exists() else 0
