from __future__ import annotations

from typing import Any


def test_rm_forgets_what_has_ended_and_nothing_else(cli: Any) -> None:
    done, live = cli.start("true"), cli.start("sleep", "60")
    cli("wait", done)
    shape = cli.json("rm", done, live, status=75)
    assert (shape["forgotten"], shape["error"]["code"]) == ([done], "job_running")
    assert cli("status", done).exit_code == 3
    assert cli("status", live).exit_code == 0
    cli("cancel", live)
    assert cli("rm", live).stdout == f"{live}\n"
