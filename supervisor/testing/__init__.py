"""Fakes for tests of code that uses the supervisor: no process, no thread, and time that is injected.

A ``FakeEngine`` replaces the machine that would run the commands. A ``Script`` says what a command does,
and ``FakeEngine.commands`` holds the commands that the code under test has launched.
Everything else is real: state root, states, results, deadlines. With one of Trio's test clocks
an hour passes in milliseconds::

    from supervisor import Settings, open_supervisor
    from supervisor.testing import FakeEngine, Script

    async def test_the_report_is_read(autojump_clock, tmp_path):
        engine = FakeEngine(Script(stdout='{"total": 87}', seconds=3600))
        async with open_supervisor(Settings(state_dir=tmp_path / "state"), engine=engine) as sup:
            result = await sup.run(["coverage", "json"], kind="json", deadline_seconds=7200)
        assert result.value == {"total": 87}
        assert engine.commands[0].argv == ("coverage", "json")

A test can also control a command step by step: one with ``Script(seconds=None)`` runs until
``engine.commands[0].finish()``, and ``write()`` adds to its output. Both may be called from any
thread, so tests of asyncio code can use them, too. Their supervisor runs in a thread of its own,
by the real clock.

The engine outlives the supervisor, as a machine does: give the same object to the next
``open_supervisor``, and the commands still run, older by the time
that has passed on Trio's clock.

Groups work by the same clock: jobs wait for their turn, pauses end and priorities age as it passes.
``FakeEngine.running`` returns the commands that run now, and ``FakeEngine.time`` the time of day.

Trio's autojump moves the clock whenever every task waits, also while a task waits for a thread.
The supervisor uses a thread for ``list`` and ``result``, for jobs that are not its own or have ended,
and for the first ``start`` in a workspace, so fake seconds may pass during these calls. Where that
matters use ``trio.testing.MockClock(autojump_threshold=0.01)``, which jumps only after ten real
milliseconds without activity, or ``MockClock()`` and ``jump()``.
"""

from __future__ import annotations

from supervisor.testing.command import FakeCommand, Script
from supervisor.testing.engine import FakeEngine

__all__ = ["FakeCommand", "FakeEngine", "Script"]
