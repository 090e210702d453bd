"""What records and an engine's word mean together; the table, line by line, and what is done about it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.engines.cluster.client import request_end
from supervisor.engines.cluster.interface import JobReport, QueueState
from supervisor.engines.cluster.reconcile import (
    SILENT_SECONDS,
    ClusterEvidence,
    Step,
    decide,
    resolve,
)
from supervisor.engines.interface import JobPhase, Observation
from supervisor.engines.local import stopping
from supervisor.jobdir import records
from supervisor.keeper.single_job import HEARTBEAT, ORDERS, STDIN

PROCESS = {
    "pid": 42,
    "start": 7,
    "boot": "b",
    "ns": "1",
    "keeper_pid": 41,
    "keeper_start": 6,
    "started_ns": 10**18,
    "started_boot_ns": 5,
    "deadline_boot_ns": None,
}
EXIT = {"pid": 42, "start": 7, "boot": "b", "exit_code": 3, "signal": None, "ended_ns": 10**18 + 1}
BY_KEEPER = "keeper.41.6.b.1"
UNASKED = JobReport(queue_state=QueueState.UNREACHABLE)
QUEUED = JobReport(queue_state=QueueState.QUEUED, handle="5", reason="Priority")
RUNNING = JobReport(queue_state=QueueState.RUNNING, handle="5")
ENDED = JobReport(queue_state=QueueState.ENDED, handle="5", state="NODE_FAIL")
ABSENT = JobReport(queue_state=QueueState.ABSENT)
REPORTS = (UNASKED, QUEUED, RUNNING, ENDED, ABSENT)

NOTHING = ClusterEvidence(
    claim=None,
    process=None,
    stop=None,
    exit=None,
    submission={"handle": "5"},
    report=UNASKED,
    silent=False,
    owner_lives=False,
)
CLAIMED = attrs.evolve(NOTHING, claim=BY_KEEPER)
SPAWNED = attrs.evolve(CLAIMED, process=PROCESS)
STOPPING = {"why": "cancelled", "signalled_boot_ns": 1, "gone": False}


@pytest.mark.parametrize("report", REPORTS)
def test_an_end_on_record_is_the_truth_whatever_the_engine_says(report: JobReport) -> None:
    assert decide(attrs.evolve(SPAWNED, exit=EXIT, report=report)) is Step.ENDED


@pytest.mark.parametrize("report", REPORTS)
def test_a_pulse_is_believed_more_than_the_engine(report: JobReport) -> None:
    assert decide(attrs.evolve(SPAWNED, report=report)) is Step.RUNNING
    assert decide(attrs.evolve(CLAIMED, report=report)) is Step.QUEUED


@pytest.mark.parametrize("facts", [CLAIMED, SPAWNED])
@pytest.mark.parametrize("report", [ENDED, ABSENT])
def test_without_a_pulse_the_engine_is_believed(facts: ClusterEvidence, report: JobReport) -> None:
    assert decide(attrs.evolve(facts, report=report, silent=True)) is Step.NOTE_ENGINES_WORD


@pytest.mark.parametrize("report", [UNASKED, QUEUED, RUNNING])
def test_what_cannot_be_asked_is_not_absent(report: JobReport) -> None:
    for facts in (NOTHING, attrs.evolve(NOTHING, submission=None)):
        assert decide(attrs.evolve(facts, report=report)) is Step.QUEUED


@pytest.mark.parametrize("report", [ENDED, ABSENT])
def test_an_unclaimed_job_that_is_gone_never_ran(report: JobReport) -> None:
    assert decide(attrs.evolve(NOTHING, report=report)) is Step.RULE_NEVER_LAUNCHED


def test_who_is_about_to_submit_is_waited_for() -> None:
    unsubmitted = attrs.evolve(NOTHING, submission=None, report=ABSENT)
    assert decide(attrs.evolve(unsubmitted, owner_lives=True)) is Step.QUEUED
    assert decide(unsubmitted) is Step.RULE_NEVER_LAUNCHED


@pytest.mark.parametrize("report", REPORTS)
def test_a_job_that_waits_for_its_admission_is_not_ruled_out(report: JobReport) -> None:
    waits = attrs.evolve(NOTHING, submission=None, report=report, waits=True)
    assert decide(waits) is Step.QUEUED
    assert decide(attrs.evolve(waits, overdue=True)) is Step.RULE_NEVER_LAUNCHED
    assert decide(attrs.evolve(waits, claim=records.NOBODY)) is Step.RULE_NEVER_LAUNCHED


def test_a_report_that_was_asked_for_before_the_submission_says_nothing() -> None:
    young = attrs.evolve(NOTHING, young=True)
    assert decide(attrs.evolve(young, report=ABSENT)) is Step.QUEUED
    assert decide(attrs.evolve(young, report=ENDED)) is Step.RULE_NEVER_LAUNCHED


@pytest.mark.parametrize("report", REPORTS)
def test_a_ruling_is_final(report: JobReport) -> None:
    assert decide(attrs.evolve(NOTHING, claim=records.NOBODY, report=report)) is Step.RULE_NEVER_LAUNCHED


@pytest.mark.parametrize("report", REPORTS)
def test_a_job_whose_time_was_over_in_the_queue_never_runs(report: JobReport) -> None:
    assert decide(attrs.evolve(NOTHING, report=report, overdue=True)) is Step.RULE_NEVER_LAUNCHED


def test_the_end_of_a_tree_that_is_being_stopped_is_waited_for() -> None:
    facts = attrs.evolve(SPAWNED, exit=EXIT, stop=STOPPING)
    assert decide(attrs.evolve(facts, report=RUNNING)) is Step.RUNNING
    assert decide(attrs.evolve(facts, report=ENDED)) is Step.RUNNING
    assert decide(attrs.evolve(facts, report=ENDED, silent=True)) is Step.ENDED
    assert decide(attrs.evolve(facts, report=RUNNING, stop={**STOPPING, "gone": True})) is Step.ENDED


# ---------------------------------------------------------------- what is done about it


@pytest.fixture
def job(tmp_path: Path) -> Path:
    directory = tmp_path / ("0" * 32)
    directory.mkdir()
    records.replace(str(directory), records.JOB, {"job_id": directory.name})
    records.replace(str(directory), records.SUBMISSION, {"handle": "5"})
    for name in (ORDERS, STDIN):
        (directory / name).write_text("secret")
    return directory


def spawned(job: Path, *, beat_seconds_ago: float = 0) -> None:
    (job / ORDERS).unlink()
    (job / STDIN).unlink()
    assert records.take_claim(str(job), BY_KEEPER)
    records.replace(str(job), records.PROCESS, dict(PROCESS))
    (job / HEARTBEAT).touch()
    then = time.time() - beat_seconds_ago
    os.utime(job / HEARTBEAT, (then, then))


def look(job: Path, report: JobReport, **rest: Any) -> Observation:
    return resolve(str(job), report, **{"owner_lives": False, "engine": "slurm", **rest})


def test_a_job_in_the_queue_says_why(job: Path) -> None:
    assert [look(job, report).queue_reason for report in (QUEUED, RUNNING, UNASKED)] == [
        "Priority",
        "starting",
        "unreachable",
    ]
    assert (job / ORDERS).exists()


def test_a_running_job_has_the_launch_of_the_node_and_no_clock_of_ours(job: Path) -> None:
    spawned(job)
    seen = look(job, RUNNING)
    assert seen.phase is JobPhase.RUNNING
    assert seen.launched is not None
    assert (seen.launched.pid, seen.launched.deadline_boot_ns) == (42, None)


@pytest.mark.parametrize("report", [ENDED, ABSENT])
def test_a_job_that_never_ran_never_will(job: Path, report: JobReport) -> None:
    for _ in range(2):
        seen = look(job, report)
        assert seen.ended is not None
        assert seen.ended.exit.launch_error is not None
    assert records.read_claim(str(job)) == records.NOBODY
    assert not (job / ORDERS).exists()
    assert not (job / STDIN).exists()


def test_a_cancel_that_the_engine_was_asked_for_is_one(job: Path) -> None:
    seen = look(job, attrs.evolve(ENDED, state="CANCELLED", cancelled=True))
    assert seen.ended is not None
    assert seen.ended.stopped == "cancelled"


def test_whoever_rules_it_out_knows_that_a_stop_was_asked_for(job: Path) -> None:
    """A canceller may die, or be overtaken, between its claim and its records."""
    stopping.request_stop(str(job), "cancelled", "test")
    assert records.take_claim(str(job), records.NOBODY)
    seen = look(job, QUEUED)
    assert seen.ended is not None
    assert seen.ended.stopped == "cancelled"
    assert not request_end(str(job), "deadline", "late", engine="slurm") or look(job, QUEUED).ended == seen.ended


def test_a_job_that_was_claimed_is_asked_to_end_and_not_ruled_out(job: Path) -> None:
    spawned(job)
    assert not request_end(str(job), "cancelled", "test", engine="slurm")
    assert look(job, RUNNING).stop_requested == "cancelled"
    assert look(job, RUNNING).phase is JobPhase.RUNNING


@pytest.mark.parametrize("shown", ["no request", "a request not yet carried out"])
def test_an_end_that_is_seen_before_the_last_word_on_its_stop_tells_of_it(job: Path, shown: str) -> None:
    spawned(job)
    if shown != "no request":
        assert not request_end(str(job), "deadline", "test", engine="slurm")
    records.replace(str(job), records.EXIT, {**EXIT, "exit_code": None, "signal": 15, "stopped": "deadline"})
    assert look(job, RUNNING).phase is JobPhase.RUNNING  # whether something of its tree is left the old file knows
    records.replace(str(job), records.STOP, {**STOPPING, "why": "deadline", "gone": True, "survivors": "7"})
    ended = look(job, RUNNING).ended
    assert ended is not None
    assert (ended.stopped, ended.survivors) == ("deadline", (7,))


@pytest.mark.parametrize("stopped", [None, "whim", ["deadline"], 1])
def test_an_end_that_tells_of_no_stop_was_none(job: Path, stopped: object) -> None:
    spawned(job)
    records.replace(str(job), records.EXIT, EXIT | ({} if stopped is None else {"stopped": stopped}))
    ended = look(job, RUNNING).ended
    assert ended is not None
    assert ended.stopped is None


def test_an_engine_that_has_lost_sight_of_a_living_job_is_not_believed(job: Path) -> None:
    spawned(job, beat_seconds_ago=SILENT_SECONDS - 5)
    assert [look(job, report).phase for report in REPORTS] == [JobPhase.RUNNING] * len(REPORTS)


@pytest.mark.parametrize("report", [ENDED, ABSENT])
def test_a_dead_node_leaves_an_unknown_end(job: Path, report: JobReport) -> None:
    spawned(job, beat_seconds_ago=SILENT_SECONDS + 5)
    assert look(job, UNASKED).phase is JobPhase.RUNNING
    seen = look(job, report)
    assert seen.ended is not None
    assert not seen.ended.exit.known
    assert seen.ended.remark is not None
    assert seen.ended.remark.startswith("slurm: ")


@pytest.mark.parametrize(("code", "expected"), [(7, 7), (0, 0), (125, None), (137, None), (None, None)])
def test_the_engines_exit_code_counts_where_the_record_is_missing(
    job: Path, code: int | None, expected: int | None
) -> None:
    spawned(job, beat_seconds_ago=SILENT_SECONDS + 5)
    seen = look(job, ENDED, collect=lambda _: attrs.evolve(ENDED, state="COMPLETED", exit_code=code))
    assert seen.ended is not None
    assert (seen.ended.exit.exit_code, seen.ended.exit.signal) == (expected, None)


def test_a_time_limit_of_the_engine_is_a_deadline(job: Path) -> None:
    spawned(job, beat_seconds_ago=SILENT_SECONDS + 5)
    seen = look(job, attrs.evolve(ENDED, state="TIMEOUT", overdue=True))
    assert seen.ended is not None
    assert seen.ended.stopped == "deadline"


def test_who_is_first_wins(job: Path) -> None:
    spawned(job, beat_seconds_ago=SILENT_SECONDS + 5)

    def late(_: str) -> JobReport:
        records.replace(str(job), records.EXIT, dict(EXIT))  # it was there all the time, and becomes visible now
        return ENDED

    seen = look(job, ENDED, collect=late)
    assert seen.ended is not None
    assert seen.ended.exit.exit_code == 3


def test_a_directory_that_cannot_be_seen_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "away", ABSENT)
