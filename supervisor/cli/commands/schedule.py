"""``schedule``: starts that are repeated at the instants of cron expressions."""

from __future__ import annotations

from typing import Any

import click

from supervisor.admission import launch_helper, launchers
from supervisor.admission.cron import local_zone
from supervisor.admission.instants import CATCH_UP, OVERLAP
from supervisor.cli import exits, text
from supervisor.cli.arguments import finite
from supervisor.cli.front import DEFAULTS, Invocation, command, shared_options
from supervisor.cli.job_options import request_options
from supervisor.cli.job_request import make_spec, prepare
from supervisor.jobs import queue_text, schedules
from supervisor.jobs.catalog import Catalog
from supervisor.model import to_json
from supervisor.model.schedules import ScheduleInfo

__all__ = ["schedule"]

_HELP = """Start jobs at the instants of cron expressions.

A schedule is kept on disk with its command, its environment and its input. Each instant starts one job, whichever
processes are there, and however many. Missed instants are caught up as --catch-up says.
"""

schedule = click.Group("schedule", help=_HELP, short_help="Start jobs by cron expressions.", params=shared_options())

_NAME = click.argument("name", metavar="NAME")


@command("add", has_defaults=True, short_help="Add a schedule.", epilog=DEFAULTS)
@click.argument("name", metavar="NAME")
@click.option(
    "--cron",
    required=True,
    metavar="EXPR",
    help="When: minute, hour, day of month, month, day of week; or six fields with seconds first; or @hourly, @daily, "
    "@weekly, @monthly, @yearly.",
)
@click.option(
    "--tz", metavar="ZONE", help="The time zone of EXPR, such as Europe/Berlin. Default: that of this machine."
)
@click.option(
    "--overlap",
    type=click.Choice(OVERLAP),
    default=OVERLAP[0],
    show_default=True,
    help="What an instant does while a job of the schedule has not ended: pass (skip), wait for it, one job at most "
    "(buffer_one), cancel it first (cancel_other), or nothing (allow_all).",
)
@click.option(
    "--catch-up",
    type=click.Choice(CATCH_UP),
    default=CATCH_UP[0],
    show_default=True,
    help="Which instants are made up for that were missed while no process was there.",
)
@click.option(
    "--catch-up-window",
    type=finite,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Make up for no instant that is older.",
)
@click.option("--jitter", type=finite, default="0", metavar="DURATION", help="Delay each instant by up to this time.")
@click.option("--replace", is_flag=True, help="Change a schedule that exists; its running jobs go on.")
@request_options
def add(
    call: Invocation,
    /,
    name: str,
    *,
    cron: str,
    tz: str | None,
    overlap: str,
    catch_up: str,
    catch_up_window: float,
    jitter: float,
    replace: bool,
    **options: Any,
) -> int:
    """Add the schedule NAME, which starts COMMAND at each instant of a cron expression.

    The options about the job are those of `start`. Its environment is that of this command, and it is kept on disk, as
    is its input, in files that only you can read.
    """
    create_group = options.pop("create_group")
    spec = prepare(call, make_spec(**options), create_group=create_group)
    with call.writing_catalog() as catalog:
        info = schedules.add_schedule(
            catalog,
            name,
            spec,
            cron=cron,
            zone=tz or local_zone(),
            overlap=overlap,
            catch_up=catch_up,
            window_seconds=catch_up_window,
            jitter_seconds=jitter,
            replace=replace,
        )
    call.answer(lambda: to_json(info), _line(info))
    return exits.OK


@command("list", short_help="List the schedules.")
def list_schedules(call: Invocation) -> int:
    """List the schedules with their next instants, their last jobs and the states of these."""
    with call.catalog() as catalog:
        found = schedules.schedule_infos(catalog)
        note = _nobody(catalog)
    call.answer(lambda: {"ok": True, "schedules": [to_json(info) for info in found]}, *map(_line, found))
    if not found:
        call.note("There are no schedules; `supervisor schedule add NAME --cron EXPR -- COMMAND...` adds one.")
    if note is not None:
        call.note(note)
    return exits.OK


def _nobody(catalog: Catalog) -> str | None:
    """Return the remark that no process fires the schedules, or that this command has started one."""
    count = launchers.unfired(catalog.index)
    if not count:
        return None
    words = "supervisor launch-waiting"
    what = f"this command has started `{words}`" if launch_helper.ensure(catalog.index) else f"run `{words}`"
    return f"{queue_text.unfired(count)}: {what}."


@command("show", short_help="Show one schedule.")
@_NAME
def show(call: Invocation, name: str) -> int:
    """Show the schedule NAME. Its environment and its input are not shown."""
    with call.catalog() as catalog:
        info = schedules.schedule_info(catalog, name)
    facts = [
        ("Schedule", info.name),
        ("Cron", info.cron),
        ("Time zone", info.tz),
        ("Next", _next(info)),
        ("Last", None if info.last_at is None else text.clock(info.last_at)),
        ("Last job", info.last_job_id and f"{info.last_job_id} {info.last_status or 'not kept'}"),
        ("Detail", info.detail and text.one_line(info.detail)),
        ("Overlap", info.overlap),
        ("Catch up", f"{info.catch_up}, of the last {text.duration(info.catch_up_window_seconds)}"),
        ("Jitter", text.duration(info.jitter_seconds) if info.jitter_seconds else None),
        ("Command", text.one_line(" ".join(info.argv))),
        ("Kind", info.kind),
        ("Groups", ", ".join(info.groups) or None),
        ("Workspace", info.workspace),
    ]
    call.answer(lambda: to_json(info), *text.pairs(facts))
    return exits.OK


@command("pause", short_help="Have a schedule start no jobs.")
@_NAME
def pause(call: Invocation, name: str) -> int:
    """Have the schedule NAME start no jobs until it is resumed. Running jobs go on."""
    with call.catalog() as catalog:
        info = schedules.pause_schedule(catalog, name)
    call.answer(lambda: to_json(info), _line(info))
    return exits.OK


@command("resume", short_help="Have a schedule start jobs again.")
@_NAME
def resume(call: Invocation, name: str) -> int:
    """Have the schedule NAME start jobs again, from its next instant on."""
    with call.catalog() as catalog:
        info = schedules.resume_schedule(catalog, name)
    call.answer(lambda: to_json(info), _line(info))
    return exits.OK


@command("run", short_help="Start the job of a schedule now.")
@_NAME
def run(call: Invocation, name: str) -> int:
    """Start the job of the schedule NAME now, also while it is paused or a job of it runs; print the id of the job."""
    with call.catalog() as catalog:
        schedules.load_schedule(catalog, name)  # a name that does not exist makes no state root
    job = call.ask(lambda sup: sup.run_schedule(name))
    call.answer(lambda: to_json(job), job.job_id)
    return exits.OK


@command("rm", short_help="Remove a schedule.")
@_NAME
def rm(call: Invocation, name: str) -> int:
    """Remove the schedule NAME, with the environment and the input that are on disk. Its jobs go on."""
    with call.catalog() as catalog:
        schedules.remove_schedule(catalog, name)
    call.answer(lambda: {"ok": True, "removed": name}, f"Removed schedule {name}.")
    return exits.OK


for _command in (add, list_schedules, show, pause, resume, run, rm):
    schedule.add_command(_command)


def _next(info: ScheduleInfo) -> str:
    if info.paused:
        return "paused"
    return "never" if info.next_at is None else text.clock(info.next_at)


def _line(info: ScheduleInfo) -> str:
    if info.cron is None:
        return f"{info.name}: {text.one_line(info.detail or '')}"
    when = "paused" if info.paused else f"next {_next(info)}"
    last = "" if info.last_job_id is None else f", last job {info.last_job_id[:8]} {info.last_status or 'not kept'}"
    why = "" if info.detail is None else f" ({text.one_line(info.detail)})"
    return f"{info.name}: {text.one_line(info.cron)} {info.tz}, {when}{last}{why}"
