"""The types of the public interface, as a program that embeds the supervisor uses it: checked, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import assert_type

import supervisor
from supervisor import (
    AsyncioSupervisor,
    BlockingSupervisor,
    Histogram,
    Job,
    JobEvent,
    JobPage,
    JobSpec,
    Result,
    Settings,
    State,
    Supervisor,
)
from supervisor.mcp_server.tasks import Tasks


async def in_trio() -> None:
    async with supervisor.open_supervisor(Settings()) as sup:
        assert_type(sup, Supervisor)
        assert_type(await sup.start(["true"], workspace=Path("/repo"), env={"A": "b"}), Job)
        assert_type(await sup.run(JobSpec(argv=("true",))), Result)
        assert_type(await sup.start(["true"], engine="slurm", engine_options={"cpus": 2}), Job)
        assert_type(await sup.run(["true"], engine="slurm", engine_options={"cpus": 2}), Result)
        await sup.run(JobSpec(argv=("true",)), stdin=b"")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        async with sup.events() as events, sup.follow("id") as chunks:
            assert_type(await anext(events), JobEvent)
            assert_type(await anext(chunks), bytes)


async def in_an_mcp_server(tasks: Tasks) -> None:
    assert_type(await tasks.start(["true"], engine="slurm", engine_options={"cpus": 2}), Job)
    assert_type(await tasks.start(JobSpec(argv=["true"])), Job)
    await tasks.start(["true"], cwd="/")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def in_asyncio() -> None:
    async with supervisor.open_supervisor_asyncio(Settings()) as sup:
        assert_type(sup, AsyncioSupervisor)
        assert_type(sup.settings, Settings)
        assert_type(await sup.start(["true"], deadline_seconds=1, stdin=b""), Job)
        assert_type(await sup.start(JobSpec(argv=("true",))), Job)
        assert_type(await sup.start(["true"], engine="slurm", engine_options={"cpus": 2}), Job)
        assert_type(await sup.run(["true"], engine="slurm", engine_options={"cpus": 2}), Result)
        assert_type(await sup.run(["true"]), Result)
        assert_type(await sup.status("id"), Job)
        assert_type(await sup.list(state="running", limit=5), JobPage)
        assert_type(await sup.wait("id", timeout=1), Job)
        assert_type(await sup.result("id", consume=True), Result)
        assert_type(await sup.cancel("id"), Job)
        assert_type(await sup.read("id", "stderr", 5), tuple[bytes, int])
        assert_type(await sup.prune(), Sequence[str])
        assert_type((await sup.metrics()).jobs, Mapping[State, int])
        async with sup.events() as events, sup.follow("id", "stderr") as chunks:
            assert_type(events, AsyncIterator[JobEvent])
            assert_type(chunks, AsyncIterator[bytes])
            async for event in events:
                assert_type(event, JobEvent)
            async for chunk in chunks:
                assert_type(chunk, bytes)
        await sup.start("true", cwd="/")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        await sup.start([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
        await sup.start(JobSpec(argv=("true",)), kind="json")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        await sup.wait("id", timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def in_a_thread() -> None:
    with BlockingSupervisor(Settings()) as sup:
        assert_type(sup, BlockingSupervisor)
        assert_type(sup.start(["true"], labels={"a": "b"}), Job)
        assert_type(sup.start(["true"], engine="slurm", engine_options={"cpus": 2}), Job)
        assert_type(sup.run(["true"], engine="slurm", engine_options={"cpus": 2}), Result)
        assert_type(sup.run(JobSpec(argv=("true",))), Result)
        assert_type(sup.status("id"), Job)
        assert_type(sup.list("/repo"), JobPage)
        assert_type(sup.wait("id"), Job)
        assert_type(sup.result("id"), Result)
        assert_type(sup.cancel("id"), Job)
        assert_type(sup.read("id", limit=10), tuple[bytes, int])
        assert_type(sup.prune("/repo"), Sequence[str])
        assert_type(sup.metrics().launch_seconds, Histogram)
        with sup.events("id") as events, sup.follow("id") as chunks:
            assert_type(events, Iterator[JobEvent])
            assert_type(chunks, Iterator[bytes])
            assert_type(b"".join(chunks), bytes)
        sup.result(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
