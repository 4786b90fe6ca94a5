# SPDX-License-Identifier: MIT
"""Random schedules of reads, closes, faults and rests, against what every version of an image
is known to be.

A World is a fake store whose images are replaced, shrunk, deleted and made to fail while
Readers, a thread each, read them in all ways.  Each handle is of one version, which the
attribute user.imagefs.id of the open file names: every byte that is read is that version's, or
the read fails with an errno that this version may give, because of what was done to it before.
"""

import array
import errno
import math
import mmap
import os
import random
import threading
import time
from dataclasses import dataclass, field

from harness import wait_until

MIB = 1 << 20
PAGE = 4096
HANDLES = 3  # of a reader
RELISTED = 5  # seconds after a listing failed, until there is another
SIZES = [0, 1, PAGE - 1, PAGE + 1, 300001, MIB - 1, 3 * MIB + 17, 9 * MIB + 4321, 12 * MIB]
LARGE = 3 << 30
RUNS = [(0, 2 * MIB), (700 * MIB + 123, 5 * MIB + 17), (LARGE - MIB - 1, MIB + 1)]
DEATHS = ["exit=0", "exit=1", "exit=69", "exit=74", "exit=75", "signal=9", "signal=11",
          "flood=200000 exit=70", "grandchild exit=74", "grandchild=deaf signal=9"]
STATUSES = {0: errno.EIO, 64: errno.EIO, 65: errno.EIO, 66: errno.ESTALE, 69: errno.EIO,
            74: errno.EIO, 75: errno.EIO, 77: errno.EACCES, 137: errno.EIO}


@dataclass
class Version:
    """What an image was for a time; all of its bytes are known."""

    image: object  # of fakestore
    errnos: set = field(default_factory=set)  # that reading it may fail with, because of faults
    begins_badly: bool = False
    ends_badly: bool = False

    @property
    def size(self):
        return self.image.size

    def data_from(self, offset):
        """Where SEEK_DATA goes; None: nowhere."""
        for start, length in self.runs():
            if offset < start + length:
                return max(offset, start)
        return None

    def hole_from(self, offset):
        for start, length in self.runs():
            if start <= offset < start + length:
                return start + length
        return offset

    def runs(self):
        return [(0, self.size)] if self.image.extents is None else self.image.extents


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.reads = self.bytes = self.errors = self.seeks = self.opens = 0
        self.faults = self.deaths = self.changes = self.rests = 0
        self.waits = array.array("f")  # seconds, of every read that gave bytes
        self.wrong = []  # sentences

    def add(self, **more):
        with self.lock:
            for name, value in more.items():
                setattr(self, name, getattr(self, name) + value)


class World:
    """The store and what is done to it, by one thread."""

    def __init__(self, fake, seed, names=6, fatal=False, hangs=False):
        self.fake = fake
        self.random = random.Random(seed)
        self.fatal = fatal  # faults that a read does not survive
        self.hangs = hangs  # of them, those that come upon the stall limit
        self.versions = {}  # by id, of all times
        self.current = {}  # by name; None: deleted
        self.deleted = set()  # names that once were
        self.list_died = -math.inf  # when a program that lists was killed, time.monotonic()
        self.counts = Counts()
        self.resting = threading.Event()
        self.serial = 0
        for number in range(names):
            self.replace("image-%d" % number)

    def wrong(self, what):
        with self.counts.lock:
            self.counts.wrong.append(what)

    def replace(self, name):
        """Another version under the name; the old one may be gone, or may still be had."""
        old = self.current.get(name)
        self.serial += 1
        id = "%s.%d" % (name, self.serial)
        choose = self.random.random()
        size, extents = self.random.choice(SIZES), None
        if choose < 0.2:
            size, extents = LARGE, RUNS
        elif choose < 0.3 and size > 2 * PAGE:
            extents = [(PAGE + 1, size // 2)]
        keys = {"immutable": True} if self.random.random() < 0.5 else {}
        if extents:
            keys["allocated"] = sum(length for _, length in extents)
        image = self.fake.image(name, size, id=id, extents=extents, publish=False, **keys)
        self.versions[id] = self.current[name] = Version(image)
        if old:
            self.forget(old)
        self.fake.publish()

    def delete(self, name):
        old, self.current[name] = self.current.get(name), None
        self.deleted.add(name)
        if old:
            self.forget(old)

    def forget(self, version):
        gone = self.random.random() < 0.5
        if gone:
            version.errnos.add(errno.ESTALE)
        self.fake.remove(version.image, gone)

    def change(self):
        """Something happens to the store."""
        name = self.random.choice(sorted(self.current))
        choose = self.random.random()
        self.counts.add(changes=1)
        if not self.current[name] or choose < 0.7:
            self.replace(name)
        else:
            self.delete(name)

    def place(self, version):
        """A byte of the image where there is data."""
        start, length = self.random.choice(version.runs())
        return start + self.random.choice([0, length // 2, length - 1,
                                           self.random.randrange(length)])

    def survived_fault(self, version):
        """What no reader notices: never more failures in a row than there are tries."""
        choose, place = self.random.random(), self.place(version)
        if choose < 0.6:
            return "at=%d times=1 %s" % (place, self.random.choice(DEATHS))
        if choose < 0.75:
            return "at=%d times=2 delay=%d" % (place, self.random.randrange(300))
        if choose < 0.9:
            return "at=%d drip=%d/0" % (place, self.random.randrange(5000, 100000))
        if choose < 0.95 and not version.begins_badly:
            version.begins_badly = True
            return "at=begin times=1 exit=69"
        if not version.ends_badly:
            version.ends_badly = True
            return "at=end times=1 exit=74"
        return "at=%d times=1 exit=74" % place

    def final_fault(self, version):
        place = self.place(version)
        if self.hangs and self.random.random() < 0.4:
            version.errnos.add(errno.EIO)
            return "at=%d %s" % (place, self.random.choice(["hang", "hang=deaf", "close hang=deaf",
                                                            "grandchild=deaf hang=deaf"]))
        status, error = self.random.choice(sorted(STATUSES.items()))
        version.errnos.add(error)
        return "at=%d stderr=told%%20to exit=%d" % (place, status)

    def fault(self):
        """Something goes wrong with reading one image, from the next program on."""
        version = self.current[self.random.choice(sorted(self.current))]
        if not version or not version.size:
            return
        lines = [self.survived_fault(version) for _ in range(self.random.randrange(1, 4))]
        if self.fatal and self.random.random() < 0.3:
            lines.append(self.final_fault(version))
        if self.fatal and self.random.random() < 0.2:
            version.errnos.add(errno.EIO)
            self.fake.fault("extents." + version.image.id, "times=1 exit=74")
        self.counts.add(faults=len(lines))
        self.fake.fault(version.image, *lines)

    def heal(self):
        for version in self.versions.values():
            self.fake.fault(version.image)
            self.fake.fault("extents." + version.image.id)


class Handle:
    def __init__(self, fd, version):
        self.fd = fd
        self.version = version


class Reader(threading.Thread):
    """Reads in all ways until it has made so many steps, or is told to end."""

    def __init__(self, world, mount, seed, steps):
        super().__init__(daemon=True)
        self.world = world
        self.mount = mount
        self.random = random.Random(seed)
        self.steps = steps
        self.made = 0
        self.handles = []
        self.rests = threading.Event()
        self.ending = False
        self.begun = None  # when the step that it is at began
        self.kinds = [(self.read_somewhere, 30), (self.read_on, 25), (self.read_mapped, 8),
                      (self.read_at_once, 8), (self.seek, 10), (self.open, 12),
                      (self.close, 7)]

    def run(self):
        functions, weights = zip(*self.kinds)
        try:
            while self.made < self.steps and not self.ending:
                self.begun = time.monotonic()
                self.random.choices(functions, weights)[0]()
                self.made += 1
                self.begun = None
                if self.world.resting.is_set():
                    self.rest()
        except Exception as error:
            self.world.wrong("a reader ended: %r" % error)
            raise
        finally:
            self.begun = None
            self.close_all()
            self.rests.set()

    def rest(self):
        if self.random.random() < 0.5:
            self.close_all()
        self.rests.set()
        while self.world.resting.is_set() and not self.ending:
            time.sleep(0.02)
        self.rests.clear()

    def close_all(self):
        while self.handles:
            os.close(self.handles.pop().fd)

    def close(self):
        if self.handles:
            os.close(self.handles.pop(self.random.randrange(len(self.handles))).fd)

    def open(self):
        name = self.random.choice(sorted(self.world.current))
        flags = self.random.choice([0, 0, os.O_DIRECT])
        try:
            fd = os.open(self.mount / name, os.O_RDONLY | flags)
        except OSError as error:
            if error.errno == errno.EIO and time.monotonic() < self.world.list_died + RELISTED:
                return
            if error.errno != errno.ENOENT or name not in self.world.deleted:
                self.world.wrong("open of %s: %s" % (name, error))
            return
        try:
            id = os.getxattr(fd, "user.imagefs.id").decode()
            version = self.world.versions[id]
            if os.fstat(fd).st_size != version.size:
                self.world.wrong("%s has the size %d" % (id, os.fstat(fd).st_size))
        except BaseException:
            os.close(fd)
            raise
        self.world.counts.add(opens=1)
        self.handles.append(Handle(fd, version))
        if len(self.handles) > HANDLES:
            os.close(self.handles.pop(0).fd)

    def handle(self):
        if not self.handles:
            self.open()
        return self.random.choice(self.handles) if self.handles else None

    def length(self):
        return self.random.choice([1, 511, 512, PAGE, PAGE + 1, 65536, 128 << 10, MIB, MIB + 1,
                                   self.random.randrange(1, 3 * MIB)])

    def offset(self, version):
        size = version.size
        near = self.random.choice([0, MIB, 4 * MIB, size // 2, size, *(
            edge for start, length in version.runs() for edge in (start, start + length))])
        return min(max(self.random.choice([near, near + self.random.randrange(-9000, 9000),
                                           self.random.randrange(size + MIB)]), 0), size + MIB)

    def check(self, version, offset, length, read):
        """Compare what @read gives.  Returns whether there were bytes."""
        begun = time.monotonic()
        try:
            data = read()
        except OSError as error:
            self.world.counts.add(errors=1)
            if error.errno not in version.errnos:
                self.world.wrong("%s at %d: %s" % (version.image.id, offset, error))
            return False
        waited = time.monotonic() - begun
        if data != version.image.bytes(offset, length):
            self.world.wrong("%s: wrong bytes in %d at %d" % (version.image.id, length, offset))
        with self.world.counts.lock:
            self.world.counts.waits.append(waited)
        self.world.counts.add(reads=1, bytes=len(data))
        return bool(data)

    def read_at(self, handle, offset, length):
        """A read that fails in the middle gives what is before; the next one has to fail."""
        version = handle.version

        def read():
            data = b""
            whole = max(min(length, version.size - offset), 0)
            while True:
                piece = os.pread(handle.fd, length - len(data), offset + len(data))
                data += piece
                if len(data) >= whole or not piece or not version.errnos:
                    return data

        return self.check(version, offset, length, read)

    def read_somewhere(self):
        handle = self.handle()
        if handle:
            self.read_at(handle, self.offset(handle.version), self.length())

    def read_on(self):
        """Pieces one after the other, what makes a stream."""
        handle = self.handle()
        if not handle:
            return
        length, offset = self.length(), self.offset(handle.version)
        if self.random.random() < 0.4:
            offset = 0
        for _ in range(self.random.randrange(2, 40)):
            if not self.read_at(handle, offset, length):
                break
            offset += length

    def read_at_once(self):
        """Several threads on one handle."""
        handle = self.handle()
        if not handle:
            return
        places = [(self.offset(handle.version), self.length()) for _ in range(4)]
        threads = [threading.Thread(target=self.read_at, args=(handle, *place))
                   for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def read_mapped(self):
        """A page that cannot be had ends who touches it; write(2) says EFAULT instead."""
        handle = self.handle()
        if not handle:
            return
        version, offset = handle.version, self.offset(handle.version)
        offset -= offset % mmap.ALLOCATIONGRANULARITY
        length = min(self.length(), version.size - offset)
        if length <= 0:
            return

        def read():
            out = os.memfd_create("mapped")
            memory = mmap.mmap(handle.fd, length, mmap.MAP_PRIVATE, mmap.PROT_READ,
                               offset=offset)
            try:
                with memoryview(memory) as view:
                    done = 0
                    while done < length:
                        with view[done:] as rest:
                            done += os.write(out, rest)
                return os.pread(out, length, 0)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                # Which one it was is not told; that it may fail is what counts.
                known = version.errnos or {errno.EFAULT}
                raise OSError(sorted(known)[0], "mapped") from error
            finally:
                memory.close()
                os.close(out)

        self.check(version, offset, length, read)

    def seek(self):
        handle = self.handle()
        if not handle:
            return
        version, offset = handle.version, self.offset(handle.version)
        for whence, expected in ((os.SEEK_DATA, version.data_from), (os.SEEK_HOLE, version.hole_from)):
            right = None if offset >= version.size else expected(offset)
            try:
                found = os.lseek(handle.fd, offset, whence)
            except OSError as error:
                found = None
                if error.errno != errno.ENXIO:
                    self.world.counts.add(errors=1)
                    if error.errno not in version.errnos:
                        self.world.wrong("%s: lseek: %s" % (version.image.id, error))
                    continue
            if found != right:
                self.world.wrong("%s: lseek %d of %d gives %s, not %s"
                                 % (version.image.id, whence, offset, found, right))
        self.world.counts.add(seeks=2)


def rest(world, readers, mount):
    """All stop reading until the daemon has given back what they used."""
    world.resting.set()
    for reader in readers:
        wait_until(lambda: reader.rests.is_set() or not reader.is_alive(), "a reader rests", 120)
    wait_until(lambda: not mount.store_processes(), "readers that are idle are given back")
    world.counts.add(rests=1)
    world.resting.clear()
    for reader in readers:
        wait_until(lambda: not reader.rests.is_set() or not reader.is_alive(), "it goes on")


def read_whole(world, mount, name, version):
    """What is listed can be read again; of what is large only where it has data."""
    try:
        file = open(mount / name, "rb", buffering=0)
    except FileNotFoundError:
        if name in world.deleted:
            return False  # the listing is not that old
        raise
    with file:
        if os.getxattr(file.fileno(), "user.imagefs.id").decode() != version.image.id:
            return False
        for start, length in version.runs():
            for offset in range(start, start + length, MIB):
                count = min(MIB, start + length - offset)
                data = os.pread(file.fileno(), count, offset)
                if data != version.image.bytes(offset, count):
                    world.wrong("%s: wrong bytes at %d, in the end" % (version.image.id, offset))
    return True


def check_recovery(world, mount):
    """Without faults all that is listed can be read, on the same mount."""
    world.heal()
    for name, version in world.current.items():
        if version:
            wait_until(lambda: read_whole(world, mount, name, version), "the new version is there")
