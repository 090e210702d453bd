"""The records that the factories make, and that nothing else makes any."""

from __future__ import annotations

import ast
import signal
from pathlib import Path

import pytest

import supervisor
from supervisor.jobdir import factories, records, stops, validation
from supervisor.model import Exit

ROOT = Path(supervisor.__file__).parent
PROCESS = {"pid": 42, "start": 7, "boot": "b", "ns": "1"}


def test_a_stop_request_is_read_as_it_was_made(tmp_path: Path) -> None:
    request = factories.stop_request("deadline", "keeper", signalled_boot_ns=5)
    assert records.create(str(tmp_path), records.STOP, request)
    held = stops.read_stop(str(tmp_path))
    assert held is not None
    assert request["requested_ns"] > 0
    assert held == {**request, "v": records.VERSION, "survivors": ""}


def test_a_launch_failure_is_read_as_it_was_made() -> None:
    record = factories.launch_failure("no such file", 127, repair="make it", final=True)
    assert validation.valid_exit(record, None) is record
    assert validation.exit_of(record) == Exit(
        ended_ns=record["ended_ns"],
        launch_error="no such file",
        launch_status=127,
        launch_repair="make it",
        launch_final=True,
    )
    bare = factories.launch_failure("gone", never_launched=True)
    assert bare.keys() == {"launch_error", "launch_status", "never_launched", "ended_ns"}
    assert validation.exit_of(bare).never_launched


@pytest.mark.parametrize(
    ("status", "expected"),
    [(None, (None, None)), (0, (0, None)), (3 << 8, (3, None)), (signal.SIGKILL, (None, 9))],
)
def test_the_end_of_a_process_is_read_as_it_was_made(
    status: int | None, expected: tuple[int | None, int | None]
) -> None:
    record = factories.process_end(PROCESS, *factories.exit_code_and_signal(status), by="zombie", ended_ns=9)
    assert validation.valid_exit(record, PROCESS) is record
    ended = validation.exit_of(record)
    assert (ended.exit_code, ended.signal) == expected
    assert ended.ended_ns == 9
    assert record["ended_boot_ns"] > 0


def test_no_other_module_writes_these_records_out() -> None:
    members = {"launch_error", "ended_boot_ns", "requested_ns"}
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Dict)
        and members & {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    }
    assert found == {"jobdir/factories.py"}
