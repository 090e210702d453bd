"""The cases measure, at a size at which their figures mean nothing, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import measure
from benchmarks.cases import CASES
from benchmarks.figures import OURS, Cannot
from benchmarks.peers import Peer, every_peer
from benchmarks.peers.baselines import BARE, ORIGINAL

QUICK = ["throughput", "starts", "statuses", "lists", "growth", "events"]
SLOW = sorted(set(CASES) - set(QUICK))


def whoever_knows(folder: Path) -> Iterator[str]:
    """Yield the command of each process that was told of ``folder``, ourselves left out."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                told = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
                if os.fsencode(folder) in told:
                    yield Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)])
def test_a_case_measures_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    kept = tmp_path / "run.json"
    asked = ["--toy", "--only", BARE, "--only", ORIGINAL, "--root", str(tmp_path), "--json", str(kept), case]
    run = measure(asked)
    assert run.figures
    assert {figure.case for figure in run.figures} == {case}
    for figure in run.figures:
        assert figure.values[OURS], figure
        may_be_none = "added" in figure.name or "missed" in figure.name
        assert may_be_none or all(value > 0 for value in figure.values[OURS]), figure
    held = json.loads(kept.read_text(encoding="utf-8"))
    assert [figure["name"] for figure in held["figures"]] == [figure.name for figure in run.figures]
    assert len(held["load"]) == 2
    assert held["machine"]["cores"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert list(whoever_knows(tmp_path)) == []


@pytest.mark.parametrize("peer", every_peer(), ids=lambda peer: peer.name)
def test_a_peer_runs_jobs_and_leaves_nothing(peer: Peer, tmp_path: Path) -> None:
    try:
        assert peer.version()
    except Cannot as reason:
        pytest.skip(str(reason))
    with peer.opened(tmp_path, 2) as session:
        session.resume()
        session.run_all(["true"], 5, 2)
        with contextlib.suppress(Cannot):
            accepted = session.queue(["true"], 5, 2)
            assert accepted is None or accepted > 0
        with contextlib.suppress(Cannot):
            job = session.start(["echo", "kept"])
            session.wait(job)
            with contextlib.suppress(Cannot):
                assert session.output(job).strip() == b"kept"
            with contextlib.suppress(Cannot):
                assert session.status(job) is not None
            with contextlib.suppress(Cannot):
                assert session.list() > 0
            sleeper = session.start(["sleep", "600"])
            with contextlib.suppress(Cannot):  # then the end of the session stops it
                session.stop(sleeper)
        session.rest()
    assert list(whoever_knows(tmp_path)) == []
