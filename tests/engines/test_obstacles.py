"""The words for what keeps a job from ending."""

from __future__ import annotations

import os
import subprocess

from supervisor.engines import obstacles


def test_a_process_that_has_ended_meanwhile_is_not_named() -> None:
    """Its number may be another process's by the time that someone follows the advice."""
    child = subprocess.Popen(["true"])
    child.wait()
    error = obstacles._refused("job", [child.pid, os.getpid()], "cannot be stopped", "It goes on.")
    assert error.repair is not None
    assert str(child.pid) not in f"{error.message} {error.repair}"
    assert [each["pid"] for each in error.details["processes"]] == [os.getpid()]
    assert error.details["pid"] == os.getpid()


def test_where_all_have_ended_one_is_named() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    error = obstacles._refused("job", [child.pid], "cannot be stopped", "It goes on.")
    assert error.details["pid"] == child.pid
