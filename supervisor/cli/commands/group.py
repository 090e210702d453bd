"""``group``: limits on how many jobs run at a time."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
import click

from supervisor.admission import groups
from supervisor.cli import completing, exits, text
from supervisor.cli.arguments import exclude, moment, seconds
from supervisor.cli.front import Invocation, command, shared_options
from supervisor.model import GroupInfo, to_json, to_ns
from supervisor.store.budgets import METRICS, ON_EXCEED, merged
from supervisor.store.groups import DEFAULT_AGING_SECONDS, Group
from supervisor.store.windows import WINDOWS, local_zone, zone_of

__all__ = ["group"]


_HELP = """Limit how many jobs run at a time.

A job that is started with --group NAME waits until the group has room. It survives a crash or a restart of every
supervisor while it waits.
"""

group = click.Group("group", help=_HELP, short_help="Limit how many jobs run at a time.", params=shared_options())

_NONE = "none"
_NAME = click.argument("name", metavar="NAME", shell_complete=completing.groups)


@command("set", short_help="Make a group, or change it.")
@_NAME
@click.option("--limit", type=int, metavar="N", help="Run at most N jobs at a time; 0 closes the group.")
@click.option("--unlimited", is_flag=True, help="Run any number of jobs.")
@click.option(
    "--aging",
    type=seconds,
    metavar="DURATION",
    help=f"The waiting time that equals one point of priority. Default: {DEFAULT_AGING_SECONDS:.0f} seconds.",
)
@click.option("--strict", is_flag=True, help="A higher priority always goes first, however long others have waited.")
@click.option("--rate", metavar="N/UNIT", help="Start at most N jobs in a unit of time: s, min, h or d. none: no rate.")
@click.option(
    "--fair-by",
    metavar="WHAT",
    help="Share the group fairly among workspaces (workspace), callers over HTTP (principal) or the values of a label"
    " (label:NAME). none: in the order of arrival. It orders jobs that come later.",
)
@click.option("--pause-on-failure", metavar="N", help="Pause the group after N failures in a row. none: never.")
@click.option(
    "--on-rate-limit",
    type=click.Choice(["wait", "ignore"]),
    help="What a usage limit of a job does: wait admits no more jobs until it is reset, and the job comes back then."
    " ignore: it is a failure like any other.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="METRIC=N/WINDOW",
    help="What its jobs may spend: usd, tokens, seconds or starts, by hour, day, week or in total, such as usd=20/day."
    " usd=none/day: no such budget. none: no budget.",
)
@click.option(
    "--on-exceed",
    type=click.Choice(ON_EXCEED),
    help="Once more was spent than a budget allows: hold admits no more jobs, stop also stops the running ones.",
)
@click.option("--tz", metavar="ZONE", help="The time zone of its budgets. Default: that of this machine.")
@click.option(
    "--on-end", metavar="COMMAND", help="Give the end of each of its jobs that names no command to this. none: none."
)
@click.option(
    "--webhook", metavar="URL", help="Send the end of each of its jobs that names no URL to this one. none: none."
)
@click.option("--on-reboot", type=click.Choice(["keep", "pause", "fail"]), help="What a reboot does to waiting jobs.")
def set_group(
    call: Invocation,
    /,
    name: str,
    *,
    limit: int | None,
    unlimited: bool,
    aging: float | None,
    strict: bool,
    pause_on_failure: str | None,
    budgets: tuple[str, ...],
    **given: str | None,
) -> int:
    """Make the group NAME, or change only the settings that are given. A lower limit stops no job."""
    exclude({"--limit": limit is not None, "--unlimited": unlimited})
    exclude({"--aging": aging is not None, "--strict": strict})
    changes: dict[str, Any] = {
        setting: None if value == _NONE else value for setting, value in given.items() if value is not None
    }
    if unlimited or limit is not None:
        changes["limit"] = limit
    if strict or aging is not None:
        changes["aging_seconds"] = aging
    if pause_on_failure is not None:
        changes["pause_on_failure"] = None if pause_on_failure == _NONE else _number(pause_on_failure)

    def change(before: Group) -> Group:
        if budgets:
            changes["budgets"] = _budgets(before, budgets)
            if before.tz is None:
                changes.setdefault("tz", local_zone())
        return attrs.evolve(before, **changes)

    with call.writing_catalog() as catalog:
        info = groups.change_group(catalog.index, name, change, create=True)
    call.answer(lambda: to_json(info), _line(info))
    return exits.OK


def _budgets(before: Group, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return merged(before.budgets, given)
    except ValueError as error:
        message = (
            f"--budget is {error.args[0]!r:.80}; give METRIC=N/WINDOW, such as usd=20/day. Metrics are"
            f" {', '.join(METRICS)}, windows {', '.join(WINDOWS)}."
        )
        raise click.UsageError(message) from None


def _number(given: str) -> int:
    try:
        return int(given)
    except ValueError:
        message = f"--pause-on-failure is {given!r:.80}; give a number of failures, or none."
        raise click.UsageError(message) from None


@command("list", short_help="List the groups.")
def list_groups(call: Invocation) -> int:
    """List the groups with their limits, and what runs and waits in them."""
    with call.catalog() as catalog:
        found = groups.group_infos(catalog.index)
    call.answer(lambda: {"ok": True, "groups": [to_json(info) for info in found]}, *map(_line, found))
    if not found:
        call.note("There are no groups; `supervisor group set NAME --limit N` makes one.")
    return exits.OK


@command("show", short_help="Show one group.")
@_NAME
def show(call: Invocation, name: str) -> int:
    """Show the group NAME."""
    with call.catalog() as catalog:
        info = groups.group_info(catalog.index, name)
    facts = [
        ("Group", info.name),
        ("Limit", _limit(info)),
        ("Running", str(info.running)),
        ("Waiting", _waiting(info)),
        ("Paused", ", ".join(map(_pause, info.paused)) or None),
        ("Aging", "strict" if info.aging_seconds is None else text.duration(info.aging_seconds)),
        ("Rate", info.rate or "any"),
        ("Fair by", info.fair_by or "none: in the order of arrival"),
        ("Pause on failure", _failures(info.pause_on_failure)),
        ("On rate limit", info.on_rate_limit),
        ("On reboot", info.on_reboot),
        ("On end", None if info.on_end is None else text.one_line(shlex.join(info.on_end))),
        ("Webhook", info.webhook),
        *(("Budget", _budget(each, info.tz)) for each in info.budgets),
    ]
    call.answer(lambda: to_json(info), *text.pairs(facts))
    return exits.OK


@command("pause", short_help="Admit no more jobs to a group.")
@_NAME
@click.option(
    "--until", type=moment, metavar="TIME", help="End the pause at this time: ISO 8601, local if it has no zone."
)
@click.option("--for", "duration", type=seconds, metavar="DURATION", help="End the pause after this time.")
@click.option("--reason", metavar="TEXT", help="The reason, shown with the group.")
def pause(call: Invocation, name: str, *, until: datetime | None, duration: float | None, reason: str | None) -> int:
    """Admit no more jobs to the group NAME until it is resumed. Running jobs go on."""
    exclude({"--until": until is not None, "--for": duration is not None})
    until_ns = None
    if until is not None:
        until_ns = to_ns(until)
    elif duration is not None:
        until_ns = time.time_ns() + int(min(duration, _MAX_PAUSE_SECONDS) * 1e9)
    with call.catalog() as catalog:
        info = groups.change_group(catalog.index, name, groups.pause(until_ns, reason))
    call.answer(lambda: to_json(info), _line(info))
    return exits.OK


_MAX_PAUSE_SECONDS = 10 * 365 * 86400.0


@command("resume", short_help="Admit jobs to a group again.")
@_NAME
@click.option("--all", "every", is_flag=True, help="End all pauses, by the user and by other causes.")
def resume(call: Invocation, name: str, *, every: bool) -> int:
    """End the pause that `group pause` has set on the group NAME.

    Pauses of other causes stay, such as failures or a reboot. If there is no other pause, the only one ends.
    """
    with call.catalog() as catalog:
        info = groups.resume_group(catalog.index, name, every=every)
    call.answer(lambda: to_json(info), _line(info))
    return exits.OK


@command("rm", short_help="Remove a group.")
@_NAME
@click.option(
    "--to", metavar="OTHER", shell_complete=completing.groups, help="Put the waiting jobs into the group OTHER instead."
)
def rm(call: Invocation, name: str, *, to: str | None) -> int:
    """Remove the group NAME.

    A group with running jobs is refused, and one with waiting jobs unless --to says where they go.
    """
    with call.catalog() as catalog:
        groups.remove_group(catalog.index, name, to=to)
    call.answer(lambda: {"ok": True, "removed": name}, f"Removed group {name}.")
    return exits.OK


for _command in (set_group, list_groups, show, pause, resume, rm):
    group.add_command(_command)


def _failures(number: int | None) -> str:
    return "never" if number is None else f"after {text.plural(number, 'failure')} in a row"


def _limit(info: GroupInfo) -> str:
    return "unlimited" if info.limit is None else "closed" if info.limit == 0 else str(info.limit)


def _waiting(info: GroupInfo) -> str:
    if info.oldest_wait_seconds is None:
        return "no job waits" if not info.waiting else f"{text.plural(info.waiting, 'job')} waiting"
    return f"{text.plural(info.waiting, 'job')} waiting, the oldest for {text.duration(info.oldest_wait_seconds)}"


def _pause(pause: Any) -> str:
    ends = "" if pause.until is None else f" until {text.clock(pause.until)}"
    why = "" if not pause.detail else f" ({text.one_line(pause.detail)})"
    return f"by {pause.by}{ends}{why}"


def _budget(budget: Mapping[str, Any], tz: str) -> str:
    metric, reserved = budget["metric"], budget["reserved"]
    used = f"{text.amount(metric, budget['used'])} of {text.amount(metric, budget['limit'])} used"
    window = "in total" if budget["window"] == "total" else f"this {budget['window']}"
    ends = budget["resets_at"]
    resets = "" if ends is None else f", until {ends.astimezone(zone_of(tz)):%Y-%m-%d %H:%M:%S} ({tz})"
    more = f", {text.amount(metric, reserved)} reserved" if reserved else ""
    return f"{used} {window}{more}{resets}; then {budget['on_exceed']}"


def _line(info: GroupInfo) -> str:
    paused = "".join(f", paused {_pause(each)}" for each in info.paused)
    rate = "" if info.rate is None else f", rate {info.rate}"
    budgets = "".join(f", {text.budget(each)}" for each in info.budgets)
    return f"{info.name}: limit {_limit(info)}{rate}{budgets}, {info.running} running, {_waiting(info)}{paused}"
