# SPDX-License-Identifier: MIT
"""A real sheepdog cluster on this machine, for tests and benchmarks.

    with Cluster(nodes=3, copies=2) as cluster:
        cluster.dog("vdi", "create", "alpha", "1G")
        cluster.kill(1)
        cluster.restart(1)
        cluster.add()

Sheep of the `local` driver, each with a folder, a zone and a port of loopback of its own;
nothing is shared with another cluster, and nothing is left when it ends.

As a program it runs a command beside a cluster, and ends with its exit status:

    sheepdog_cluster.py [--nodes N] [--copies COPIES] COMMAND [ARGUMENT ...]

The command finds the first node in SHEEPDOG_DOG_ADDR and SHEEPDOG_DOG_PORT, as dog does,
all of them in SHEEPDOG_NODES (HOST:PORT,HOST:PORT).
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
from pathlib import Path

HOST = "127.0.0.1"
LIMIT = 60  # seconds that any one step may take
TRIES = 20

# What became of clusters of which nodes were killed: sheep that ended by a signal of their
# own, for sheep that have to recover much at a time now and then fail an assertion.
crashes = []


def missing():
    """What keeps a cluster from running here, or None."""
    for program in ("sheep", "dog"):
        if not find(program):
            return f"no {program} on PATH"
    return None


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin")


def free_port(host=HOST):
    """A port that nobody listens on, below those that the kernel hands to clients."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


class Cluster:
    """@copies is what `dog cluster format -c` takes: "2", or "2:1" for erasure code.
    Without @formatted the cluster is left as it starts, waiting for that.  @host is an
    address of this machine, loopback or not; @sheep_arguments(node) says what else a sheep
    is started with."""

    def __init__(self, nodes=3, copies=2, folder=None, format_arguments=(), formatted=True,
                 host=HOST, sheep_arguments=lambda node: ()):
        self.host = host
        parent = folder or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.folder = Path(tempfile.mkdtemp(prefix="sheepdog.", dir=parent))
        self.count = nodes
        self.copies = str(copies)
        self.format_arguments = list(format_arguments)
        self.formatted = formatted
        self.sheep_arguments = sheep_arguments
        self.ports = [None] * nodes
        self.sheep = [None] * nodes
        self.killed = False

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
        for node in range(self.count):
            self._start_new(node)
        self._wait_for(lambda: self._nodes() == self.count, "all nodes have joined")
        if not self.formatted:
            return
        self.dog("cluster", "format", "-c", self.copies, *self.format_arguments)
        self.wait_running()

    def note_crashes(self):
        for node, sheep in enumerate(self.sheep):
            if self.killed and sheep is not None and (sheep.poll() or 0) < 0:
                crashes.append("sheep %d: signal %d: %s" % (
                    node, -sheep.returncode, self._last_words(node)))

    def _last_words(self, node):
        lines = [line for line in self.log(node).splitlines() if "PANIC" in line or "EMERG" in line]
        return lines[0] if lines else "no word"

    def stop(self):
        self.note_crashes()
        for node in range(self.count):
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, node, sign=signal.SIGKILL):
        """End one node at once.  The others notice by themselves."""
        sheep, self.sheep[node] = self.sheep[node], None
        if sheep is None:
            return
        self.killed = True
        sheep.send_signal(sign)
        # The local driver takes a process that nobody has waited for to be alive.
        sheep.wait(LIMIT)

    def pause(self, node):
        """Stop one node from answering, its connections staying open."""
        self.sheep[node].send_signal(signal.SIGSTOP)

    def resume(self, node):
        self.sheep[node].send_signal(signal.SIGCONT)

    def add(self):
        """Have one more node join; its number."""
        self.ports.append(None)
        self.sheep.append(None)
        self.count += 1
        self._start_new(self.count - 1)
        self.wait_running()
        return self.count - 1

    def restart(self, node):
        """Start a node that was killed again, with its port and what it has stored."""
        # Sheep that start at the same time can fall over one another's locks in /tmp.
        if not any(self._start(node) for _ in range(TRIES)):
            raise RuntimeError(f"sheep {node} does not start:\n{self.log(node)}")
        self.wait_running()

    def wait_running(self):
        """Wait until the cluster serves requests and every live node belongs to it."""
        alive = sum(sheep is not None for sheep in self.sheep)
        self._wait_for(lambda: self._nodes() == alive, f"{alive} nodes have joined")
        self._wait_for(lambda: "running" in self._status(), "the cluster runs")

    def keep_strips(self):
        """Leave the strips of an erasure code where they are when nodes come and go.  While
        sheep 1.0 makes them anew it ends now and then (crashes), or gives wrong bytes, which
        `dog vdi read` shows as well."""
        self.dog("cluster", "recover", "disable", input=b"yes\n")

    def wait_recovered(self):
        """Wait until no node copies objects any more."""
        self._wait_for(
            lambda: "%" not in self.dog("node", "recovery", check=False).stdout.decode(),
            "the recovery is over",
        )

    def uri(self, scheme="dog", node=0):
        return f"{scheme}://{self.address(node)}/"

    def address(self, node=0):
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.ports[node]}"

    def environment(self, node=0):
        """Variables that lead dog to @node, and whoever asks to all of them."""
        return {
            "SHEEPDOG_DOG_ADDR": self.host,
            "SHEEPDOG_DOG_PORT": str(self.ports[node]),
            "SHEEPDOG_NODES": ",".join(self.address(each) for each in range(self.count)),
        }

    def dog_command(self, command, subcommand, *arguments, node=0):
        """The argument list of a dog that talks to @node."""
        port = str(self.ports[node])
        return [find("dog"), command, subcommand, "-a", self.host, "-p", port,
                *map(str, arguments)]

    def dog(self, command, subcommand, *arguments, node=0, check=True, **options):
        """Run dog and return what it did (subprocess.CompletedProcess, bytes)."""
        options.setdefault("timeout", LIMIT)
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        run = subprocess.run(
            self.dog_command(command, subcommand, *arguments, node=node),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            **options,
        )
        if check and run.returncode != 0:
            raise RuntimeError(f"{run.args} exited {run.returncode}: {run.stderr!r}")
        return run

    def log(self, node):
        """What a sheep wrote: for the message of a test that failed."""
        path = self.folder / f"node{node}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _start_new(self, node):
        for _ in range(TRIES):
            self.ports[node] = free_port(self.host)
            if self._start(node):
                return
            shutil.rmtree(self.folder / f"node{node}", ignore_errors=True)
        raise RuntimeError(f"sheep {node} does not start:\n{self.log(node)}")

    def _start(self, node):
        """Start a sheep.  Returns whether it listens; it ends when its port is taken."""
        store = self.folder / f"node{node}"
        store.mkdir(exist_ok=True)
        command = [find("sheep"), "-f", "-n", "-c", f"local:{self.folder}/queue", "-z", str(node)]
        command += map(str, self.sheep_arguments(node))
        # Logging to standard output saves a logger process, which would outlive its sheep.
        command += ["-b", self.host, "-y", self.host, "-l", "dst=stdout"]
        command += ["-p", str(self.ports[node]), str(store)]
        with open(self.folder / f"node{node}.log", "ab") as output:
            self.sheep[node] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if self.sheep[node].poll() is not None:
                break
            if self._listens(node):
                return True
            time.sleep(0.02)
        self.kill(node)
        return False

    def _listens(self, node):
        """Whether this very sheep answers, and not whoever had the port before."""
        run = subprocess.run(
            self.dog_command("node", "list", "-r", node=node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )
        return run.returncode == 0 and b":%d" % self.ports[node] in run.stdout

    def _alive(self):
        return next(node for node, sheep in enumerate(self.sheep) if sheep is not None)

    def _nodes(self):
        """How many nodes each live node counts, or None if they do not agree."""
        counts = set()
        for node, sheep in enumerate(self.sheep):
            if sheep is not None:
                run = self.dog("node", "list", "-r", node=node, check=False)
                counts.add(len(run.stdout.splitlines()))
        return counts.pop() if len(counts) == 1 else None

    def _status(self):
        run = self.dog("cluster", "info", node=self._alive(), check=False)
        return run.stdout.decode(errors="replace").partition("\n")[0]

    def _wait_for(self, condition, what):
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end:
                logs = "\n".join(self.log(node)[-2000:] for node in range(self.count))
                raise TimeoutError(f"waited {LIMIT} s until {what}:\n{logs}")
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description="Run a command beside a sheepdog cluster.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--copies", default="2")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("which command?")
    if missing():
        parser.error(missing())
    with Cluster(options.nodes, options.copies) as cluster:
        environment = {**os.environ, **cluster.environment()}
        return subprocess.run(options.command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
