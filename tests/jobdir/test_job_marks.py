"""The tag of a job, which a process cannot easily shed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from supervisor.jobdir import job_marks
from supervisor.system import processes

JOB = "0123456789abcdef" * 2
linux = pytest.mark.skipif(not hasattr(resource, "RLIMIT_RTTIME"), reason="there is no such limit here")


def limits_of(pid: int) -> bytes:
    return processes.slurp(f"/proc/{pid}/limits")


@linux
def test_a_tag_passes_through_fork_exec_and_an_empty_environment() -> None:
    script = "read line; exec env -i setsid sh -c 'cat /proc/self/limits; :'"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert job_marks.tag_in(limits_of(process.pid)) == 0
        job_marks.put_tag(process.pid, JOB)
        assert job_marks.tag_in(limits_of(process.pid)) == job_marks.tag_of_job(JOB)
        told, _ = process.communicate(b"go\n", 30)
    assert job_marks.tag_in(told) == job_marks.tag_of_job(JOB)
    assert job_marks.tag_of_job(JOB) != job_marks.tag_of_job("f" * 32)


@linux
@pytest.mark.parametrize(
    ("soft", "hard", "gives", "after"),
    [
        ("-1", "-1", True, "-1"),
        (str(job_marks.tag_of_job(JOB)), "-1", True, "-1"),  # we are a process of a job ourselves
        ("5000000", "-1", False, "5000000"),  # set by the caller: it holds for the jobs too
        ("5000000", "5000000", False, "5000000"),
    ],
)
def test_a_tag_stands_only_where_no_limit_was_set(soft: str, hard: str, after: str, *, gives: bool) -> None:
    program = (
        "import resource, sys; from supervisor.jobdir import job_marks;"
        "resource.setrlimit(resource.RLIMIT_RTTIME, (int(sys.argv[1]), int(sys.argv[2])));"
        "print(job_marks.drop_tag(), resource.getrlimit(resource.RLIMIT_RTTIME)[0])"
    )
    told = subprocess.run([sys.executable, "-c", program, soft, hard], capture_output=True, check=True).stdout
    assert told.decode().split() == [str(gives), after]


@pytest.mark.parametrize(
    "text", [b"", b"Max realtime timeout      unlimited unlimited us", b"Max realtime timeout", b"x 1 2"]
)
def test_no_tag(text: bytes) -> None:
    assert job_marks.tag_in(text) == 0


def test_what_is_no_job_has_no_tag() -> None:
    assert job_marks.tag_of_job("no job") == 0
    job_marks.put_tag(os.getpid(), "no job")
    job_marks.put_tag(2**22 - 1, JOB)  # gone
