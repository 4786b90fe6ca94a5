# SPDX-License-Identifier: MIT
"""The daemon under a service manager: readiness, the watchdog, the journal, signals."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from harness import BUILD, IMAGEFS, LIMIT, SOURCE, STORE_PATH, mounts_below, run, wait_until

# Optional when it is built.
pytestmark = pytest.mark.skipif(b"sd_notify" not in IMAGEFS.read_bytes(),
                                reason="built without libsystemd")
UNIT = BUILD / "imagefs@.service"


class Manager:
    """The socket of a service manager (sd_notify(3))."""

    def __init__(self, folder):
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(LIMIT)

    def environment(self, **more):
        return {**os.environ, "NOTIFY_SOCKET": str(self.path), **more}

    def message(self):
        """The next message: a list of lines."""
        return self.socket.recv(4096).decode().split("\n")

    def wait_for(self, line):
        while True:
            message = self.message()
            if line in message:
                return message


@pytest.fixture
def manager(folder):
    made = Manager(folder)
    yield made
    made.socket.close()


def test_it_says_that_it_is_ready_when_the_mount_is_there(fake, mounted, manager, folder):
    fake.fault("list", "until=go")
    (folder / "mnt").mkdir()
    daemon = subprocess.Popen([IMAGEFS, "-f", "-o", "store_path=" + STORE_PATH, fake.uri,
                               folder / "mnt"], env=manager.environment())
    try:
        wait_until(lambda: fake.calls("list"), "the store is asked")
        manager.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.message()
        manager.socket.settimeout(LIMIT)
        fake.mark("go")
        message = manager.message()
        assert message == ["READY=1", "STATUS=%s is mounted on %s" % (fake.uri, folder / "mnt")]
        assert mounts_below(folder)
        daemon.send_signal(signal.SIGTERM)
        assert manager.message() == ["STOPPING=1"]
        assert daemon.wait(LIMIT) == 0
    finally:
        daemon.kill()
        daemon.wait()


def test_a_mount_that_fails_is_never_ready(fake, manager, images):
    fake.fault("list", "stderr=away exit=69")
    run(IMAGEFS, "-f", "-o", "store_path=" + STORE_PATH, fake.uri, images, check=False,
        env=manager.environment())
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.message()


def test_the_watchdog_is_answered_though_the_store_hangs(fake, mounted, manager):
    image = fake.image("a", 1 << 20)
    fake.fault(image, "say=hangs hang")
    mount = mounted(fake.uri, "stall=600", noisy=True,
                    env=manager.environment(WATCHDOG_USEC="20000"))
    reader = subprocess.Popen(["cat", mount / "a"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: fake.marked("hangs"), "the store hangs")
        for _ in range(5):
            manager.wait_for("WATCHDOG=1")
    finally:
        reader.kill()
        reader.wait(LIMIT)


def test_nobody_is_told_where_there_is_no_manager(fake, mounted):
    mount = mounted(fake.uri, env={k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"})
    mount.signal(signal.SIGTERM)
    mount.wait_end()


def test_a_reload_lists_the_store_anew(fake, mounted, manager):
    fake.image("a", 10)
    mount = mounted(fake.uri, "ttl=3600", env=manager.environment())
    assert manager.message()[0] == "READY=1"
    fake.image("b", 10)
    assert os.listdir(mount.path) == ["a"]
    before = time.monotonic_ns()
    mount.signal(signal.SIGHUP)
    begun = manager.message()
    assert begun[0] == "RELOADING=1"
    assert re.fullmatch("MONOTONIC_USEC=[0-9]+", begun[1])
    assert before // 1000 <= int(begun[1].split("=")[1]) <= time.monotonic_ns() // 1000
    assert manager.message() == ["READY=1", "STATUS=%s is mounted on %s" % (fake.uri, mount.path)]
    assert sorted(os.listdir(mount.path)) == ["a", "b"]
    assert len(fake.calls("list")) == 2


def test_a_reload_that_fails_leaves_the_mount_as_it_is(fake, mounted, manager):
    fake.image("a", 10)
    mount = mounted(fake.uri, "ttl=3600", env=manager.environment(), noisy=True)
    assert manager.message()[0] == "READY=1"
    fake.fault("list", "stderr=away exit=69")
    mount.signal(signal.SIGHUP)
    assert manager.message()[0] == "RELOADING=1"
    message = manager.message()
    assert message[0] == "READY=1" and message[1].endswith("; it cannot be listed")
    assert (mount / "a").stat().st_size == 10
    assert "away" in mount.log()


def test_a_reload_of_a_store_that_hangs_ends(fake, mounted, manager):
    """And those that are asked for meanwhile are one more."""
    fake.image("a", 10)
    mount = mounted(fake.uri, "ttl=3600", env=manager.environment())
    assert manager.message()[0] == "READY=1"
    fake.fault("list", "until=go")
    for _ in range(5):
        mount.signal(signal.SIGHUP)
    assert manager.message()[0] == "RELOADING=1"
    message = manager.message()
    assert message[0] == "READY=1"
    assert message[1].endswith("; it has not been listed anew yet")
    fake.mark("go")
    mount.signal(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    mount.wait_end()


def test_a_terminal_that_closes_ends_the_daemon(fake, mounted):
    mount = mounted(fake.uri, env={k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"})
    mount.signal(signal.SIGHUP)
    mount.wait_end()


def test_the_level_of_the_log_is_changed_by_signals(fake, mounted):
    mount = mounted(fake.uri, noisy=True)
    for number, level in [(signal.SIGUSR1, "debug"), (signal.SIGUSR2, "info"),
                          (signal.SIGUSR2, "warning"), (signal.SIGUSR1, "info"),
                          (signal.SIGUSR1, "debug")]:
        mount.signal(number)
        wait_until(lambda: mount.log().endswith("imagefs: the log's level is %s now\n" % level),
                   "the level is " + level)
    mount.signal(signal.SIGTERM)
    mount.wait_end()
    assert "ended by signal 15" in mount.log()


# ---- the journal: a real one, in a name space of mounts of its own ----

WITH_JOURNAL = """
set -eu
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald 2>/dev/null </dev/null >/dev/null &
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
status=0
sh -euc "$1" - || status=$?
journalctl --sync 2>/dev/null || sleep 1
journalctl -D /run/log/journal -o json -t imagefs --no-pager
kill %1
wait
exit $status
"""


# What a service manager says of the standard error that it gives.
AS_A_SERVICE = 'export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec "$0" "$@"'


def journal_of(script):
    """What imagefs logs in a shell script, as the journal has it."""
    done = run("unshare", "-m", "--propagation", "private", "bash", "-c", WITH_JOURNAL, "-",
               script, env={**os.environ, "IMAGEFS": str(IMAGEFS), "STORE_PATH": STORE_PATH})
    return [json.loads(line) for line in done.stdout.splitlines()]


needs_journal = pytest.mark.skipif(not os.path.exists("/lib/systemd/systemd-journald"),
                                   reason="no systemd-journald here")


@needs_journal
@pytest.mark.parametrize("foreground", [True, False])
def test_the_journal_gets_fields(fake, folder, foreground):
    fake.fault(fake.image("a b", 5000), "stderr=it%20burns exit=77")
    mnt = folder / "mnt"
    mnt.mkdir()
    how = "systemd-cat sh -c '%s' $IMAGEFS -f" % AS_A_SERVICE if foreground else "$IMAGEFS"
    lines = journal_of("""
        exec >/dev/null
        %s -o store_path=$STORE_PATH %s %s %s
        until mountpoint -q %s; do sleep 0.05; done
        cat "%s/a b" 2>/dev/null || true
        umount %s
        wait
        """ % (how, fake.uri, mnt, "&" if foreground else "", mnt, mnt, mnt))
    lines = [line for line in lines if "burns" in line["MESSAGE"]]
    line = lines[0]
    assert line["MESSAGE"] == "a b: the store program ended with status 77 at byte 0: it burns"
    assert line["PRIORITY"] == "4"
    assert line["SYSLOG_IDENTIFIER"] == "imagefs"
    assert line["STORE"] == fake.uri
    assert line["IMAGE"] == "a b"
    assert line["_TRANSPORT"] == "journal"


@needs_journal
def test_standard_error_that_is_not_the_journal_is_written_to(fake, folder):
    """JOURNAL_STREAM is inherited by whatever a service starts."""
    fake.fault("list", "stderr=away exit=69")
    lines = journal_of("""
        exec >/dev/null
        systemd-cat sh -c '%s' sh -c '
            $IMAGEFS -f -o store_path=$STORE_PATH %s %s 2>%s/said || true'
        """ % (AS_A_SERVICE, fake.uri, folder, folder))
    assert lines == []
    assert "away" in (folder / "said").read_text()


SYSLOG = """
import socket, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
print("ready", flush=True)
while True:
    line = log.recv(65536)
    print(line.decode(), flush=True)
"""


def test_syslog_is_told_which_store_where_there_is_no_journal(fake, folder):
    fake.fault(fake.image("a", 5000), "stderr=it%20burns exit=77")
    (folder / "mnt").mkdir()
    script = """
        mount -t tmpfs none /run
        mount -t tmpfs none /dev
        mknod /dev/fuse c 10 229; mknod /dev/null c 1 3; chmod 666 /dev/null
        %s -c "$1" >%s/syslog &
        until [ -s %s/syslog ]; do sleep 0.05; done
        %s -o store_path=%s %s %s/mnt
        cat %s/mnt/a 2>/dev/null || true
        umount %s/mnt
        until grep -q burns %s/syslog; do sleep 0.05; done
        kill %%1
        """ % ("/usr/bin/python3 -IS", folder, folder, IMAGEFS, STORE_PATH, fake.uri, folder,
               folder, folder, folder)
    run("unshare", "-m", "--propagation", "private", "bash", "-ec", script, "-", SYSLOG)
    assert re.search(r"<28>.* imagefs\[\d+\]: a: the store program ended with status 77 at byte 0: "
                     r"it burns \(%s\)" % re.escape(fake.uri), (folder / "syslog").read_text())


# ---- the unit ----

def offline(folder):
    """The unit as it would be installed, its program being the one that was built."""
    unit = folder / "imagefs@images.service"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=%s" % IMAGEFS, UNIT.read_text()))
    return unit


needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


@needs_analyze
def test_the_unit_has_nothing_wrong(folder):
    done = run("systemd-analyze", "verify", "--man=no", offline(folder), check=False)
    assert [line for line in done.stderr.splitlines() if "imagefs" in line] == []


@needs_analyze
def test_the_unit_is_shut_in_as_far_as_a_mount_can_be(folder):
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=50",
               offline(folder))
    assert re.search(r"Overall exposure level for \S+: [0-4]\.\d", done.stdout)


def test_the_unit_has_nothing_that_hides_its_mounts():
    """They imply a name space of mounts, systemd.exec(5)."""
    hiding = re.compile(r"(?m)^(Protect(System|Home|KernelTunables|KernelModules|KernelLogs|"
                        r"ControlGroups|Proc)|Private(Tmp|Devices|Mounts|Users)|ProcSubset|"
                        r"(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec)Paths|Bind\w*|"
                        r"Temporary\w*|Root\w*|MountAPIVFS|MountImages|DynamicUser)=")
    assert not hiding.search(UNIT.read_text())
