# SPDX-License-Identifier: MIT
"""Mounting imagefs for a test, and making sure that nothing of it is left afterwards."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("IMAGEFS_BUILD", SOURCE / "build")).resolve()
IMAGEFS = BUILD / "imagefs"
STORE_PATH = "%s:%s" % (BUILD, BUILD / "tests" / "mount")
LIMIT = 60  # seconds after which something is taken to hang; nothing depends on less


def sanitizer():
    """Which sanitizer the daemon was built with: "address", "thread" or ""."""
    program = IMAGEFS.read_bytes() if IMAGEFS.exists() else b""
    for name in ("address", "thread"):
        if b"__%csan_init" % name[0].encode() in program:
            return name
    return ""


SANITIZER = sanitizer()


def wait_until(condition, what, limit=LIMIT):
    """Wait until @condition() is true; its value.  @what says it in words."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("not so after %d s: %s" % (limit, what))
        time.sleep(0.01)


def run(*args, limit=LIMIT, check=True, **keys):
    """Run a program to its end, its output as text; a status other than 0 is an error."""
    keys.setdefault("stdin", subprocess.DEVNULL)
    keys.setdefault("text", True)
    args = [os.fspath(a) if isinstance(a, os.PathLike) else a for a in args]
    done = subprocess.run(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit, **keys
    )
    if check and done.returncode:
        raise AssertionError(
            "%s: status %d\n%s%s" % (args, done.returncode, done.stdout, done.stderr)
        )
    return done


def adopt_orphans():
    """Become the parent of every process below this one whose parent ends, so that what a
    daemon leaves behind can be found, and its status be had."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def process_table():
    """{pid: (parent, state)} of all processes."""
    table = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_bytes()
        except OSError:
            continue
        fields = stat[stat.rindex(b")") + 2 :].split()
        table[int(entry)] = (int(fields[1]), fields[0].decode())
    return table


def descendants(pid):
    table = process_table()
    found, more = {}, [pid]
    while more:
        parent = more.pop()
        for child, (its_parent, state) in table.items():
            if its_parent == parent and child not in found:
                found[child] = state
                more.append(child)
    return found


def command_of(pid):
    try:
        text = Path("/proc/%d/cmdline" % pid).read_bytes()
        return text.replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def mounts_below(folder, table=None):
    """[(path, device number, type, source, options)] of the mounts in @folder, by this
    process's /proc/self/mountinfo or the text of another's."""
    found = []
    table = table or Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    for line in table.splitlines():
        left, right = line.split(" - ", 1)
        fields, rest = left.split(" "), right.split(" ")
        path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4])
        if path == str(folder) or path.startswith(str(folder) + "/"):
            options = fields[5].split(",") + rest[2].split(",")
            found.append((path, fields[2], rest[0], rest[1], options))
    return found


def stacks_of(pid):
    """What the threads of a process are doing, as far as it can be had."""
    text = []
    for task in sorted(Path("/proc/%d/task" % pid).glob("*")):
        for name in ("wchan", "stack"):
            try:
                text.append("%s/%s: %s" % (task.name, name, (task / name).read_text()))
            except OSError:
                pass
    if shutil.which("gdb"):
        gdb = subprocess.run(
            ["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )
        text.append(gdb.stdout)
    return "\n".join(text)


class Mount:
    """A running imagefs.  Made by the fixture "mounted"; `mount / name` is a path in it."""

    live = []  # those that the watchdog ends when a test hangs

    def __init__(self, folder, store, options, background=False, noisy=False, wrapper=(),
                 arguments=(), store_path=STORE_PATH, env=None):
        self.folder = folder
        self.path = folder / ("mnt%d" % len(list(folder.glob("mnt*"))))
        self.path.mkdir()
        self.log_path = folder / (self.path.name + ".log")
        self.background = background
        self.expected = []
        if noisy:
            self.expect(r"imagefs: ")
        options = (["store_path=" + store_path] if store_path else []) + list(options)
        self.command = [*wrapper, str(IMAGEFS), *([] if background else ["-f"]),
                        *(["-o", ",".join(options)] if options else []), *arguments,
                        "--", str(store), str(self.path)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd="/", env=env or os.environ, start_new_session=True,
            )
        self.pid = self.process.pid
        self.status = None
        self.right_status = 0
        Mount.live.append(self)

    def expect(self, *patterns):
        """Lines of the log that begin as one of the patterns says are no mistake."""
        self.expected += patterns

    def wait_ready(self):
        if self.background:
            status = self.process.wait(LIMIT)
            assert status == 0, "status %d: %s" % (status, self.log())
            assert self.is_mounted(), "imagefs said that it is ready, and it is not"
            self.pid = self.find_daemon()
        else:
            wait_until(lambda: self.is_mounted() or self.poll() is not None, "mounted")
            assert self.is_mounted(), "imagefs ended: %s" % self.log()
        os.stat(self.path)
        return self

    def find_daemon(self):
        """The process of this mount that has /dev/fuse open and the most threads."""
        found = []
        for pid in descendants(os.getpid()):
            if str(self.path) not in command_of(pid):
                continue
            try:
                fds = {os.readlink(fd) for fd in Path("/proc/%d/fd" % pid).iterdir()}
                threads = len(os.listdir("/proc/%d/task" % pid))
            except OSError:
                continue
            if "/dev/fuse" in fds:
                found.append((threads, pid))
        assert found, "no daemon of %s" % self.path
        return max(found)[1]

    def __truediv__(self, name):
        return Path(os.path.join(os.fsencode(self.path), os.fsencode(name)).decode(
            errors="surrogateescape"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.end()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_log(self, pattern):
        return wait_until(lambda: re.search(pattern, self.log()), "log says " + pattern)

    def is_mounted(self):
        return bool(mounts_below(self.path))

    def children(self):
        """{pid: state} of the daemon's processes."""
        return descendants(self.pid)

    def store_processes(self):
        """Running store programs of this daemon."""
        return [pid for pid, state in self.children().items()
                if state != "Z" and "imagefs-store-" in command_of(pid).split(" ")[0]]

    def figure(self, name):
        """What all images together have of the counter imagefs_image_@name."""
        text = (self / ".imagefs/stats").read_text()
        return sum(int(value) for value in
                   re.findall(r"(?m)^imagefs_image_%s\{.*\} (\d+)$" % name, text))

    def peak_memory(self):
        """The most memory that the daemon ever had, in bytes."""
        text = Path("/proc/%d/status" % self.pid).read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def threads(self):
        return len(os.listdir("/proc/%d/task" % self.pid))

    def poll(self):
        """The daemon's exit status, or None while it runs."""
        if self.status is None and not self.background:
            self.status = self.process.poll()
        elif self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.status = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                self.status = 0
        return self.status

    def signal(self, number):
        os.kill(self.pid, number)

    def wait_end(self, status=0):
        """Wait for the daemon to end by itself, and see that it did so properly."""
        try:
            wait_until(lambda: self.poll() is not None, "the daemon ended")
        except AssertionError:
            print("--- the daemon does not end\n%s" % stacks_of(self.pid))
            raise
        assert self.status == status, "the daemon's exit status is %s" % self.status
        self.right_status = status
        wait_until(lambda: not self.is_mounted(), "the mount is gone")

    def unmount(self, *how):
        run("umount", *how, self.path)

    def end(self):
        """Unmount and see that the daemon ends well, or has ended as the test said that it
        would; does nothing the second time."""
        if self not in Mount.live:
            return
        try:
            if self.poll() is None and self.is_mounted():
                self.unmount()
            if self.poll() is None or not self.background:
                self.wait_end(self.right_status)
        finally:
            self.abort()
        self.check_log()

    def check_log(self):
        for line in self.log().splitlines():
            assert any(re.match(p, line) for p in self.expected), "imagefs said: " + line

    def abort(self):
        """End it in any way."""
        if self in Mount.live:
            Mount.live.remove(self)
        print("--- %s\n%s--- status %s" % (" ".join(self.command), self.log(), self.poll()))
        if self.poll() is None:
            self.signal(signal.SIGKILL)
            wait_until(lambda: self.poll() is not None, "the daemon is killed")
        if mounts_below(self.path):
            subprocess.run(["umount", "-l", self.path], timeout=LIMIT)

    def disconnect(self):
        """Answer whoever waits in the kernel, from the watchdog's thread."""
        print("--- %s\n%s" % (self.path, stacks_of(self.pid)))
        for mount in mounts_below(self.path):
            minor = mount[1].split(":")[1]
            try:
                Path("/sys/fs/fuse/connections", minor, "abort").write_text("1")
            except OSError:
                pass
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass


class Leftovers:
    """What a test leaves behind: its processes and its mounts."""

    def __init__(self, folder):
        self.folder = folder
        self.before = set(descendants(os.getpid()))

    def processes(self):
        found = {}
        for pid, state in descendants(os.getpid()).items():
            if pid in self.before:
                continue
            if state == "Z":
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
                continue
            found[pid] = command_of(pid)
        for pid in process_table():
            if pid != os.getpid() and str(self.folder) in command_of(pid):
                found[pid] = command_of(pid)
        return found

    def check(self):
        """Fail if there are any, and remove them."""
        problems = []
        try:
            wait_until(lambda: not self.processes(), "no process is left", 30)
        except AssertionError:
            for pid, command in self.processes().items():
                problems.append("process %d is left: %s" % (pid, command))
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for mount in mounts_below(self.folder):
            problems.append("mount is left: %s" % mount[0])
            subprocess.run(["umount", "-l", mount[0]], timeout=LIMIT)
        assert not problems, "\n".join(problems)
