from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_waiting_for_several(cli: Any, fifo: Callable[[], None]) -> None:
    good = cli.start("true")
    bad = cli.start("false")
    live = cli.start("--", "sh", "-c", "read x < ../fifo")
    assert cli("wait", good, bad).exit_code == 1
    assert cli("wait", "--any", good, live).exit_code == 0
    late = cli("wait", "--timeout", "0.05", good, bad, live)
    assert late.exit_code == 75
    assert f"{live}  running" in late.stdout
    shape = cli.json("wait", "--timeout", "0", good, live, status=75)
    assert shape["error"]["code"] == "job_running"
    assert [job["status"] for job in shape["jobs"]] == ["done", "running"]
    assert cli.json("wait", "--timeout", "0", live, status=75)["job"]["job_id"] == live
    assert cli("wait", good, "f" * 32).exit_code == 3
    with cli.process("wait", live) as process:
        fifo()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.decode()) == (0, f"{live}  done\n")
