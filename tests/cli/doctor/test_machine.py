"""The checks of ``doctor`` for the limits of the keeper."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24


def keeper_check(limit: int | None, *, hard: bool) -> dict[str, Any]:
    """Return the checks of a ``doctor`` that may not raise hard limits."""
    library = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        library.prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)  # fails for a process without the capability
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit if hard else resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "supervisor", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=prepare)
    (found,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "keeper"]
    return dict(found)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_a_hard_limit_on_processor_time_is_named(state_dir: Path) -> None:
    del state_dir
    if resource.getrlimit(resource.RLIMIT_CPU)[1] != resource.RLIM_INFINITY:
        pytest.skip("the tests have such a limit themselves")
    told = keeper_check(5000, hard=True)
    assert told["verdict"] == "warning", told
    assert "5000 s of processor time" in told["message"]
    assert "LimitCPU=infinity" in told["repair"]
    assert keeper_check(5000, hard=False)["verdict"] == "fine"
    assert keeper_check(None, hard=False)["verdict"] == "fine"
