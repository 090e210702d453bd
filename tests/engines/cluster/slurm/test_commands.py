"""What Slurm's commands are given, and what their answers mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from supervisor.engines.cluster.interface import JobReport, QueueState, Rejected, Submission, Unreachable
from supervisor.engines.cluster.slurm import commands
from supervisor.engines.cluster.slurm.commands import Answer
from supervisor.errors import InvalidArguments

KEY = "0123456789abcdef0123456789abcdef"


def submission(**rest: Any) -> Submission:
    return Submission(key=KEY, directory=f"/shared/{KEY}", command=("python3", "/a b/keeper.py", "--job"), **rest)


def test_a_submission_names_the_job_and_hands_over_nothing_else() -> None:
    command = commands.submit(submission())
    assert f"--job-name=supervisor-{KEY}" in command.argv
    assert "--no-requeue" in command.argv
    assert not any(report.startswith("--time") for report in command.argv)
    assert command.stdin == b"#!/bin/sh\nexec python3 '/a b/keeper.py' --job\n"


@pytest.mark.parametrize(("deadline", "minutes"), [(1, 3), (55, 3), (56, 4), (1800, 33)])
def test_its_time_limit_is_a_safety_net_above_the_deadline(deadline: float, minutes: int) -> None:
    command = commands.submit(submission(deadline_seconds=deadline, grace_seconds=5))
    assert f"--time={minutes}" in command.argv


def test_options_become_those_of_sbatch() -> None:
    given = {
        "partition": "gpu,big",
        "account": "lab",
        "qos": "high",
        "cpus": 4,
        "memory": "16G",
        "gpus": "a100:2",
        "constraint": "[rack1|rack2]&ib",
    }
    command = commands.submit(submission(options=commands.check_options(given)))
    assert command.argv[-7:] == (
        "--partition=gpu,big",
        "--account=lab",
        "--qos=high",
        "--cpus-per-task=4",
        "--mem=16G",
        "--gpus=a100:2",
        "--constraint=[rack1|rack2]&ib",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partition", ""),
        ("partition", "a b"),
        ("partition", "-w n1"),
        ("partition", "a\nb"),
        ("partition", None),
        ("cpus", 0),
        ("cpus", True),
        ("cpus", 1.5),
        ("cpus", math.inf),
        ("memory", "16 G"),
        ("memory", "lots"),
        ("gpus", "two"),
        ("nodelist", "n1"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidArguments, match=name):
        commands.check_options({name: value})


def test_the_environment_of_its_commands_holds_nothing_of_the_job() -> None:
    given = {"PATH": "/bin", "HOME": "/home/anna", "TOKEN": "x", "SLURM_CONF": "/c", "SLURM_JOB_ID": "7"}
    given |= {"SBATCH_PARTITION": "usual", "SQUEUE_FORMAT": "%i"}
    kept = commands.environment(given)
    assert set(kept) == {"PATH", "HOME", "SLURM_CONF", "SBATCH_PARTITION"}


@pytest.mark.parametrize("text", ["slurm-wlm 22.05.8\n", "slurm 23.11.4\n", "slurm 25.05.0-0rc1\n"])
def test_a_version_that_will_do(text: str) -> None:
    commands.check_version(Answer(0, text))


@pytest.mark.parametrize("answer", [Answer(0, "slurm 21.08.8\n"), Answer(0, "hello"), Answer(127)])
def test_a_version_that_will_not(answer: Answer) -> None:
    with pytest.raises(Rejected):
        commands.check_version(answer)


def test_a_version_that_is_not_told_in_time_rules_nothing_out() -> None:
    with pytest.raises(Unreachable, match="no answer in time"):
        commands.check_version(Answer(None))


@pytest.mark.parametrize(("text", "number"), [("17\n", "17"), ("17;cluster\n", "17")])
def test_the_number_of_a_job(text: str, number: str) -> None:
    assert commands.read_submit(Answer(0, text)) == number


@pytest.mark.parametrize(
    "complaint",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"',
        "sbatch: fatal: Could not establish a configuration source",
    ],
)
def test_a_controller_that_did_not_answer_has_refused_nothing(complaint: str) -> None:
    with pytest.raises(Unreachable):
        commands.read_submit(Answer(1, "", complaint))


@pytest.mark.parametrize("answer", [Answer(None), Answer(0, ""), Answer(-15)])
def test_an_answer_that_got_lost_may_have_been_a_yes(answer: Answer) -> None:
    with pytest.raises(Unreachable):
        commands.read_submit(answer)


@pytest.mark.parametrize(
    "complaint",
    [
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    ],
)
def test_a_refusal_is_passed_on(complaint: str) -> None:
    with pytest.raises(Rejected, match="Batch job submission failed"):
        commands.read_submit(Answer(1, "", complaint))


def queue(*lines: str) -> dict[str, JobReport]:
    return commands.read_squeue(Answer(0, "".join(f"{line}\n" for line in lines)))


def test_a_queue_is_read_by_name() -> None:
    reports = queue(
        f"7|PENDING|Resources|supervisor-{KEY}",
        "8|RUNNING|None|somebody's own|job",
        "9|RUNNING|None|supervisor-b",
        "10|CANCELLED by 0|None|supervisor-c",
        "11|TIMEOUT|TimeLimit|supervisor-d",
        "12|NODE_FAIL|None|supervisor-e",
        "garbage",
    )
    assert reports[KEY] == JobReport(queue_state=QueueState.QUEUED, handle="7", reason="Resources", state="PENDING")
    assert {key: report.queue_state for key, report in reports.items() if key != KEY} == {
        "b": QueueState.RUNNING,
        "c": QueueState.ENDED,
        "d": QueueState.ENDED,
        "e": QueueState.ENDED,
    }
    assert [(reports[key].cancelled, reports[key].overdue) for key in "cde"] == [
        (True, False),
        (False, True),
        (False,) * 2,
    ]


def test_of_two_submissions_the_one_that_lives_counts() -> None:
    for lines in (("1|COMPLETED|None|supervisor-a", "2|RUNNING|None|supervisor-a"),) * 2:
        assert queue(*lines)["a"].handle == "2"
        assert queue(*reversed(lines))["a"].handle == "2"


@pytest.mark.parametrize("answer", [Answer(None), Answer(1, "", "slurm_load_jobs error: Unable to contact"), Answer(1)])
def test_a_queue_that_cannot_be_read_is_not_an_empty_one(answer: Answer) -> None:
    with pytest.raises(Unreachable):
        commands.read_squeue(answer)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("JobId=5 JobName=x JobState=FAILED Reason=NonZeroExitCode Requeue=0 ExitCode=7:0", 7),
        ("JobId=5 JobState=COMPLETED ExitCode=0:0", 0),
        ("JobId=5 JobState=FAILED ExitCode=0:9", None),
        ("JobId=5 JobState=NODE_FAIL ExitCode=1:0", None),
        ("JobId=5 JobState=CANCELLED ExitCode=0:15", None),
    ],
)
def test_the_word_about_an_end(text: str, code: int | None) -> None:
    report = commands.read_show(Answer(0, text))
    assert report is not None
    assert (report.queue_state, report.exit_code) == (QueueState.ENDED, code)


def test_there_may_be_no_word_about_an_end() -> None:
    assert commands.read_show(Answer(0, "JobId=5 JobState=RUNNING ExitCode=0:0")) is None
    assert commands.read_show(Answer(1, "", "slurm_load_jobs error: Invalid job id specified")) is None
    with pytest.raises(Unreachable):
        commands.read_show(Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller"))
