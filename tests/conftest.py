# SPDX-License-Identifier: MIT
"""What all tests share: a folder, mounts in it, and a watchdog."""

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent / "mount"))

import harness
from fakestore import FakeStore

# A shell that runs something in the background has it ignore SIGINT, and so would every
# process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.umask(0o022)
# The kernel does not give back the nodes that it knows when it unmounts, so their images are
# still there when the daemon ends.
os.environ.setdefault("LSAN_OPTIONS", "print_suppressions=0:suppressions=%s"
                      % (Path(__file__).parent / "lsan.supp"))
harness.adopt_orphans()

# The same examples each time: what fails here fails everywhere.  Others are looked for with
# HYPOTHESIS_PROFILE=explore.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None,
                                     suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.register_profile("explore", parent=hypothesis.settings.get_profile("fixed"),
                                     derandomize=False, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): when the watchdog ends the test")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """End a test that hangs: first what it waits for, then all of it, with stacks."""
    mark = item.get_closest_marker("limit")
    limit = mark.args[0] if mark else 180

    def bark():
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            print("--- %s: ended after %d s\n%s" % (item.nodeid, limit, file.read()))
        for mount in list(harness.Mount.live):
            mount.disconnect()

    timer = threading.Timer(limit, bark)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(limit + 150, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    timer.cancel()


@pytest.fixture
def folder():
    """A folder of the test's own; nothing that runs or is mounted in it may be left."""
    path = Path(tempfile.mkdtemp(prefix="imagefs-test-",
                                 dir=os.environ.get("IMAGEFS_TEST_DIR", "/tmp")))
    path.chmod(0o755)
    leftovers = harness.Leftovers(path)
    try:
        yield path
        leftovers.check()
    finally:
        if not harness.mounts_below(path):
            shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def mounted(folder):
    """mounted(STORE, OPTION...) mounts a store and returns its Mount, once it is ready."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    mounts = []

    def mount(store, *options, **keys):
        mounts.append(harness.Mount(folder, store, options, **keys))
        return mounts[-1].wait_ready()

    try:
        yield mount
        for made in mounts:
            made.end()
    finally:
        for made in mounts:
            if made in harness.Mount.live:
                made.abort()


@pytest.fixture
def fake(folder):
    """A fake store without images."""
    return FakeStore(folder / "store")


@pytest.fixture
def images(folder):
    """An empty folder to be the dir store's."""
    path = folder / "images"
    path.mkdir()
    return path
