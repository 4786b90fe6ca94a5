# SPDX-License-Identifier: MIT
"""What the tests of the stores share."""

import pytest
import sheepdog_cluster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test in which nodes were killed, and then a sheep failed by itself, tells nothing."""
    if call.when == "setup":
        sheepdog_cluster.crashes.clear()
    for value in getattr(item, "funcargs", {}).values():
        if isinstance(value, sheepdog_cluster.Cluster):
            value.note_crashes()
    outcome = yield
    report = outcome.get_result()
    if report.failed and sheepdog_cluster.crashes:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), None,
                           "Skipped: not about imagefs: " + "; ".join(sheepdog_cluster.crashes))
