# SPDX-License-Identifier: MIT
"""A real Ceph cluster on this machine, for tests and benchmarks.

    with Cluster() as cluster:
        cluster.rbd("create", "--size", "1G", "pool/alpha")
        cluster.freeze("osd")
        cluster.thaw("osd")

One monitor and one OSD on loopback, in a folder of their own; nothing is shared with
another cluster, and nothing is left when it ends.  There is one pool, "pool".  With cephx
there is a user client.ro, who may only read it.

The store of an OSD is "memstore", which is up in a second, takes two bytes of memory for
each byte and forgets all when it ends; or "bluestore", which takes eight seconds and
does not.

As a program it runs a command beside a cluster, and ends with its exit status:

    ceph_cluster.py [--store STORE] [--auth AUTH] COMMAND [ARGUMENT ...]

The command, and all of Ceph's that it runs, find the cluster by CEPH_CONF.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

HOST = "127.0.0.1"
LIMIT = 60  # seconds that any one step may take
TRIES = 10
OSD_PORTS = 40
PROGRAMS = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "ceph": "ceph-common",
    "rbd": "ceph-common",
    "ceph-authtool": "ceph-common",
    "monmaptool": "ceph-base",
}

CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind port min = {osd_first}
ms bind port max = {osd_last}
auth cluster required = {auth}
auth service required = {auth}
auth client required = {auth}
keyring = {folder}/keyring
run dir = {folder}/run
crash dir = {folder}/run
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
# An OSD that was frozen for longer may take itself to be unreadable for good.
osd heartbeat grace = 3600
# These two make what changes in the cluster known at once.
paxos propose interval = 0.05
paxos min wait = 0.01
[mon]
admin socket = {folder}/run/mon.asok
log file = {folder}/run/mon.log
mon data = {folder}/mon
mon cluster log file = {folder}/run/cluster.log
# The disk may be fuller than a monitor likes.
mon data avail warn = 1
mon data avail crit = 0
mon allow pool delete = true
auth allow insecure global id reclaim = false
[osd]
admin socket = {folder}/run/osd.asok
log file = {folder}/run/osd.log
osd data = {folder}/osd
osd objectstore = {store}
memstore device bytes = 8G
bluestore block size = 8G
osd memory target = 1G
"""

KEYS = (
    ("mon.", ("mon", "allow *")),
    ("client.admin", ("mon", "allow *"), ("osd", "allow *"), ("mgr", "allow *")),
    ("osd.0", ("mon", "allow profile osd"), ("osd", "allow *")),
    ("client.ro", ("mon", "profile rbd"), ("osd", "profile rbd-read-only")),
    ("client.none", ("mon", "profile rbd")),
)


def missing():
    """What keeps a cluster from running here, or None."""
    for program, package in PROGRAMS.items():
        if not find(program):
            return f"no {program} on PATH (Debian package {package})"
    return None


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_ports(count):
    """The first of so many ports in a row that nobody listens on, below those that the
    kernel hands to clients."""
    while True:
        first = random.randrange(10000, 32000 - count)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind((HOST, port))
        except OSError:
            continue
        return first


class Cluster:
    def __init__(self, store="memstore", auth="cephx", folder=None):
        self.folder = Path(tempfile.mkdtemp(prefix="ceph.", dir=folder))
        self.store = store
        self.auth = auth
        self.fsid = str(uuid.uuid4())
        self.daemons = {"mon": None, "osd": None}
        self.conf = self.folder / "ceph.conf"
        self.keyring = self.folder / "keyring"
        self.environment = {**os.environ, "CEPH_CONF": str(self.conf)}
        self.environment.pop("CEPH_ARGS", None)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        (self.folder / "run").mkdir()
        (self.folder / "osd").mkdir()
        for _ in range(TRIES):
            self._write_conf()
            if self._start_mon():
                break
            shutil.rmtree(self.folder / "mon")
        else:
            raise RuntimeError(f"the monitor does not start:\n{self.log('mon')}")
        osd = str(uuid.uuid4())
        self.run("ceph", "--connect-timeout", LIMIT, "osd", "new", osd)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.start_daemon("osd")
        self.make_pool("pool")

    def stop(self):
        for name in self.daemons:
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- programs ----

    def run(self, program, *arguments, check=True, env=None, **options):
        """Run a program and return what it did (subprocess.CompletedProcess, bytes)."""
        options.setdefault("timeout", LIMIT)
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        run = subprocess.run(
            [find(program) or program, *map(os.fspath, map(as_text, arguments))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **(env or {})},
            check=False,
            **options,
        )
        if check and run.returncode != 0:
            raise RuntimeError(f"{run.args} exited {run.returncode}: {run.stderr!r}")
        return run

    def ceph(self, *arguments, **options):
        return self.run("ceph", *arguments, **options).stdout.decode()

    def rbd(self, *arguments, **options):
        return self.run("rbd", *arguments, **options).stdout.decode()

    def make_pool(self, name):
        self.run("ceph", "osd", "pool", "create", name, "8")
        # Waits until the OSD is up and serves it.
        self.run("rbd", "pool", "init", name)

    # ---- faults ----

    def kill(self, name):
        """End the monitor ("mon") or the OSD ("osd") at once."""
        daemon, self.daemons[name] = self.daemons[name], None
        if daemon:
            daemon.kill()
            daemon.wait(LIMIT)

    def restart(self, name):
        """Start one that was killed again, with what it has stored."""
        if name == "osd" and self.daemons["mon"]:
            # Nobody else is there to tell the monitor, which would find out by and by.
            self.run("ceph", "osd", "down", "0")
        self.start_daemon(name)

    def freeze(self, name):
        """Stop one from answering, its connections staying open."""
        self.daemons[name].send_signal(signal.SIGSTOP)

    def thaw(self, name):
        self.daemons[name].send_signal(signal.SIGCONT)

    def start_daemon(self, name):
        number = {"mon": "a", "osd": "0"}[name]
        with open(self.folder / "run" / f"{name}.out", "ab") as output:
            self.daemons[name] = subprocess.Popen(
                [find(f"ceph-{name}"), "-f", "-i", number],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )

    def log(self, name):
        """What one wrote: for the message of a test that failed."""
        path = self.folder / "run" / f"{name}.out"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    # ---- starting ----

    def _write_conf(self):
        first = free_ports(2 + OSD_PORTS)
        text = CONF.format(
            fsid=self.fsid,
            mon_v1=first,
            mon_v2=first + 1,
            osd_first=first + 2,
            osd_last=first + 1 + OSD_PORTS,
            auth=self.auth,
            store=self.store,
            folder=self.folder,
        )
        self.conf.write_text(text)
        self.address = f"[v2:{HOST}:{first + 1},v1:{HOST}:{first}]"
        if self.auth == "cephx" and not self.keyring.exists():
            self._write_keyring()

    def _write_keyring(self):
        for index, (name, *caps) in enumerate(KEYS):
            create = ["--create-keyring"] if index == 0 else []
            arguments = [part for cap in caps for part in ("--cap", *cap)]
            self.run("ceph-authtool", *create, self.keyring, "--gen-key", "-n", name, *arguments)

    def _start_mon(self):
        """Start the monitor.  Returns whether it answers; it ends when its port is taken."""
        (self.folder / "mon").mkdir()
        monmap = self.folder / "monmap"
        keys = ["--keyring", self.keyring] if self.auth == "cephx" else []
        self.run("monmaptool", "--create", "--clobber", "--fsid", self.fsid, "--addv", "a",
                 self.address, monmap)
        self.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, *keys)
        self.start_daemon("mon")
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if self.daemons["mon"].poll() is not None:
                break
            done = self.run("ceph", "--connect-timeout", "5", "mon", "stat", check=False)
            if done.returncode == 0:
                return True
        self.kill("mon")
        return False


def as_text(argument):
    return str(argument) if isinstance(argument, int) else argument


def main():
    parser = argparse.ArgumentParser(description="Run a command beside a Ceph cluster.")
    parser.add_argument("--store", choices=("memstore", "bluestore"), default="memstore")
    parser.add_argument("--auth", choices=("none", "cephx"), default="cephx")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("which command?")
    if missing():
        parser.error(missing())
    with Cluster(options.store, options.auth) as cluster:
        return subprocess.run(options.command, env=cluster.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
