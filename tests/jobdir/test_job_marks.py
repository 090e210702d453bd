"""What a process cannot easily shed: the tag of its job, and the registration of a keeper."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

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


def claim_of(pid: int, start: int = 7, boot: str = "boot", namespace: str = "ns") -> str:
    return f"keeper.{pid}.{start}.{boot}.{namespace}"


def test_a_keeper_is_known_by_its_registration(tmp_path: Path) -> None:
    words = [b"python", b"-I", b"-S", b"/x/keeper/entry.py", os.fsencode(tmp_path), b""]
    assert not job_marks.is_registered(words, claim_of(41))
    job_marks.register(str(tmp_path), claim_of(41))
    job_marks.register(str(tmp_path), claim_of(41))
    assert job_marks.is_registered(words, claim_of(41))
    assert not job_marks.is_registered(words, claim_of(41, 8))
    assert not job_marks.is_registered(words, claim_of(42))
    assert not job_marks.is_registered(words, claim_of(41, boot="other"))
    assert not job_marks.is_registered(words[:-2], claim_of(41))
    job_marks.leave(str(tmp_path), claim_of(41))
    job_marks.leave(str(tmp_path), claim_of(41))
    assert not job_marks.is_registered(words, claim_of(41))


def test_the_keeper_of_one_job_is_known_by_its_claim(tmp_path: Path) -> None:
    (tmp_path / "claim").symlink_to(claim_of(41))
    words = [b"python", b"-I", b"-S", b"/x/keeper.py", b"--job", os.fsencode(tmp_path), b""]
    assert job_marks.is_registered(words, claim_of(41))
    assert not job_marks.is_registered(words, claim_of(40))


@pytest.mark.parametrize("word", [b"/nowhere", b"/dev/null", b"relative", b"", b"/" + b"x" * 5000])
def test_a_command_line_that_leads_nowhere(word: bytes) -> None:
    assert not job_marks.is_registered([b"python", word], claim_of(41))


def test_registrations_of_keepers_that_are_gone_are_taken_back(tmp_path: Path) -> None:
    claims = [claim_of(1), claim_of(2), claim_of(2, boot="older"), claim_of(2, namespace="other"), "rubbish"]
    for claim in claims:
        job_marks.register(str(tmp_path), claim)
    job_marks.sweep(str(tmp_path), "boot", "ns", lambda pid, start: (pid, start) == (1, 7))
    assert sorted(os.listdir(tmp_path / job_marks.KEEPERS)) == sorted([claims[0], claims[3]])
