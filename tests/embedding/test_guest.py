"""The host process: its state stays as it was, its interpreter ends, and a fork of it has no supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor import Settings
from supervisor.jobs.catalog import Catalog

from .conftest import PATIENCE

Program = Callable[..., str]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def running(settings: Settings, job_id: str) -> bool:
    """Say whether a job runs, and end it."""
    with Catalog(settings) as catalog:
        state = catalog.status(job_id).status
        catalog.cancel(job_id)
        return state == "running"


# ---------------------------------------------------------------- manners

USES = {
    "asyncio": """
        async def main():
            async with supervisor.open_supervisor_asyncio() as sup:
                while_open.append(snapshot())
                await sup.run(["echo", "x"])
                await sup.cancel((await sup.start(["sleep", "600"])).job_id)
        import asyncio
        asyncio.set_event_loop_policy(Policy())
        before.append(snapshot())
        asyncio.run(main())
    """,
    "threads": """
        import asyncio
        asyncio.set_event_loop_policy(Policy())
        before.append(snapshot())
        with supervisor.BlockingSupervisor() as sup:
            while_open.append(snapshot())
            sup.run(["echo", "x"])
            sup.cancel(sup.start(["sleep", "600"]).job_id)
    """,
}


@pytest.mark.parametrize("use", USES)
def test_a_host_notices_nothing(program: Program, use: str) -> None:
    shown = program(
        """
        import asyncio, builtins, locale, logging, os, resource, signal, sys, threading, warnings
        import structlog
        import supervisor

        # Policies are deprecated since Python 3.14.
        warnings.filterwarnings("ignore", "'asyncio.*[pP]olicy'", DeprecationWarning)

        class Policy(asyncio.DefaultEventLoopPolicy):
            pass

        def mask():
            held = os.umask(0o22)
            os.umask(held)
            return held

        def snapshot():
            wakeup = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(wakeup)
            handlers = {each: signal.getsignal(each) for each in signal.valid_signals()}
            handlers.pop(signal.SIGINT)  # asyncio's own, while it runs
            return {
                "signals": handlers,
                "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
                "wakeup": wakeup if "asyncio" not in sys.argv else None,
                "policy": type(asyncio.get_event_loop_policy()).__name__,
                "watcher": getattr(asyncio.get_event_loop_policy(), "_watcher", None),
                "root handlers": list(logging.root.handlers),
                "root level": logging.root.level,
                "our handlers": list(logging.getLogger("supervisor").handlers),
                "our level": logging.getLogger("supervisor").level,
                "structlog": structlog.is_configured(),
                "warnings": list(warnings.filters),
                "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook),
                "tracing": (sys.gettrace(), sys.getprofile(), sys.getswitchinterval(), sys.getrecursionlimit()),
                "environment": dict(os.environ),
                "place": (os.getcwd(), mask(), locale.setlocale(locale.LC_ALL)),
                "limits": [resource.getrlimit(each) for each in range(resource.RLIM_NLIMITS)]
                if hasattr(resource, "RLIM_NLIMITS") else resource.getrlimit(resource.RLIMIT_NOFILE),
                "builtins": sorted(vars(builtins)),
                "streams": (sys.stdout, sys.stderr, sys.stdin),
            }

        before, while_open = [], []
        """
        + USES[use]
        + """
        after = snapshot()
        for name, held in before[0].items():
            if while_open[0][name] != held:
                print(name, "differs while it is open:", held, while_open[0][name])
            if after[name] != held:
                print(name, "differs afterwards:", held, after[name])
        """,
        use,
    )
    assert shown == ""


@pytest.mark.parametrize("use", ["asyncio", "threads"])
def test_no_child_of_the_host_is_reaped(program: Program, use: str) -> None:
    """A host that waits for its own children finds them, with their exit status."""
    body = {
        "asyncio": """
            import asyncio
            async def main():
                async with supervisor.open_supervisor_asyncio() as sup:
                    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
                    await sup.run(["echo", "x"])
                    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 8")
                    print(await child.wait())
            asyncio.run(main())
        """,
        "threads": """
            with supervisor.BlockingSupervisor() as sup:
                for code in (7, 8):
                    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], {})
                    sup.run(["echo", "x"])
                    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
    }
    assert program("\n            import os, supervisor" + body[use]).split() == ["7", "8"]


# ---------------------------------------------------------------- the end of the interpreter


def test_an_interpreter_that_ends_without_leaving_the_block(program: Program, settings: Settings) -> None:
    begun = time.monotonic()
    job_id = program(
        """
        import threading
        import supervisor

        sup = supervisor.BlockingSupervisor()
        sup.__enter__()
        job = sup.start(["sleep", "600"])

        def told(call, *arguments):
            try:
                call(*arguments)
            except supervisor.SupervisorClosed:
                pass

        threading.Thread(target=told, args=(sup.wait, job.job_id), daemon=True).start()
        threading.Thread(target=told, args=(sup.run, ["sleep", "600"]), daemon=True).start()
        with sup.events() as events:
            while len(sup.list(state="running").jobs) < 2:
                next(events)
        print(job.job_id)
        """,
        status=0,
    ).strip()
    assert time.monotonic() - begun < PATIENCE
    with Catalog(settings) as catalog:
        jobs = catalog.list().jobs
        assert [str(job.status) for job in jobs] == ["running", "running"]
        assert [job.stop_requested for job in jobs] == [None, None]
        for job in jobs:
            catalog.cancel(job.job_id)
        assert job_id in {job.job_id for job in jobs}
    assert list((settings.state_dir / ".owners").iterdir()) == []  # it was closed, not just dropped


def test_an_interpreter_that_ends_in_the_middle_of_asyncio(program: Program, settings: Settings) -> None:
    job_id = program(
        """
        import asyncio
        import supervisor

        loop = asyncio.new_event_loop()
        manager = supervisor.open_supervisor_asyncio()
        sup = loop.run_until_complete(manager.__aenter__())
        job = loop.run_until_complete(sup.start(["sleep", "600"]))
        print(job.job_id)
        loop.close()
        """,
    ).strip()
    assert running(settings, job_id)


def test_a_host_that_exits_from_within(program: Program, settings: Settings) -> None:
    job_id = program(
        """
        import asyncio, sys
        import supervisor

        async def main():
            async with supervisor.open_supervisor_asyncio() as sup:
                job = await sup.start(["sleep", "600"])
                print(job.job_id)
                sys.exit(5)

        asyncio.run(main())
        """,
        status=5,
    ).strip()
    assert running(settings, job_id)


# ---------------------------------------------------------------- forks

PARENT = """
import os, sys, time
import supervisor

def refused(call, *arguments):
    try:
        call(*arguments)
    except supervisor.SupervisorError as error:
        print(type(error).__name__, error.code, flush=True)
    else:
        print("not refused", flush=True)

def in_a_fork(body, leave=os._exit):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        body()
        sys.stdout.flush()
        leave(0)
    print("left with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def forking(text: str) -> str:
    import textwrap

    return PARENT + textwrap.dedent(text)


def test_a_fork_of_a_program_with_threads_refuses(program: Program) -> None:
    """Whatever way the child leaves, through the ``with`` block and the exit hooks or not."""
    shown = program(
        forking(
            """
            with supervisor.BlockingSupervisor() as sup:
                with sup.events() as events:
                    job = sup.start(["sleep", "600"])
                    def body():
                        refused(sup.status, job.job_id)
                        refused(sup.start, ["true"])
                        refused(sup.wait, job.job_id)
                        refused(sup.run, ["true"])
                        refused(next, events)
                        refused(sup.events().__enter__)
                        refused(supervisor.BlockingSupervisor().__enter__)  # the same root, opened anew
                    in_a_fork(body)
                    in_a_fork(body, sys.exit)
                    print(next(events).status)
                print(sup.run(["echo", "still there"]).value.strip())
                print(sup.cancel(job.job_id).status)
            """,
        ),
    )
    refusals = ["SupervisorClosed internal_error"] * 7
    assert shown.splitlines() == [
        *refusals,
        "left with 0",
        *refusals,
        "left with 0",
        "queued",
        "still there",
        "cancelled",
    ]


def test_a_fork_of_a_program_in_asyncio_refuses(program: Program) -> None:
    shown = program(
        forking(
            """
            import asyncio
            async def main():
                async with supervisor.open_supervisor_asyncio() as sup:
                    job = await sup.start(["sleep", "600"])
                    waiting = asyncio.create_task(sup.wait(job.job_id))
                    await asyncio.sleep(0)
                    def body():
                        def drive(coroutine):
                            coroutine.send(None)  # it must refuse before it waits for anything
                        refused(drive, sup.status(job.job_id))
                        refused(drive, sup.start(["true"]))
                        refused(drive, sup.events().__aenter__())
                    in_a_fork(body)
                    assert not waiting.done()
                    print((await sup.cancel(job.job_id)).status, (await waiting).status)
            asyncio.run(main())
            """,
        ),
    )
    assert shown.splitlines() == [*["SupervisorClosed internal_error"] * 3, "left with 0", "cancelled cancelled"]


def test_a_fork_of_a_program_in_trio_refuses(program: Program) -> None:
    shown = program(
        forking(
            """
            import trio
            async def main():
                async with supervisor.open_supervisor() as sup:
                    job = await sup.start(["sleep", "600"])
                    def body():
                        def drive(coroutine):
                            coroutine.send(None)
                        for coroutine in (
                            sup.status(job.job_id), sup.wait(job.job_id), sup.result(job.job_id), sup.list(),
                            sup.cancel(job.job_id), sup.forget(job.job_id), sup.prune(), sup.start(["true"]),
                            sup.run(["true"]), sup.events().__aenter__(), sup.follow(job.job_id).__aenter__(),
                        ):
                            refused(drive, coroutine)
                    in_a_fork(body)
                    print((await sup.run(["echo", "still there"])).value.strip())
                    print((await sup.cancel(job.job_id)).status)
            trio.run(main)
            """,
        ),
    )
    assert shown.splitlines() == [
        *["SupervisorClosed internal_error"] * 11,
        "left with 0",
        "still there",
        "cancelled",
    ]


def test_a_fork_may_open_another_root_or_one_that_was_closed(program: Program, tmp_path: Path) -> None:
    shown = program(
        forking(
            """
            from pathlib import Path
            with supervisor.BlockingSupervisor() as sup:
                sup.run(["true"])
                def other():
                    settings = supervisor.Settings(state_dir=Path(sys.argv[1]))
                    with supervisor.BlockingSupervisor(settings) as own:
                        print(own.run(["echo", "other"]).value.strip())
                in_a_fork(other)
            def same():
                with supervisor.BlockingSupervisor() as own:
                    print(own.run(["echo", "same"]).value.strip(), len(own.list().jobs))
            in_a_fork(same)
            """,
        ),
        tmp_path / "other",
    )
    assert shown.splitlines() == ["other", "left with 0", "same 2", "left with 0"]


@pytest.fixture
def _forks_end(tmp_path: Path) -> Iterator[None]:
    """End the fork that a test leaves behind, by the pid that it wrote down."""
    yield
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((tmp_path / "fork").read_text(encoding="ascii")), 9)


@pytest.mark.usefixtures("_forks_end")
def test_a_fork_that_lives_on_does_not_keep_the_keeper(program: Program, tmp_path: Path) -> None:
    """The keeper must see that its supervisor has died, though a child of that has inherited the line to it."""
    shown = program(
        forking(
            """
            import json
            from pathlib import Path
            sup = supervisor.BlockingSupervisor()
            sup.__enter__()
            sup.run(["true"])
            keeper = sup._through().target.launcher._engines._engine._keeper.link.pid
            child = os.fork()
            if child == 0:
                for descriptor in (0, 1, 2):  # as a daemon does; the test reads to the end of these
                    os.close(descriptor)
                time.sleep(600)
                os._exit(0)
            Path("fork").write_text(str(child))
            print(json.dumps([keeper, os.pidfd_open(keeper) > 0]), flush=True)
            os.kill(os.getpid(), 9)
            """,
        ),
        status=-9,
    )
    keeper, _ = json.loads(shown)
    child = int((tmp_path / "fork").read_text(encoding="ascii"))
    assert Path(f"/proc/{child}").exists()
    with contextlib.suppress(ProcessLookupError):  # it has left already
        descriptor = os.pidfd_open(keeper)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = poll.poll(PATIENCE * 1000)
        os.close(descriptor)
        assert ended, "the keeper stays"
