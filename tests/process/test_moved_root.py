"""A state root that is renamed while its jobs run takes their keepers along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

import supervisor
from supervisor.errors import StateUnsafe
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings

SHORT = 60


async def start_and_move(directory: Path, *, replaced: bool) -> tuple[str, str, Path]:
    """Start a job that waits for a line and one that runs on, move the root, and write the line."""
    old, new, gate = directory / "old", directory / "new", directory / "gate"
    os.mkfifo(gate)
    async with supervisor.open_supervisor(Settings(state_dir=old)) as sup:
        waits = await sup.start(["sh", "-c", 'read word < "$0"; echo "$word"; exit 3', str(gate)], workspace=directory)
        stays = await sup.start(["sleep", "600"], workspace=directory)
        with Catalog(Settings(state_dir=old)) as catalog:
            old.rename(new)
            if replaced:
                old.mkdir(mode=0o700)
            for ask in (catalog.status, catalog.cancel, catalog.result, catalog.forget):
                with pytest.raises(StateUnsafe, match="was moved or replaced while it was open"):
                    ask(stays.job_id)
            with pytest.raises(StateUnsafe):
                catalog.list()
        for answer in (sup.status, sup.cancel, sup.result):
            with pytest.raises(StateUnsafe):
                await answer(stays.job_id)
        with pytest.raises(StateUnsafe):
            await sup.start(["true"], workspace=directory)
        with trio.fail_after(SHORT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sup.wait, waits.job_id)
                await trio.testing.wait_all_tasks_blocked()  # once its end is told, only the moved index would know it
                await trio.to_thread.run_sync(gate.write_text, "heard\n")
    return waits.job_id, stays.job_id, new


@pytest.mark.parametrize("replaced", [False, True])
def test_jobs_end_at_the_new_place_as_their_commands_did(tmp_path: Path, *, replaced: bool) -> None:
    async def main() -> tuple[str, str, Path]:
        return await start_and_move(tmp_path, replaced=replaced)

    tmp_path.chmod(0o700)
    waits, stays, new = trio.run(main)
    with Catalog(Settings(state_dir=new)) as catalog:
        (ended,) = catalog.wait([waits], timeout=SHORT)
        assert (ended.status, ended.reason, ended.exit_code) == ("failed", "nonzero_exit", 3)
        assert ended.stdout_bytes == 6
        assert catalog.status(stays).status == "running"
        assert catalog.cancel(stays).status == "cancelled"
    assert not replaced or not list((tmp_path / "old").iterdir())
